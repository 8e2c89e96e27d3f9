//! Ask: the clock, backoff, readiness, context. Readers: the caller's snapshot and rights, no transaction id.
use super::arguments::elements;
use crate::engine::backoff::Backoff;
use crate::engine::state::StepState;
use crate::engine::time::Timestamp;
use crate::pg::error::{Outcome, finish};
use crate::pg::numeric::Percentage;
use crate::pg::rows::{RowsReturned, argument, return_rows};
use crate::pg::time;
use crate::pg::value::{Param, optional, param};
use crate::store::readers::{self, StepStatus, TaskStatus};
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys;
use pgrx::prelude::*;

#[pg_extern(volatile, parallel_safe)]
fn now() -> TimestampWithTimeZone {
    time::to_sql(time::now())
}

#[pg_extern(immutable, parallel_safe, strict)]
fn calculate_backoff(
    attempts: i32,
    base: default!(Interval, "'1 second'"),
    cap: default!(Interval, "'30 seconds'"),
    jitter: default!(f64, "0"),
    task_id: default!(i64, "0"),
    step_id: default!(i32, "0"),
) -> Interval {
    let backoff = Backoff { base: time::span(&base), cap: time::span(&cap), jitter };
    time::interval(backoff.after(attempts, task_id, step_id))
}

/// The columns of get_step_readiness_status, as its declaration and that of the batch form name them.
fn readiness_row(status: &StepStatus, states: &[Param]) -> [Param; 17] {
    let readiness = &status.readiness;
    let step = status.template.step(status.step_id);
    [
        param(status.task_id),
        param(status.step_id),
        param(step.map_or("", |step| step.name.as_str())),
        states[status.state as usize],
        param(readiness.dependencies_satisfied),
        param(readiness.retry_eligible),
        param(readiness.ready_for_execution),
        optional(readiness.last_failure_at),
        optional(readiness.next_retry_at),
        param(readiness.total_parents),
        param(readiness.completed_parents),
        param(status.attempts),
        param(step.map_or(0, |step| step.rule.retry_limit)),
        optional(status.backoff_request_seconds),
        optional(status.last_attempted_at),
        param(readiness.processed),
        param(readiness.in_process),
    ]
}

fn readiness_rows(fcinfo: pg_sys::FunctionCallInfo, statuses: &[StepStatus]) -> RowsReturned {
    let states = StepState::ALL.map(|state| param(state.as_str()));
    return_rows(fcinfo, statuses.iter().map(|status| readiness_row(status, &states)))
}

#[pg_extern(sql = r#"
    CREATE FUNCTION stepwise.get_step_readiness_status(task_id bigint, step_ids integer[] DEFAULT NULL)
    RETURNS TABLE (task_id bigint, step_id integer, name text, current_state text, dependencies_satisfied boolean,
        retry_eligible boolean, ready_for_execution boolean, last_failure_at timestamptz, next_retry_at timestamptz,
        total_parents integer, completed_parents integer, attempts integer, retry_limit integer,
        backoff_request_seconds integer, last_attempted_at timestamptz, processed boolean, in_process boolean)
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn get_step_readiness_status(fcinfo: pg_sys::FunctionCallInfo) -> RowsReturned {
    let task_id: Option<i64> = argument(fcinfo, 0);
    let step_ids: Option<Vec<Option<i32>>> = argument(fcinfo, 1);
    let step_ids: Option<Vec<i32>> = step_ids.map(|ids| ids.into_iter().flatten().collect());
    readiness_rows(fcinfo, &readers::step_statuses(task_id.as_slice(), step_ids.as_deref()))
}

#[pg_extern(sql = r#"
    CREATE FUNCTION stepwise.get_step_readiness_status_batch(task_ids bigint[])
    RETURNS TABLE (task_id bigint, step_id integer, name text, current_state text, dependencies_satisfied boolean,
        retry_eligible boolean, ready_for_execution boolean, last_failure_at timestamptz, next_retry_at timestamptz,
        total_parents integer, completed_parents integer, attempts integer, retry_limit integer,
        backoff_request_seconds integer, last_attempted_at timestamptz, processed boolean, in_process boolean)
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn get_step_readiness_status_batch(fcinfo: pg_sys::FunctionCallInfo) -> RowsReturned {
    readiness_rows(fcinfo, &readers::step_statuses(&known(argument(fcinfo, 0)), None))
}

/// The columns of get_task_execution_context.
pub type ContextRow =
    (i64, String, &'static str, i32, i32, i32, i32, i32, i32, &'static str, &'static str, Percentage, &'static str);

pub fn context_row(status: TaskStatus) -> ContextRow {
    let context = status.context;
    (
        status.task_id,
        status.template.name.clone(),
        status.state.as_str(),
        context.total_steps,
        context.pending_steps,
        context.in_progress_steps,
        context.completed_steps,
        context.failed_steps,
        context.ready_steps,
        context.execution_status,
        context.recommended_action,
        Percentage::from_basis_points(context.completion_basis_points),
        context.health_status,
    )
}

/// The single and the batch form of a reader differ in their arguments alone: one list of columns for both. (pgrx reads
/// the columns from the signature, so they cannot stand in a type alias.)
macro_rules! context_reader {
    ($name:ident, ($($arguments:tt)*), $statuses:expr) => {
        #[pg_extern(stable, parallel_safe)]
        #[allow(clippy::type_complexity)]
        fn $name($($arguments)*) -> TableIterator<
            'static,
            (
                name!(task_id, i64),
                name!(template_name, String),
                name!(status, &'static str),
                name!(total_steps, i32),
                name!(pending_steps, i32),
                name!(in_progress_steps, i32),
                name!(completed_steps, i32),
                name!(failed_steps, i32),
                name!(ready_steps, i32),
                name!(execution_status, &'static str),
                name!(recommended_action, &'static str),
                name!(completion_percentage, Percentage),
                name!(health_status, &'static str),
            ),
        > {
            let statuses: Vec<TaskStatus> = $statuses;
            TableIterator::new(statuses.into_iter().map(context_row))
        }
    };
}

context_reader!(get_task_execution_context, (task_id: Option<i64>), readers::task_statuses(task_id.as_slice()));
context_reader!(
    get_task_execution_contexts_batch,
    (task_ids: Option<Vec<Option<i64>>>),
    readers::task_statuses(&known(task_ids))
);

/// Ids that can exist: NULL names no task.
fn known(task_ids: Option<Vec<Option<i64>>>) -> Vec<i64> {
    task_ids.unwrap_or_default().into_iter().flatten().collect()
}

#[pg_extern(stable, parallel_safe)]
#[allow(clippy::type_complexity)]
fn get_viable_steps(
    task_id: Option<i64>,
) -> TableIterator<
    'static,
    (
        name!(task_id, i64),
        name!(step_id, i32),
        name!(name, String),
        name!(current_state, &'static str),
        name!(attempts, i32),
        name!(priority, i16),
        name!(visible_at, Option<TimestampWithTimeZone>),
    ),
> {
    TableIterator::new(readers::viable_steps(task_id.as_slice()).into_iter().map(|status| {
        (
            status.task_id,
            status.step_id,
            status.template.step(status.step_id).map_or_else(String::new, |step| step.name.clone()),
            status.state.as_str(),
            status.attempts,
            status.priority,
            status.visible_at.map(time::to_sql),
        )
    }))
}

fn next_visible(queues: Option<Vec<Option<String>>>) -> Outcome<Option<Timestamp>> {
    let queues = queues.map(|queues| elements("queues", queues)).transpose()?;
    Ok(readers::next_visible_at(queues.as_deref()))
}

#[pg_extern(stable, parallel_safe)]
fn next_visible_at(queues: default!(Option<Vec<Option<String>>>, "NULL")) -> Option<TimestampWithTimeZone> {
    finish(next_visible(queues)).map(time::to_sql)
}

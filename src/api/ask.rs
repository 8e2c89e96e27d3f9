//! Ask: the clock, backoff, readiness, context. Readers: the caller's snapshot and rights, no transaction id.
use super::arguments::elements;
use crate::engine::access::Level;
use crate::engine::backoff::Backoff;
use crate::engine::time::Timestamp;
use crate::pg::error::{Outcome, finish};
use crate::pg::numeric::percentage;
use crate::pg::rows::{Rows, RowsReturned, TextRoom, argument, return_rows};
use crate::pg::time;
use crate::pg::value::{optional, param};
use crate::store::access::command;
use crate::store::readers;
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

/// Writes the columns of get_step_readiness_status, as its declaration and that of the batch form name them.
fn readiness_rows(fcinfo: pg_sys::FunctionCallInfo, task_ids: &[i64], step_ids: Option<&[i32]>) -> RowsReturned {
    return_rows(fcinfo, |rows: &mut Rows<17>| {
        let (mut name, mut state) = (TextRoom::new(), TextRoom::new());
        readers::each_step_status(task_ids, step_ids, |status| {
            let (facts, readiness) = (status.facts, status.readiness);
            rows.put([
                param(status.task_id),
                param(status.step_id),
                name.hold(&status.of_template.name),
                state.hold(facts.state.as_str()),
                param(readiness.dependencies_satisfied),
                param(readiness.retry_eligible),
                param(readiness.ready_for_execution),
                optional(readiness.last_failure_at),
                optional(readiness.next_retry_at),
                param(readiness.total_parents),
                param(readiness.completed_parents),
                param(facts.attempts),
                param(status.of_template.rule.retry_limit),
                optional(facts.backoff_request_seconds),
                optional(facts.last_attempted_at),
                param(readiness.processed),
                param(readiness.in_process),
            ]);
        });
    })
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
    readiness_rows(fcinfo, task_id.as_slice(), step_ids.as_deref())
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
    readiness_rows(fcinfo, &known(argument(fcinfo, 0)), None)
}

/// Writes the columns of get_task_execution_context, as its declaration and that of the batch form name them.
pub fn context_rows(fcinfo: pg_sys::FunctionCallInfo, task_ids: &[i64]) -> RowsReturned {
    return_rows(fcinfo, |rows: &mut Rows<13>| {
        let mut texts: [TextRoom; 5] = std::array::from_fn(|_| TextRoom::new());
        let [name, status, execution_status, recommended_action, health_status] = &mut texts;
        for task in readers::task_statuses(task_ids) {
            let context = task.context;
            rows.put([
                param(task.task_id),
                name.hold(&task.template.name),
                status.hold(task.state.as_str()),
                param(context.total_steps),
                param(context.pending_steps),
                param(context.in_progress_steps),
                param(context.completed_steps),
                param(context.failed_steps),
                param(context.ready_steps),
                execution_status.hold(context.execution_status),
                recommended_action.hold(context.recommended_action),
                percentage(context.completion_basis_points),
                health_status.hold(context.health_status),
            ]);
        }
    })
}

#[pg_extern(sql = r#"
    CREATE FUNCTION stepwise.get_task_execution_context(task_id bigint)
    RETURNS TABLE (task_id bigint, template_name text, status text, total_steps integer, pending_steps integer,
        in_progress_steps integer, completed_steps integer, failed_steps integer, ready_steps integer,
        execution_status text, recommended_action text, completion_percentage numeric, health_status text)
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn get_task_execution_context(fcinfo: pg_sys::FunctionCallInfo) -> RowsReturned {
    let task_id: Option<i64> = argument(fcinfo, 0);
    context_rows(fcinfo, task_id.as_slice())
}

#[pg_extern(sql = r#"
    CREATE FUNCTION stepwise.get_task_execution_contexts_batch(task_ids bigint[])
    RETURNS TABLE (task_id bigint, template_name text, status text, total_steps integer, pending_steps integer,
        in_progress_steps integer, completed_steps integer, failed_steps integer, ready_steps integer,
        execution_status text, recommended_action text, completion_percentage numeric, health_status text)
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn get_task_execution_contexts_batch(fcinfo: pg_sys::FunctionCallInfo) -> RowsReturned {
    context_rows(fcinfo, &known(argument(fcinfo, 0)))
}

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
    TableIterator::new(readers::viable_steps(task_id.as_slice()).into_iter().map(|step| {
        (
            step.task_id,
            step.step_id,
            step.name,
            step.state.as_str(),
            step.attempts,
            step.priority,
            step.visible_at.map(time::to_sql),
        )
    }))
}

fn next_visible(queues: Option<Vec<Option<String>>>) -> Outcome<Option<Timestamp>> {
    let queues = queues.map(|queues| elements("queues", queues)).transpose()?;
    Ok(readers::next_visible_at(queues.as_deref()))
}

#[pg_extern(stable, parallel_safe)]
fn next_visible_at(queues: default!(Option<Vec<Option<String>>>, "NULL")) -> Option<TimestampWithTimeZone> {
    finish(command(Level::Any, || next_visible(queues))).map(time::to_sql)
}

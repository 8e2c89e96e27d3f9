//! Ask: the clock, backoff, readiness, context. Readers: the caller's snapshot and rights, no transaction id.
use super::arguments::elements;
use crate::engine::backoff::Backoff;
use crate::engine::time::Timestamp;
use crate::pg::error::{Outcome, finish};
use crate::pg::numeric::Percentage;
use crate::pg::time;
use crate::store::readers::{self, StepStatus, TaskStatus};
use pgrx::datum::{Interval, TimestampWithTimeZone};
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

/// The single and the batch form of a reader differ in their arguments alone: one list of columns for both. (pgrx reads
/// the columns from the signature, so they cannot stand in a type alias.)
macro_rules! readiness_reader {
    ($name:ident, ($($arguments:tt)*), $statuses:expr) => {
        #[pg_extern(stable, parallel_safe)]
        #[allow(clippy::type_complexity)]
        fn $name($($arguments)*) -> TableIterator<
            'static,
            (
                name!(task_id, i64),
                name!(step_id, i32),
                name!(name, String),
                name!(current_state, &'static str),
                name!(dependencies_satisfied, bool),
                name!(retry_eligible, bool),
                name!(ready_for_execution, bool),
                name!(last_failure_at, Option<TimestampWithTimeZone>),
                name!(next_retry_at, Option<TimestampWithTimeZone>),
                name!(total_parents, i32),
                name!(completed_parents, i32),
                name!(attempts, i32),
                name!(retry_limit, i32),
                name!(backoff_request_seconds, Option<i32>),
                name!(last_attempted_at, Option<TimestampWithTimeZone>),
                name!(processed, bool),
                name!(in_process, bool),
            ),
        > {
            let statuses: Vec<StepStatus> = $statuses;
            TableIterator::new(statuses.into_iter().map(|status| {
                let readiness = status.readiness;
                let step = status.template.step(status.step_id);
                (
                    status.task_id,
                    status.step_id,
                    step.map_or_else(String::new, |step| step.name.clone()),
                    status.state.as_str(),
                    readiness.dependencies_satisfied,
                    readiness.retry_eligible,
                    readiness.ready_for_execution,
                    readiness.last_failure_at.map(time::to_sql),
                    readiness.next_retry_at.map(time::to_sql),
                    readiness.total_parents,
                    readiness.completed_parents,
                    status.attempts,
                    step.map_or(0, |step| step.rule.retry_limit),
                    status.backoff_request_seconds,
                    status.last_attempted_at.map(time::to_sql),
                    readiness.processed,
                    readiness.in_process,
                )
            }))
        }
    };
}

readiness_reader!(
    get_step_readiness_status,
    (task_id: Option<i64>, step_ids: default!(Option<Vec<Option<i32>>>, "NULL")),
    {
        let step_ids: Option<Vec<i32>> = step_ids.map(|ids| ids.into_iter().flatten().collect());
        readers::step_statuses(task_id.as_slice(), step_ids.as_deref())
    }
);
readiness_reader!(
    get_step_readiness_status_batch,
    (task_ids: Option<Vec<Option<i64>>>),
    readers::step_statuses(&known(task_ids), None)
);

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
            TableIterator::new(statuses.into_iter().map(|status| {
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
            }))
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

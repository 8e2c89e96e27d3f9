//! Drive: run steps with SQL handlers in the caller's session. No definer: a handler runs with the caller's rights.
use super::arguments::elements;
use crate::drive::inline::{self, Done, Patience};
use crate::pg::error::{ArgumentError, Outcome, finish, required};
use crate::pg::lookup::with_fresh_snapshot;
use crate::pg::numeric::Percentage;
use crate::store::readers::{self, TaskStatus};
use pgrx::prelude::*;

fn run(task_id: Option<i64>, max_seconds: Option<f64>, wait_for_backoff: Option<bool>) -> Outcome<Vec<TaskStatus>> {
    let task_id = required("task_id", task_id)?;
    if max_seconds.is_some_and(|seconds| !(0.0..=1e9).contains(&seconds)) {
        let value = max_seconds.unwrap_or_default().to_string();
        let expected = "a number of seconds from 0 to 1e9, or NULL for no limit";
        return Err(ArgumentError::OutOfRange { name: "max_seconds", value, expected }.into());
    }
    let wait = required("wait_for_backoff", wait_for_backoff)?;
    inline::run_task(task_id, Patience::new(max_seconds, wait))?;
    Ok(inline::as_engine(|| with_fresh_snapshot(|| readers::task_statuses(&[task_id]))))
}

#[pg_extern]
#[allow(clippy::type_complexity)]
fn run_task(
    task_id: Option<i64>,
    max_seconds: default!(Option<f64>, "NULL"),
    wait_for_backoff: default!(Option<bool>, "false"),
) -> TableIterator<
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
    let statuses = finish(run(task_id, max_seconds, wait_for_backoff));
    TableIterator::new(statuses.into_iter().map(super::ask::context_row))
}

fn run_queue(queue: Option<String>, max_steps: Option<i32>) -> Outcome<Done> {
    let most = required("max_steps", max_steps)?;
    let Ok(most @ 1..=100_000) = usize::try_from(most) else {
        let expected = "a number from 1 to 100000";
        return Err(ArgumentError::OutOfRange { name: "max_steps", value: most.to_string(), expected }.into());
    };
    let queues = queue.map(|queue| elements("queue", vec![Some(queue)])).transpose()?;
    Ok(inline::run_steps(queues.as_deref(), most))
}

#[pg_extern]
fn run_steps(
    queue: default!(Option<String>, "NULL"),
    max_steps: default!(Option<i32>, "100"),
) -> TableIterator<'static, (name!(executed, i32), name!(completed, i32), name!(failed, i32))> {
    let Done { executed, completed, failed } = finish(run_queue(queue, max_steps));
    TableIterator::once((executed, completed, failed))
}

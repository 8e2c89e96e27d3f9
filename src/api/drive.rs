//! Drive: run steps with SQL handlers in the caller's session. No definer: a handler runs with the caller's rights.
use super::arguments::elements;
use crate::drive::inline::{self, Done, Patience};
use crate::pg::error::{ArgumentError, Outcome, finish, required};
use crate::pg::lookup::with_fresh_snapshot;
use crate::pg::rows::{RowsReturned, argument};
use pgrx::pg_sys;
use pgrx::prelude::*;

fn run(task_id: Option<i64>, max_seconds: Option<f64>, wait_for_backoff: Option<bool>) -> Outcome<i64> {
    let task_id = required("task_id", task_id)?;
    if let Some(seconds) = max_seconds.filter(|seconds| !(0.0..=1e9).contains(seconds)) {
        let expected = "a number of seconds from 0 to 1e9, or NULL for no limit";
        return Err(ArgumentError::OutOfRange { name: "max_seconds", value: seconds.to_string(), expected }.into());
    }
    let wait = required("wait_for_backoff", wait_for_backoff)?;
    inline::run_task(task_id, Patience::new(max_seconds, wait))?;
    Ok(task_id)
}

#[pg_extern(sql = r#"
    CREATE FUNCTION stepwise.run_task(task_id bigint, max_seconds double precision DEFAULT NULL,
        wait_for_backoff boolean DEFAULT false)
    RETURNS TABLE (task_id bigint, template_name text, status text, total_steps integer, pending_steps integer,
        in_progress_steps integer, completed_steps integer, failed_steps integer, ready_steps integer,
        execution_status text, recommended_action text, completion_percentage numeric, health_status text)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn run_task(fcinfo: pg_sys::FunctionCallInfo) -> RowsReturned {
    let task_id = finish(run(argument(fcinfo, 0), argument(fcinfo, 1), argument(fcinfo, 2)));
    inline::as_engine(|| with_fresh_snapshot(|| super::ask::context_rows(fcinfo, &[task_id])))
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

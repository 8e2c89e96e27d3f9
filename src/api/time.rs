//! Time: signals for steps that wait, and what is due without anybody claiming.
use super::arguments::cause;
use crate::engine::access::Level;
use crate::events;
use crate::pg::board;
use crate::pg::error::{Outcome, finish, required};
use crate::pg::jsonb::Jsonb;
use crate::pg::time;
use crate::store::access::command;
use crate::store::operate::StepRef;
use crate::store::signals;
use crate::store::tick;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

fn signal(
    task_id: Option<i64>,
    step: Option<StepRef>,
    payload: Option<Jsonb>,
    reason: Option<String>,
    actor: Option<String>,
) -> Outcome<&'static str> {
    let (task_id, step) = (required("task_id", task_id)?, required("step", step)?);
    let payload = required("payload", payload)?;
    Ok(signals::signal(task_id, &step, payload, cause(reason, actor)?)?.as_str())
}

#[pg_extern]
fn signal_step(
    task_id: Option<i64>,
    step: Option<String>,
    payload: default!(Option<Jsonb>, "'{}'"),
    reason: default!(Option<String>, "NULL"),
    actor: default!(Option<String>, "NULL"),
) -> &'static str {
    finish(command(Level::Worker, || signal(task_id, step.map(StepRef::Name), payload, reason, actor)))
}

#[pg_extern(name = "signal_step")]
fn signal_step_by_id(
    task_id: Option<i64>,
    step: Option<i32>,
    payload: default!(Option<Jsonb>, "'{}'"),
    reason: default!(Option<String>, "NULL"),
    actor: default!(Option<String>, "NULL"),
) -> &'static str {
    finish(command(Level::Worker, || signal(task_id, step.map(StepRef::Id), payload, reason, actor)))
}

#[pg_extern]
fn wake_queue(queue_id: Option<i64>) {
    if queue_id.is_some() {
        events::announce_ready(queue_id.into_iter());
        board::note_ready();
    }
}

#[pg_extern]
#[allow(clippy::type_complexity)]
fn tick() -> TableIterator<
    'static,
    (
        name!(expired_leases, i32),
        name!(failed_waits, i32),
        name!(ended_tasks, i32),
        name!(ready_queues, i32),
        name!(next_at, Option<TimestampWithTimeZone>),
    ),
> {
    let done = command(Level::Worker, tick::tick);
    let next_at = done.next_at.map(time::to_sql);
    TableIterator::once((done.expired_leases, done.failed_waits, done.ended_tasks, done.ready_queues, next_at))
}

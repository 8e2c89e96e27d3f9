//! Operate: reset, resolve, cancel, retry, backoffs, purge, queues, namespaces. Each that is about a step names it by name
//! or by number, takes a reason and, where it is not the calling role, the actor for the history.
use super::arguments::{self, cause};
use crate::engine::access::Level;
use crate::engine::operate::Action;
use crate::pg::error::{ArgumentError, Outcome, finish, required};
use crate::pg::jsonb::Jsonb;
use crate::pg::time;
use crate::store::access::command;
use crate::store::operate::{self, StepRef};
use crate::store::privacy;
use crate::store::purge;
use crate::store::queues;
use crate::store::scope::Cause;
use pgrx::datum::Interval;
use pgrx::prelude::*;

fn act(
    action: Action,
    task_id: Option<i64>,
    step: Option<StepRef>,
    results: Option<Jsonb>,
    reason: Option<String>,
    actor: Option<String>,
) -> Outcome<&'static str> {
    let (task_id, step) = (required("task_id", task_id)?, required("step", step)?);
    Ok(operate::act(action, task_id, &step, results, cause(reason, actor)?)?.as_str())
}

fn delay(
    task_id: Option<i64>,
    step: Option<StepRef>,
    backoff: Option<Interval>,
    reason: Option<String>,
    actor: Option<String>,
) -> Outcome<&'static str> {
    let (task_id, step) = (required("task_id", task_id)?, required("step", step)?);
    let seconds = arguments::whole_seconds("backoff", &required("backoff", backoff)?)?;
    Ok(operate::set_backoff(task_id, &step, seconds, cause(reason, actor)?)?.as_str())
}

/// Both ways to name the step, of one function: SQL tells them apart by the type of the argument.
macro_rules! by_name_or_id {
    ($name:ident, $by_id:ident, $sql:literal, ($($arguments:tt)*), ($($passed:ident),*), $call:expr) => {
        by_name_or_id!(@one $name, $sql, String, StepRef::Name, ($($arguments)*), ($($passed),*), $call);
        by_name_or_id!(@one $by_id, $sql, i32, StepRef::Id, ($($arguments)*), ($($passed),*), $call);
    };
    (@one $name:ident, $sql:literal, $step:ident, $variant:path, ($($arguments:tt)*), ($($passed:ident),*), $call:expr) => {
        #[pg_extern(name = $sql)]
        fn $name(
            task_id: Option<i64>,
            step: Option<$step>,
            $($arguments)*
            reason: default!(Option<String>, "NULL"),
            actor: default!(Option<String>, "NULL"),
        ) -> &'static str {
            finish(command(Level::Operator, || $call(task_id, step.map($variant), $($passed,)* reason, actor)))
        }
    };
}

fn reset(
    task_id: Option<i64>,
    step: Option<StepRef>,
    why: Option<String>,
    who: Option<String>,
) -> Outcome<&'static str> {
    act(Action::Reset, task_id, step, None, why, who)
}

fn cancel(
    task_id: Option<i64>,
    step: Option<StepRef>,
    why: Option<String>,
    who: Option<String>,
) -> Outcome<&'static str> {
    act(Action::Cancel, task_id, step, None, why, who)
}

fn resolve(
    task_id: Option<i64>,
    step: Option<StepRef>,
    results: Option<Jsonb>,
    why: Option<String>,
    who: Option<String>,
) -> Outcome<&'static str> {
    act(Action::Resolve, task_id, step, results, why, who)
}

by_name_or_id!(reset_step, reset_step_by_id, "reset_step", (), (), reset);
by_name_or_id!(
    resolve_step,
    resolve_step_by_id,
    "resolve_step",
    (results: default!(Option<Jsonb>, "NULL"),),
    (results),
    resolve
);
by_name_or_id!(cancel_step, cancel_step_by_id, "cancel_step", (), (), cancel);
by_name_or_id!(set_backoff, set_backoff_by_id, "set_backoff", (backoff: Option<Interval>,), (backoff), delay);

fn on_task(
    change: fn(i64, Cause) -> Result<i32, crate::store::error::StoreError>,
    task_id: Option<i64>,
    reason: Option<String>,
    actor: Option<String>,
) -> Outcome<i32> {
    let (task_id, cause) = (required("task_id", task_id)?, cause(reason, actor)?);
    Ok(command(Level::Operator, || change(task_id, cause))?)
}

#[pg_extern]
fn cancel_task(
    task_id: Option<i64>,
    reason: default!(Option<String>, "NULL"),
    actor: default!(Option<String>, "NULL"),
) -> i32 {
    finish(on_task(operate::cancel_task, task_id, reason, actor))
}

#[pg_extern]
fn retry_task(
    task_id: Option<i64>,
    reason: default!(Option<String>, "NULL"),
    actor: default!(Option<String>, "NULL"),
) -> i32 {
    finish(on_task(operate::retry_task, task_id, reason, actor))
}

#[pg_extern]
fn release_backoff(
    task_id: Option<i64>,
    reason: default!(Option<String>, "NULL"),
    actor: default!(Option<String>, "NULL"),
) -> i32 {
    finish(on_task(operate::release_backoff, task_id, reason, actor))
}

/// States in which a task has ended; one in error may come back, so it goes only where it is named.
const ENDED: [&str; 4] = ["complete", "cancelled", "resolved_manually", "error"];

fn remove(older_than: Option<Interval>, max_tasks: Option<i32>, states: Option<Vec<Option<String>>>) -> Outcome<i32> {
    let older_than = time::span(&required("older_than", older_than)?);
    let max_tasks = required("max_tasks", max_tasks)?;
    let states = arguments::elements("states", required("states", states)?)?;
    if older_than.0 < 0 {
        let value = format!("{} microseconds", older_than.0);
        let expected = "an interval that is not negative";
        return Err(ArgumentError::OutOfRange { name: "older_than", value, expected }.into());
    }
    if !(1..=100_000).contains(&max_tasks) {
        let expected = "a number from 1 to 100000";
        return Err(ArgumentError::OutOfRange { name: "max_tasks", value: max_tasks.to_string(), expected }.into());
    }
    let mut ended = Vec::with_capacity(states.len());
    for state in states {
        let expected = "complete, cancelled, resolved_manually or error";
        let known = ENDED.iter().find(|known| **known == state);
        ended.push(*known.ok_or(ArgumentError::OutOfRange { name: "states", value: state, expected })?);
    }
    Ok(purge::purge(older_than, max_tasks, &ended))
}

#[pg_extern]
fn purge_tasks(
    older_than: Option<Interval>,
    max_tasks: default!(Option<i32>, "1000"),
    states: default!(Option<Vec<Option<String>>>, "'{complete,cancelled,resolved_manually}'"),
) -> i32 {
    finish(command(Level::Operator, || remove(older_than, max_tasks, states)))
}

fn pause(queue: Option<String>, paused: bool) -> Outcome<bool> {
    let queue = required("queue", queue)?;
    Ok(command(Level::Operator, || queues::set_paused(&queue, paused))?)
}

#[pg_extern]
fn pause_queue(queue: Option<String>) -> bool {
    finish(pause(queue, true))
}

#[pg_extern]
fn resume_queue(queue: Option<String>) -> bool {
    finish(pause(queue, false))
}

fn limit(queue: Option<String>, max_in_flight: Option<i32>) -> Outcome<()> {
    let (queue, most) = (required("queue", queue)?, required("max_in_flight", max_in_flight)?);
    if !(0..=1000).contains(&most) {
        let expected = "a number from 0 to 1000; 0 is no limit";
        return Err(ArgumentError::OutOfRange { name: "max_in_flight", value: most.to_string(), expected }.into());
    }
    Ok(command(Level::Operator, || queues::set_limit(&queue, most))?)
}

#[pg_extern]
fn set_queue_limit(queue: Option<String>, max_in_flight: Option<i32>) {
    finish(limit(queue, max_in_flight))
}

fn hide(namespace: Option<String>, private: Option<bool>) -> Outcome<bool> {
    let (namespace, private) = (required("namespace", namespace)?, required("private", private)?);
    Ok(command(Level::Operator, || privacy::set_private(&namespace, private))?)
}

#[pg_extern]
fn set_namespace_private(namespace: Option<String>, private: default!(Option<bool>, "true")) -> bool {
    finish(hide(namespace, private))
}

//! `tasks` BEFORE UPDATE, for each row: refuses an illegal transition, and finalizes the task when nothing of it can
//! make progress any more.
use crate::engine::outcome::{self, TaskRow};
use crate::engine::state::TaskState;
use crate::pg::error::{Outcome, finish};
use crate::pg::planted::{Bug, planted};
use crate::pg::time;
use crate::pg::trigger::{RowUpdate, SlotRow, TriggerRow};
use crate::store::columns::tasks as column;
use crate::store::error::StoreError;
use crate::store::scope;
use pgrx::pg_sys;
use pgrx::prelude::*;

fn read(row: &SlotRow) -> TaskRow {
    TaskRow {
        state: TaskState::parse(row.text(column::STATE)).unwrap_or(TaskState::Pending),
        total: row.want(column::TOTAL_STEPS),
        live: row.want(column::LIVE_STEPS),
        completed: row.want(column::COMPLETED_STEPS),
        failed: row.want(column::FAILED_STEPS),
        cancelled: row.want(column::CANCELLED_STEPS),
        timed_out: row.want(column::TIMED_OUT),
        deadline: row.get(column::DEADLINE),
        started_at: row.get(column::STARTED_AT),
        finished_at: row.get(column::FINISHED_AT),
    }
}

/// Counters and keys are the engine's.
fn protect(update: &RowUpdate, old: &TaskRow, asked: &TaskRow) -> Result<(), StoreError> {
    let (before, after) = (update.old(), update.asked());
    let task_id = before.want::<i64>(column::TASK_ID);
    let kept = [
        ("task_id", task_id == after.want::<i64>(column::TASK_ID)),
        ("template_id", before.want::<i64>(column::TEMPLATE_ID) == after.want::<i64>(column::TEMPLATE_ID)),
        ("live_steps", old.live == asked.live),
        ("total_steps", old.total == asked.total),
        ("completed_steps", old.completed == asked.completed),
        ("failed_steps", old.failed == asked.failed),
        ("cancelled_steps", old.cancelled == asked.cancelled),
        ("timed_out", old.timed_out == asked.timed_out),
        ("started_at", old.started_at == asked.started_at),
        ("finished_at", old.finished_at == asked.finished_at),
        // Its steps have the same.
        ("priority", before.want::<i16>(column::PRIORITY) == after.want::<i16>(column::PRIORITY)),
        // Another task may have it, and places under limits are taken by it.
        ("identity_key", before.get::<String>(column::IDENTITY_KEY) == after.get::<String>(column::IDENTITY_KEY)),
        (
            "concurrency_key",
            before.get::<String>(column::CONCURRENCY_KEY) == after.get::<String>(column::CONCURRENCY_KEY),
        ),
        // As whom the background runs its handlers.
        ("created_by", before.get::<String>(column::CREATED_BY) == after.get::<String>(column::CREATED_BY)),
        // Spans of the steps that were handed out refer to it.
        ("traceparent", before.get::<String>(column::TRACEPARENT) == after.get::<String>(column::TRACEPARENT)),
    ];
    match kept.into_iter().find(|(_, same)| !same) {
        Some((name, _)) => Err(StoreError::ProtectedTaskColumn { column: name, task_id }),
        None => Ok(()),
    }
}

fn settled(update: &RowUpdate) -> Outcome<Option<(TaskRow, TaskRow)>> {
    if TaskState::parse(update.asked().text(column::STATE)).is_none() {
        // Fails the table's CHECK, after this trigger.
        return Ok(None);
    }
    let (old, asked) = (read(&update.old()), read(&update.asked()));
    if !scope::active() {
        protect(update, &old, &asked)?;
    }
    Ok(Some((asked, outcome::settle(&old, &asked, time::now())?)))
}

#[pg_extern]
fn tasks_before_update(fcinfo: pg_sys::FunctionCallInfo) -> TriggerRow {
    let mut update = RowUpdate::new(fcinfo);
    if let Some((asked, mut new)) = finish(settled(&update)) {
        if planted(Bug::EndMissed) && asked.cancelled > 0 && !asked.state.is_terminal() {
            (new.state, new.finished_at, new.deadline) = (asked.state, asked.finished_at, asked.deadline);
        }
        if asked.state != new.state {
            update.set(column::STATE, Some(new.state.as_str()));
        }
        update.set_if_changed(column::STARTED_AT, asked.started_at, new.started_at);
        update.set_if_changed(column::FINISHED_AT, asked.finished_at, new.finished_at);
        update.set_if_changed(column::DEADLINE, asked.deadline, new.deadline);
        if asked.timed_out != new.timed_out {
            update.set(column::TIMED_OUT, Some(new.timed_out));
        }
    }
    update.finish()
}

//! `tasks` AFTER UPDATE, for each statement: history of the tasks whose state changed; a task that was ended by hand
//! ends its open steps too.
use crate::engine::outcome;
use crate::engine::state::TaskState;
use crate::engine::time::Timestamp;
use crate::pg::time;
use crate::pg::trigger::{SlotRow, TriggerRow, each_updated_row};
use crate::store::columns::tasks as column;
use crate::store::history::{self, TaskChange};
use crate::store::propagate;
use crate::store::scope;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// The time that the row trigger stamped for this change, if it did.
fn stamp(old: &SlotRow, new: &SlotRow, to: TaskState) -> Option<Timestamp> {
    match to {
        TaskState::Pending => None,
        TaskState::InProgress => {
            new.get(column::STARTED_AT).filter(|_| old.get::<Timestamp>(column::STARTED_AT).is_none())
        }
        TaskState::Complete | TaskState::Error | TaskState::Cancelled | TaskState::ResolvedManually => {
            new.get(column::FINISHED_AT)
        }
    }
}

#[pg_extern]
fn tasks_after_update(fcinfo: pg_sys::FunctionCallInfo) -> TriggerRow {
    let now = time::now();
    let mut changes = Vec::new();
    let mut ended_open = Vec::new();
    each_updated_row(fcinfo, |old, new| {
        let state = |row: &SlotRow| TaskState::parse(row.text(column::STATE)).unwrap_or(TaskState::Pending);
        let (from, to) = (state(old), state(new));
        if from == to {
            return;
        }
        let task_id = new.want(column::TASK_ID);
        let template_id = new.want(column::TEMPLATE_ID);
        let at = stamp(old, new, to).unwrap_or(now);
        let mut record = |from, to| {
            let traceparent = new.get(column::TRACEPARENT);
            changes.push(TaskChange { task_id, template_id, from: Some(from), to, at, traceparent });
        };
        match outcome::passes_through(from, to) {
            Some(between) => {
                record(from, between);
                record(between, to);
            }
            None => record(from, to),
        }
        let ended = matches!(to, TaskState::Cancelled | TaskState::ResolvedManually);
        let settled: i32 = new.want::<i32>(column::COMPLETED_STEPS) + new.want::<i32>(column::CANCELLED_STEPS);
        if ended && settled < new.want(column::TOTAL_STEPS) {
            ended_open.push(task_id);
        }
    });
    if !changes.is_empty() {
        scope::as_engine(|| {
            history::record_task_changes(&changes);
            if !ended_open.is_empty() {
                propagate::cancel_open_steps(&ended_open);
            }
        });
    }
    TriggerRow::none()
}

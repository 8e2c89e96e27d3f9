//! `steps` BEFORE UPDATE OF state, for each row: refuses an illegal transition, stamps what the new state implies.
use crate::engine::receipt;
use crate::engine::state::StepState;
use crate::engine::transition::{self, StepKey, StepRow};
use crate::pg::error::finish;
use crate::pg::planted::{Bug, planted};
use crate::pg::random;
use crate::pg::time;
use crate::pg::trigger::{RowUpdate, SlotRow, TriggerRow};
use crate::store::columns::steps as column;
use crate::store::error::StoreError;
use crate::store::{graph_cache, scope};
use pgrx::pg_sys;
use pgrx::prelude::*;

pub(super) fn read(row: &SlotRow) -> StepRow {
    StepRow {
        // A text that is no state fails the table's CHECK, after this trigger.
        state: StepState::parse(row.text(column::STATE)).unwrap_or(StepState::Pending),
        attempts: row.want(column::ATTEMPTS),
        remaining_parents: row.want(column::REMAINING_PARENTS),
        visible_at: row.get(column::VISIBLE_AT),
        claim_token: row.get(column::CLAIM_TOKEN),
        backoff_request_seconds: row.get(column::BACKOFF_REQUEST_SECONDS),
        retryable: row.get(column::RETRYABLE),
        last_attempted_at: row.get(column::LAST_ATTEMPTED_AT),
        last_failure_at: row.get(column::LAST_FAILURE_AT),
        finished_at: row.get(column::FINISHED_AT),
    }
}

/// Columns that a client never writes, and whether an UPDATE has left each as it was. Asked here where the state changes,
/// before the engine has stamped them, and by [`super::steps_after`] where it stays.
pub(super) fn kept(old: &StepRow, asked: &StepRow) -> [(&'static str, bool); 5] {
    [
        ("attempts", old.attempts == asked.attempts),
        ("claim_token", old.claim_token == asked.claim_token),
        ("last_attempted_at", old.last_attempted_at == asked.last_attempted_at),
        ("last_failure_at", old.last_failure_at == asked.last_failure_at),
        ("finished_at", old.finished_at == asked.finished_at),
    ]
}

/// Refuses the first column that is not as it was.
pub(super) fn protect(old: &SlotRow, kept: impl IntoIterator<Item = (&'static str, bool)>) -> Result<(), StoreError> {
    match kept.into_iter().find(|(_, same)| !same) {
        Some((column, _)) => Err(StoreError::ProtectedColumn {
            column,
            task_id: old.want(column::TASK_ID),
            step_id: old.want(column::STEP_ID),
        }),
        None => Ok(()),
    }
}

#[pg_extern]
fn steps_before_update(fcinfo: pg_sys::FunctionCallInfo) -> TriggerRow {
    let mut update = RowUpdate::new(fcinfo);
    let row = update.asked();
    if StepState::parse(row.text(column::STATE)).is_none() {
        return update.finish();
    }
    let (old, asked) = (read(&update.old()), read(&row));
    if old.state == asked.state {
        return update.finish();
    }
    if !scope::active() {
        finish(protect(&update.old(), kept(&old, &asked)).map_err(Into::into));
    }
    let key = StepKey { task_id: row.want(column::TASK_ID), step_id: row.want(column::STEP_ID) };
    let template = graph_cache::template_of_row(row.want(column::TEMPLATE_ID));
    let Some(step) = template.step(key.step_id) else { return update.finish() };
    let fresh_token = || receipt::token(random::word());
    let mut rule = step.rule;
    if planted(Bug::BackoffDoubled) {
        rule.backoff.base.0 *= 2;
    }
    let new = transition::apply(&old, &asked, &rule, key, time::now(), fresh_token);
    let mut new = finish(new.map_err(Into::into));
    if planted(Bug::ReleaseCounted) && (old.state, new.state) == (StepState::InProgress, StepState::Pending) {
        new.attempts = old.attempts;
    }
    update.set_if_changed(column::ATTEMPTS, Some(asked.attempts), Some(new.attempts));
    update.set_if_changed(column::VISIBLE_AT, asked.visible_at, new.visible_at);
    update.set_if_changed(column::CLAIM_TOKEN, asked.claim_token, new.claim_token);
    update.set_if_changed(column::BACKOFF_REQUEST_SECONDS, asked.backoff_request_seconds, new.backoff_request_seconds);
    update.set_if_changed(column::RETRYABLE, asked.retryable, new.retryable);
    update.set_if_changed(column::LAST_ATTEMPTED_AT, asked.last_attempted_at, new.last_attempted_at);
    update.set_if_changed(column::LAST_FAILURE_AT, asked.last_failure_at, new.last_failure_at);
    if old.state == StepState::InProgress {
        // Its places under limits go back.
        update.set_if_changed(column::LIMITED, row.get::<bool>(column::LIMITED), None);
    }
    update.set_if_changed(column::FINISHED_AT, asked.finished_at, new.finished_at);
    update.finish()
}

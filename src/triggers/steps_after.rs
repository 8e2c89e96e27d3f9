//! `steps` AFTER UPDATE, for each statement: hands every row whose state or visibility changed to the propagation.
use super::steps_before;
use crate::engine::rule::StepKind;
use crate::engine::state::StepState;
use crate::engine::time::Timestamp;
use crate::engine::transition::{claimable_since, failed_for_good};
use crate::pg::error::{Outcome, finish};
use crate::pg::jsonb::Jsonb;
use crate::pg::time;
use crate::pg::trigger::{SlotRow, TriggerRow, each_updated_row};
use crate::store::columns::steps as column;
use crate::store::error::StoreError;
use crate::store::scope::{self, StepChange};
use crate::store::{graph_cache, propagate, unreported};
use pgrx::pg_sys;
use pgrx::prelude::*;

/// What only the engine changes. What is said about the next attempt comes with a change of state; while that stays, the
/// task's counters would not follow. Visibility belongs to it too, but for a delay of what may be claimed, and the end of
/// a lease. Attempts and times are asked by the row trigger where the state is part of the UPDATE.
fn protect(old: &SlotRow, new: &SlotRow, from: StepState, to: StepState) -> Result<(), StoreError> {
    let (was, is) = (steps_before::read(old), steps_before::read(new));
    let same_id = |column| old.want::<i64>(column) == new.want::<i64>(column);
    let limited = [old, new].map(|row| row.get::<bool>(column::LIMITED));
    let [was_signalled, is_signalled] = [old, new].map(|row| row.get::<Jsonb>(column::SIGNAL).map(Jsonb::to_bytes));
    let has_results = matches!(to, StepState::Complete | StepState::ResolvedManually);
    let always = [
        ("task_id", same_id(column::TASK_ID)),
        ("step_id", old.want::<i32>(column::STEP_ID) == new.want::<i32>(column::STEP_ID)),
        ("template_id", same_id(column::TEMPLATE_ID)),
        ("queue_id", same_id(column::QUEUE_ID)),
        ("priority", old.want::<i16>(column::PRIORITY) == new.want::<i16>(column::PRIORITY)),
        ("remaining_parents", was.remaining_parents == is.remaining_parents),
        ("results", has_results || new.get::<Jsonb>(column::RESULTS).is_none()),
    ];
    let while_it_stays = [
        (
            "visible_at",
            was.visible_at.is_some() == is.visible_at.is_some()
                && (from != StepState::Error || was.visible_at == is.visible_at),
        ),
        ("backoff_request_seconds", was.backoff_request_seconds == is.backoff_request_seconds),
        ("retryable", was.retryable == is.retryable),
        // The trigger of a queue that gets a limit gives places to the steps that are held.
        ("limited", limited[0] == limited[1] || to == StepState::InProgress && limited[1] == Some(true)),
        ("signal", was_signalled == is_signalled),
    ];
    let while_it_stays = while_it_stays.into_iter().chain(steps_before::kept(&was, &is)).filter(|_| from == to);
    steps_before::protect(old, always.into_iter().chain(while_it_stays))
}

/// Whether the row is a step that failed for good.
fn failed(row: &SlotRow, state: StepState) -> bool {
    if state != StepState::Error {
        return false;
    }
    let template = graph_cache::template_of_row(row.want(column::TEMPLATE_ID));
    template
        .step(row.want(column::STEP_ID))
        .is_some_and(|step| failed_for_good(state, row.want(column::ATTEMPTS), row.get(column::RETRYABLE), &step.rule))
}

/// The time that the row trigger stamped for this change: history says the same as the row.
fn stamp(new: &SlotRow, to: StepState) -> Option<Timestamp> {
    new.get(match to {
        StepState::Pending => return None,
        StepState::InProgress => column::LAST_ATTEMPTED_AT,
        StepState::Error => column::LAST_FAILURE_AT,
        StepState::Complete | StepState::Cancelled | StepState::ResolvedManually | StepState::Skipped => {
            column::FINISHED_AT
        }
    })
}

/// Since when a step that is claimed could be: not for a wait, which its signal takes before its time. At the end of a
/// lease: since when it can be claimed again.
fn ready_at(old: &SlotRow, from: StepState, to: StepState, at: Timestamp) -> Option<Timestamp> {
    let since = match (from, to) {
        (StepState::Pending | StepState::Error, StepState::InProgress) => claimable_since(&steps_before::read(old)),
        (StepState::InProgress, StepState::Error) if scope::is_expiring() => old.get(column::VISIBLE_AT),
        _ => None,
    };
    since.filter(|&since| since.is_finite() && since <= at)
}

/// When the attempt began that ends. A wait has none: its signal takes and completes it at once.
fn claimed_at(old: &SlotRow, from: StepState, to: StepState) -> Option<Timestamp> {
    if from != StepState::InProgress || from == to {
        return None;
    }
    let template = graph_cache::template_of_row(old.want(column::TEMPLATE_ID));
    let is_work = template.step(old.want(column::STEP_ID)).is_some_and(|step| step.rule.kind == StepKind::Work);
    old.get(column::LAST_ATTEMPTED_AT).filter(|_| is_work)
}

fn change(old: &SlotRow, new: &SlotRow, from: StepState, to: StepState, now: Timestamp) -> Option<StepChange> {
    let (was, is) = (old.get::<Timestamp>(column::VISIBLE_AT), new.get::<Timestamp>(column::VISIBLE_AT));
    if from == to && was.is_some() == is.is_some() {
        return None;
    }
    // A release takes an attempt back: history names the attempt that was released.
    let attempt = if to == StepState::Pending { old } else { new }.want(column::ATTEMPTS);
    let at = stamp(new, to).unwrap_or(now);
    Some(StepChange {
        task_id: new.want(column::TASK_ID),
        step_id: new.want(column::STEP_ID),
        template_id: new.want(column::TEMPLATE_ID),
        queue_id: new.want(column::QUEUE_ID),
        from,
        to,
        attempt,
        was_live: was.is_some(),
        is_live: is.is_some(),
        was_failed: failed(old, from),
        is_failed: failed(new, to),
        visible_at: is,
        was_limited: old.get::<bool>(column::LIMITED).unwrap_or(false),
        signalled: new.get::<Jsonb>(column::SIGNAL).is_some(),
        claimable_now: is.is_some_and(|visible_at| visible_at <= now),
        worker: new.get::<String>(column::WORKER),
        error: if to == StepState::Error { new.get::<Jsonb>(column::ERROR).map(Jsonb::to_bytes) } else { None },
        retryable: new.get(column::RETRYABLE),
        backoff_request_seconds: new.get(column::BACKOFF_REQUEST_SECONDS),
        at,
        ready_at: ready_at(old, from, to, at),
        claimed_at: claimed_at(old, from, to),
    })
}

fn changes(fcinfo: pg_sys::FunctionCallInfo) -> Outcome<Vec<StepChange>> {
    let now = time::now();
    let by_engine = scope::active();
    let mut changes = Vec::new();
    let mut refused = None;
    each_updated_row(fcinfo, |old, new| {
        let state = |row: &SlotRow| StepState::parse(row.text(column::STATE)).unwrap_or(StepState::Pending);
        let (from, to) = (state(old), state(new));
        if !by_engine && refused.is_none() {
            refused = protect(old, new, from, to).err();
        }
        changes.extend(change(old, new, from, to, now));
    });
    refused.map_or(Ok(changes), |error| Err(error.into()))
}

#[pg_extern]
fn steps_after_update(fcinfo: pg_sys::FunctionCallInfo) -> TriggerRow {
    let changes = finish(changes(fcinfo));
    if !changes.is_empty() {
        unreported::note(&changes);
        scope::as_engine(|| propagate::propagate(changes));
    }
    TriggerRow::none()
}

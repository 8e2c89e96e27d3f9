//! What a step's row becomes when its state is changed.
//!
//! In: the guards of each change and what the new state implies for attempts, token, times and the queue
//! (`visible_at`). Out: history, counters and dependents, which follow from the change elsewhere.

pub use super::refusal::Refusal;
use super::rule::{StepKind, StepRule};
use super::state::StepState;
use super::time::{Span, Timestamp};

/// The columns of a step that a change of state reads or writes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRow {
    pub state: StepState,
    /// Claims so far, the first included.
    pub attempts: i32,
    /// Parents that neither satisfy nor were skipped.
    pub remaining_parents: i32,
    /// From when the step may be claimed; NULL: by nobody. While it is claimed: the end of the lease.
    pub visible_at: Option<Timestamp>,
    /// The random part of the receipt that may report.
    pub claim_token: Option<i64>,
    /// An explicit backoff, which replaces the exponential one.
    pub backoff_request_seconds: Option<i32>,
    /// What the last failure said about another attempt; NULL: nothing.
    pub retryable: Option<bool>,
    pub last_attempted_at: Option<Timestamp>,
    pub last_failure_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

/// The key of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StepKey {
    pub task_id: i64,
    pub step_id: i32,
}

/// The row to store when `asked` would replace `old`, or why it may not.
///
/// `fresh_token` is called only for a claim that brings no token of its own. A row whose state stays is stored as asked.
#[inline]
pub fn apply(
    old: &StepRow,
    asked: &StepRow,
    rule: &StepRule,
    key: StepKey,
    now: Timestamp,
    fresh_token: impl FnOnce() -> i64,
) -> Result<StepRow, Refusal> {
    if asked.state == old.state {
        return Ok(*asked);
    }
    if !old.state.may_become(asked.state) {
        return Err(Refusal::IllegalStep { from: old.state, to: asked.state });
    }
    match asked.state {
        StepState::InProgress => claim(old, asked, rule, now, fresh_token),
        StepState::Error => Ok(fail(old, asked, rule, key, now)),
        StepState::Pending => Ok(return_to_pending(old, asked, rule, now)),
        StepState::Complete | StepState::Cancelled | StepState::ResolvedManually | StepState::Skipped => {
            Ok(finish(old, asked, now))
        }
    }
}

/// Whether a worker may still be handed the step: its first attempt even where no failure may be followed by another.
#[inline]
pub fn attempt_left(attempts: i32, rule: &StepRule) -> bool {
    attempts < rule.retry_limit && (rule.retryable || attempts <= 0)
}

/// From when a step that is claimed now could have been claimed. A backoff that was asked for counts from the attempt, so
/// it may have been over before the attempt had failed.
#[inline]
pub fn claimable_since(old: &StepRow) -> Option<Timestamp> {
    let asked = old.backoff_request_seconds.filter(|_| old.state == StepState::Error);
    let due = asked.zip(old.last_attempted_at).map(|(seconds, at)| at.plus(Span::from_secs(i64::from(seconds))));
    if due.is_some() && due == old.visible_at { due.max(old.last_failure_at) } else { old.visible_at }
}

/// Whether a step in this state has failed with no way to try again.
#[inline]
pub fn failed_for_good(state: StepState, attempts: i32, retryable: Option<bool>, rule: &StepRule) -> bool {
    state == StepState::Error && !(attempts < rule.retry_limit && rule.retryable && retryable != Some(false))
}

#[inline]
fn claim(
    old: &StepRow,
    asked: &StepRow,
    rule: &StepRule,
    now: Timestamp,
    fresh_token: impl FnOnce() -> i64,
) -> Result<StepRow, Refusal> {
    if old.remaining_parents > 0 {
        return Err(Refusal::ParentsUnsatisfied { from: old.state, remaining: old.remaining_parents });
    }
    // Before the time: a step without attempts has no time either, and "not due" would say too little.
    if old.attempts >= rule.retry_limit {
        return Err(Refusal::AttemptsExhausted {
            from: old.state,
            attempts: old.attempts,
            retry_limit: rule.retry_limit,
        });
    }
    // A wait is taken by its signal, at any time before its timeout.
    if rule.kind != StepKind::Wait && old.visible_at.is_none_or(|at| at > now) {
        return Err(Refusal::NotDue { from: old.state, visible_at: old.visible_at });
    }
    let lease_end = asked.visible_at.filter(|&at| at.is_finite() && at > now && asked.visible_at != old.visible_at);
    let token = asked.claim_token.filter(|_| asked.claim_token != old.claim_token);
    Ok(StepRow {
        attempts: old.attempts.saturating_add(1),
        visible_at: Some(lease_end.unwrap_or_else(|| now.plus(rule.lease()))),
        claim_token: Some(token.unwrap_or_else(fresh_token)),
        backoff_request_seconds: None,
        retryable: None,
        last_attempted_at: Some(now),
        finished_at: None,
        ..*asked
    })
}

#[inline]
fn fail(old: &StepRow, asked: &StepRow, rule: &StepRule, key: StepKey, now: Timestamp) -> StepRow {
    let failed_at = asked.last_failure_at.filter(|_| asked.last_failure_at != old.last_failure_at).unwrap_or(now);
    let waits = asked.remaining_parents > 0;
    // Taken from its worker without another pause: due since the lease was over, not since the attempt began.
    let lost = old.state == StepState::InProgress && asked.claim_token.is_none();
    let lease_end = old.visible_at.filter(|&end| lost && asked.backoff_request_seconds == Some(0) && end <= now);
    let visible_at = if waits || failed_for_good(StepState::Error, asked.attempts, asked.retryable, rule) {
        None
    } else if lease_end.is_some() {
        lease_end
    } else if let Some(seconds) = asked.backoff_request_seconds {
        Some(asked.last_attempted_at.unwrap_or(failed_at).plus(Span::from_secs(i64::from(seconds))))
    } else {
        Some(failed_at.plus(rule.backoff.after(asked.attempts, key.task_id, key.step_id)))
    };
    StepRow {
        visible_at,
        claim_token: asked.claim_token.filter(|_| old.state == StepState::InProgress),
        last_failure_at: Some(failed_at),
        finished_at: None,
        ..*asked
    }
}

/// A release by the worker takes its attempt back; a reset gives all of them back.
#[inline]
fn return_to_pending(old: &StepRow, asked: &StepRow, rule: &StepRule, now: Timestamp) -> StepRow {
    let attempts = if old.state == StepState::InProgress { old.attempts.saturating_sub(1).max(0) } else { 0 };
    // The delay is over; a wait begins anew.
    let rule = StepRule { delay: Span(0), ..*rule };
    let visible_at = if asked.remaining_parents > 0 { None } else { Some(rule.visible_from(now)) };
    StepRow {
        attempts,
        visible_at,
        claim_token: None,
        backoff_request_seconds: None,
        retryable: None,
        finished_at: None,
        ..*asked
    }
}

#[inline]
fn finish(old: &StepRow, asked: &StepRow, now: Timestamp) -> StepRow {
    // A completed step keeps its token, so that the same report again is recognised.
    let claim_token = old.claim_token.filter(|_| asked.state == StepState::Complete);
    StepRow { visible_at: None, claim_token, backoff_request_seconds: None, finished_at: Some(now), ..*asked }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: StepKey = StepKey { task_id: 1, step_id: 1 };
    const NOW: Timestamp = Timestamp(1_000_000_000);
    const ROW: StepRow = StepRow {
        state: StepState::Pending,
        attempts: 0,
        remaining_parents: 0,
        visible_at: Some(NOW),
        claim_token: None,
        backoff_request_seconds: None,
        retryable: None,
        last_attempted_at: None,
        last_failure_at: None,
        finished_at: None,
    };

    fn change(old: &StepRow, asked: &StepRow) -> Result<StepRow, Refusal> {
        apply(old, asked, &StepRule::default(), KEY, NOW, || 77)
    }

    fn to(state: StepState, old: StepRow) -> StepRow {
        change(&old, &StepRow { state, ..old }).unwrap()
    }

    #[test]
    fn a_claim_counts_an_attempt_and_holds_for_the_timeout() {
        let claimed = to(StepState::InProgress, ROW);
        assert_eq!((claimed.attempts, claimed.claim_token), (1, Some(77)));
        assert_eq!(claimed.visible_at, Some(NOW.plus(Span::from_secs(60))));
        assert_eq!(claimed.last_attempted_at, Some(NOW));
    }

    #[test]
    fn a_claim_may_bring_its_own_token_and_lease() {
        let lease_end = Some(NOW.plus(Span(5)));
        let asked = StepRow { state: StepState::InProgress, claim_token: Some(9), visible_at: lease_end, ..ROW };
        let claimed = change(&ROW, &asked).unwrap();
        assert_eq!((claimed.claim_token, claimed.visible_at), (Some(9), lease_end));
    }

    #[test]
    fn a_claim_is_refused_with_its_reason() {
        let claim = |old: StepRow| change(&old, &StepRow { state: StepState::InProgress, ..old }).unwrap_err();
        let from = StepState::Pending;
        let later = Some(Timestamp(NOW.0 + 1));
        let waiting = StepRow { remaining_parents: 2, visible_at: None, ..ROW };
        assert_eq!(claim(waiting), Refusal::ParentsUnsatisfied { from, remaining: 2 });
        assert_eq!(claim(StepRow { visible_at: later, ..ROW }), Refusal::NotDue { from, visible_at: later });
        let spent = StepRow { attempts: 3, visible_at: None, ..ROW };
        assert_eq!(claim(spent), Refusal::AttemptsExhausted { from, attempts: 3, retry_limit: 3 });
        let done = StepRow { state: StepState::Complete, ..ROW };
        assert_eq!(claim(done).to_string(), "step cannot go from complete to in_progress");
    }

    #[test]
    fn a_failure_backs_off_until_no_attempt_is_left() {
        let first = to(StepState::Error, to(StepState::InProgress, ROW));
        assert_eq!(first.visible_at, Some(NOW.plus(Span::from_secs(2))));
        let last = to(StepState::Error, StepRow { state: StepState::InProgress, attempts: 3, ..ROW });
        assert_eq!(last.visible_at, None);
        let hopeless = StepRow { state: StepState::Error, retryable: Some(false), ..ROW };
        assert_eq!(change(&ROW, &hopeless).unwrap().visible_at, None);
    }

    #[test]
    fn an_explicit_backoff_counts_from_the_attempt() {
        let running = StepRow { last_attempted_at: Some(Timestamp(0)), ..to(StepState::InProgress, ROW) };
        let asked = StepRow { state: StepState::Error, backoff_request_seconds: Some(100), ..running };
        assert_eq!(change(&running, &asked).unwrap().visible_at, Some(Timestamp(0).plus(Span::from_secs(100))));
    }

    #[test]
    fn a_lost_lease_is_due_since_its_end() {
        let end = Some(Timestamp(NOW.0 - 60_000_000));
        let running =
            StepRow { visible_at: end, last_attempted_at: Some(Timestamp(0)), ..to(StepState::InProgress, ROW) };
        let asked = StepRow { state: StepState::Error, claim_token: None, backoff_request_seconds: Some(0), ..running };
        let lost = change(&running, &asked).unwrap();
        assert_eq!((lost.visible_at, claimable_since(&lost)), (end, end));
        // A report, a lease that is not over, the last attempt.
        let reported = StepRow { claim_token: running.claim_token, ..asked };
        assert_eq!(change(&running, &reported).unwrap().visible_at, Some(Timestamp(0)));
        let held = StepRow { visible_at: Some(Timestamp(NOW.0 + 1)), ..running };
        let taken = StepRow { visible_at: held.visible_at, ..asked };
        assert_eq!(change(&held, &taken).unwrap().visible_at, Some(Timestamp(0)));
        let last = StepRow { attempts: 3, ..running };
        assert_eq!(change(&last, &StepRow { attempts: 3, ..asked }).unwrap().visible_at, None);
    }

    #[test]
    fn a_failed_step_could_be_claimed_from_the_end_of_what_kept_it() {
        let running = StepRow { last_attempted_at: Some(Timestamp(0)), ..to(StepState::InProgress, ROW) };
        let fail = |old: StepRow, backoff_request_seconds| {
            change(&old, &StepRow { state: StepState::Error, backoff_request_seconds, ..old }).unwrap()
        };
        assert_eq!(claimable_since(&ROW), Some(NOW));
        // An exponential backoff and one that is still to come: its end.
        assert_eq!(claimable_since(&fail(running, None)), Some(NOW.plus(Span::from_secs(2))));
        assert_eq!(claimable_since(&fail(running, Some(5000))), Some(Timestamp(5_000_000_000)));
        // One that was over before the failure: the failure.
        assert_eq!(claimable_since(&fail(running, Some(0))), Some(NOW));
    }

    #[test]
    fn a_completed_step_keeps_its_token_and_no_other_does() {
        let running = to(StepState::InProgress, ROW);
        assert_eq!(to(StepState::Complete, running).claim_token, Some(77));
        assert_eq!(to(StepState::Cancelled, running).claim_token, None);
        assert_eq!(to(StepState::Pending, running).claim_token, None);
    }

    #[test]
    fn a_release_takes_one_attempt_back_and_a_reset_all() {
        let running = StepRow { attempts: 2, ..to(StepState::InProgress, ROW) };
        assert_eq!(to(StepState::Pending, running).attempts, 1);
        let failed = StepRow { state: StepState::Error, attempts: 3, visible_at: None, ..ROW };
        let reset = to(StepState::Pending, failed);
        assert_eq!((reset.attempts, reset.visible_at), (0, Some(NOW)));
    }
}

//! What an operator may do to a step, by its state.
//!
//! In: which states each action is for, and which it finds already done. Out: what follows from the change
//! (`transition`, `cascade`), which is the same whoever makes it.

pub use super::refusal::Refusal;
use super::rule::{StepKind, StepRule};
use super::state::StepState;
use super::time::{Span, Timestamp};
use super::transition::failed_for_good;

/// An operator's action on one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A failed step starts anew, with all of its attempts.
    Reset,
    /// The step counts as done; its dependents go on.
    Resolve,
    /// The step is given up, and the descendants that can no longer run with it.
    Cancel,
}

impl Action {
    /// The state it leads to.
    pub fn target(self) -> StepState {
        match self {
            Action::Reset => StepState::Pending,
            Action::Resolve => StepState::ResolvedManually,
            Action::Cancel => StepState::Cancelled,
        }
    }

    /// Whether the action changes a step in this state (`false`: it is so already), or why it may not.
    pub fn applies(self, from: StepState) -> Result<bool, Refusal> {
        let to = self.target();
        if from == to {
            return Ok(false);
        }
        match (self, from) {
            // The table has in_progress → pending, but only for the worker that holds the step.
            (Action::Reset, StepState::InProgress) => Err(Refusal::NotFailed { from }),
            _ if from.may_become(to) => Ok(true),
            _ => Err(Refusal::IllegalStep { from, to }),
        }
    }
}

/// Whether an explicit backoff may be set on the step, or why not.
pub fn may_back_off(
    state: StepState,
    remaining_parents: i32,
    attempts: i32,
    retryable: Option<bool>,
    rule: &StepRule,
) -> Result<(), Refusal> {
    match state {
        StepState::Pending | StepState::Error if remaining_parents > 0 => {
            Err(Refusal::NoBackoff { from: state, why: "it waits for its parents" })
        }
        StepState::Error if failed_for_good(state, attempts, retryable, rule) => {
            Err(Refusal::NoBackoff { from: state, why: "it has no attempt left" })
        }
        StepState::Pending if rule.kind == StepKind::Wait => {
            Err(Refusal::NoBackoff { from: state, why: "it waits for a signal" })
        }
        StepState::Pending if rule.retry_limit <= 0 => {
            Err(Refusal::NoBackoff { from: state, why: "no worker ever runs it" })
        }
        StepState::Pending | StepState::Error => Ok(()),
        _ => Err(Refusal::NoBackoff { from: state, why: "it does not wait for an attempt" }),
    }
}

/// A backoff of `seconds` from `now`, as it is stored: in seconds from the last attempt, like the wait that a worker asks
/// for, or from the failure of a step that was put into error without an attempt; and when it ends. Of a pending step
/// without an attempt, which has neither, only the end counts.
pub fn back_off(
    state: StepState,
    last_attempted_at: Option<Timestamp>,
    last_failure_at: Option<Timestamp>,
    seconds: i32,
    now: Timestamp,
) -> (i32, Timestamp) {
    let from = last_attempted_at.or(last_failure_at.filter(|_| state == StepState::Error));
    let elapsed = from.map_or(0, |at| now.since(at).0.max(0) / 1_000_000);
    let stored = i32::try_from(elapsed).unwrap_or(i32::MAX).saturating_add(seconds);
    (stored, from.unwrap_or(now).plus(Span::from_secs(i64::from(stored))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backoff_counts_from_what_the_step_has_behind_it() {
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        let of = |state, attempt, failure| back_off(state, attempt, failure, 10, at(100));
        assert_eq!(of(StepState::Error, Some(at(40)), Some(at(50))), (70, at(110)));
        assert_eq!(of(StepState::Error, None, Some(at(50))), (60, at(110)));
        // The failure was that of an attempt before a reset.
        assert_eq!(of(StepState::Pending, None, Some(at(50))), (10, at(110)));
        assert_eq!(back_off(StepState::Error, Some(at(0)), None, i32::MAX, at(100)).0, i32::MAX);
    }

    #[test]
    fn what_is_so_already_stays() {
        for action in [Action::Reset, Action::Resolve, Action::Cancel] {
            assert_eq!(action.applies(action.target()), Ok(false));
        }
    }

    #[test]
    fn only_a_failed_step_is_reset() {
        for from in StepState::ALL {
            assert_eq!(Action::Reset.applies(from) == Ok(true), from == StepState::Error, "{from}");
        }
    }

    #[test]
    fn what_is_over_is_neither_resolved_nor_cancelled() {
        for from in StepState::ALL {
            for action in [Action::Resolve, Action::Cancel] {
                assert_eq!(action.applies(from) == Ok(true), !from.is_terminal(), "{from}");
            }
        }
    }
}

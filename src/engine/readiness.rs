//! Whether a step can run now, and why not.
//!
//! In: the derived columns of a readiness row, from one step's facts. Out: what a set of steps adds up to (`context`).

use super::rule::{StepKind, StepRule};
use super::state::{StepState, TaskState};
use super::time::{Span, Timestamp};
use super::transition::{StepKey, attempt_left, failed_for_good};

/// What is stored about a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepFacts {
    pub state: StepState,
    pub attempts: i32,
    pub remaining_parents: i32,
    pub total_parents: i32,
    pub visible_at: Option<Timestamp>,
    pub backoff_request_seconds: Option<i32>,
    pub retryable: Option<bool>,
    pub last_attempted_at: Option<Timestamp>,
    pub last_failure_at: Option<Timestamp>,
}

/// What around a step keeps it from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings {
    pub task: TaskState,
    pub queue_paused: bool,
}

/// The derived part of a step's readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// No parent, or every parent satisfied or skipped.
    pub dependencies_satisfied: bool,
    /// An attempt is left, it may be made, and no backoff runs any more.
    pub retry_eligible: bool,
    pub ready_for_execution: bool,
    /// The time of the current failure; none unless the step is in error.
    pub last_failure_at: Option<Timestamp>,
    /// When the backoff ends; it may lie in the past. None when no attempt is left.
    pub next_retry_at: Option<Timestamp>,
    pub total_parents: i32,
    pub completed_parents: i32,
    /// Complete, resolved manually or skipped.
    pub processed: bool,
    pub in_process: bool,
    /// In error and cannot be tried again.
    pub exhausted: bool,
}

/// The readiness of one step at `now`.
#[inline]
pub fn evaluate(step: &StepFacts, rule: &StepRule, around: &Surroundings, key: StepKey, now: Timestamp) -> Readiness {
    let in_error = step.state == StepState::Error;
    let exhausted = failed_for_good(step.state, step.attempts, step.retryable, rule);
    let next_retry_at = if exhausted { None } else { backoff_end(step, rule, key) };
    let retry_eligible = attempt_left(step.attempts, rule)
        && (step.attempts <= 0 || step.retryable != Some(false))
        && next_retry_at.is_none_or(|at| at <= now)
        && !exhausted;
    let dependencies_satisfied = step.remaining_parents <= 0;
    // A pending step with a later time and no backoff was asked to start then.
    let delayed = !in_error && step.backoff_request_seconds.is_none() && step.visible_at.is_some_and(|at| at > now);
    let waiting = in_error || step.state == StepState::Pending;
    let task_open = matches!(around.task, TaskState::Pending | TaskState::InProgress);
    Readiness {
        dependencies_satisfied,
        retry_eligible,
        ready_for_execution: waiting
            && rule.kind == StepKind::Work
            && dependencies_satisfied
            && retry_eligible
            && !delayed
            && task_open
            && !around.queue_paused,
        last_failure_at: step.last_failure_at.filter(|_| in_error),
        next_retry_at,
        total_parents: step.total_parents,
        completed_parents: step.total_parents.saturating_sub(step.remaining_parents.max(0)).max(0),
        processed: step.state.settles(),
        in_process: step.state == StepState::InProgress,
        exhausted,
    }
}

/// When the step's backoff ends, if it has one: the explicit one, else after a failure the exponential one.
#[inline]
fn backoff_end(step: &StepFacts, rule: &StepRule, key: StepKey) -> Option<Timestamp> {
    match (step.state, step.backoff_request_seconds) {
        (StepState::Pending | StepState::Error, Some(seconds)) => match step.last_attempted_at {
            Some(at) => Some(at.plus(Span::from_secs(i64::from(seconds)))),
            // Never attempted: it counts from the failure or, of a pending step, from when it was set; then only its
            // end was stored.
            None if step.state == StepState::Error => {
                step.last_failure_at.map(|at| at.plus(Span::from_secs(i64::from(seconds))))
            }
            None => step.visible_at,
        },
        (StepState::Error, None) => {
            step.last_failure_at.map(|at| at.plus(rule.backoff.after(step.attempts, key.task_id, key.step_id)))
        }
        _ => None,
    }
}

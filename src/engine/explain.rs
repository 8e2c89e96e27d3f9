//! Why a step cannot be claimed now, or that it can.
//!
//! In: the reasons, in the order in which they have to go away. Out: whom it would be handed to, and its rank.

use super::readiness::StepFacts;
use super::rule::{StepKind, StepRule};
use super::state::{StepState, TaskState};
use super::time::Timestamp;
use super::transition::attempt_left;

/// One thing that keeps a step from being claimed; or `Claimable`, alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The task has ended.
    TaskEnded {
        state: TaskState,
    },
    /// The step has ended.
    StepEnded {
        state: StepState,
    },
    /// A parent that neither satisfies nor was skipped.
    WaitsForParent {
        step_id: i32,
        state: StepState,
    },
    /// A worker holds it until then.
    Held {
        until: Timestamp,
    },
    /// Its retry limit is 0.
    NeverByWorker,
    NoAttemptLeft {
        attempts: i32,
        retry_limit: i32,
    },
    /// The template, or the last failure, allows no further attempt.
    NotRetryable,
    /// It rests after this attempt.
    Backoff {
        until: Timestamp,
        attempt: i32,
    },
    /// It was asked to start then.
    Delayed {
        until: Timestamp,
    },
    /// It waits for its signal, and fails then.
    WaitsForSignal {
        until: Option<Timestamp>,
    },
    /// The task's deadline is over: the next claim or tick ends it.
    DeadlineOver,
    QueuePaused,
    /// As many steps are in progress as this limit allows.
    LimitReached {
        limit: Limit,
        most: i32,
    },
    /// It is in no queue though nothing else says why: `verify` will say more.
    NotQueued,
    Claimable,
}

/// What may limit how many steps are in progress at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Of one queue: `queues.max_in_flight`.
    Queue,
    /// Of one task: its template's `max_parallel_steps`.
    Task,
    /// Of all tasks of a template with the same concurrency key: `max_per_key`.
    Key,
}

impl Limit {
    pub fn as_str(self) -> &'static str {
        match self {
            Limit::Queue => "queue",
            Limit::Task => "task",
            Limit::Key => "key",
        }
    }
}

/// What around a step decides whether a claim hands it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Around<'a> {
    pub task: TaskState,
    pub queue_paused: bool,
    pub deadline_over: bool,
    /// The limits that are reached, with what they allow.
    pub full: &'a [(Limit, i32)],
}

impl Reason {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::TaskEnded { .. } => "task_ended",
            Self::StepEnded { .. } => "step_ended",
            Self::WaitsForParent { .. } => "waits_for_parent",
            Self::Held { .. } => "held",
            Self::NeverByWorker => "never_by_worker",
            Self::NoAttemptLeft { .. } => "no_attempt_left",
            Self::NotRetryable => "not_retryable",
            Self::Backoff { .. } => "backoff",
            Self::Delayed { .. } => "delayed",
            Self::WaitsForSignal { .. } => "waits_for_signal",
            Self::DeadlineOver => "deadline_over",
            Self::QueuePaused => "queue_paused",
            Self::LimitReached { limit: Limit::Queue, .. } => "queue_full",
            Self::LimitReached { limit: Limit::Task, .. } => "task_full",
            Self::LimitReached { limit: Limit::Key, .. } => "key_full",
            Self::NotQueued => "not_queued",
            Self::Claimable => "claimable",
        }
    }

    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Held { until } | Self::Backoff { until, .. } | Self::Delayed { until } => Some(*until),
            Self::WaitsForSignal { until } => *until,
            _ => None,
        }
    }
}

/// Whether a claim on the step's queue hands it out: what the scan of the queue asks, in words.
pub fn claimable(step: &StepFacts, rule: &StepRule, around: &Around, now: Timestamp) -> bool {
    rule.kind == StepKind::Work
        && !around.queue_paused
        && !around.deadline_over
        && around.full.is_empty()
        && step.visible_at.is_some_and(|at| at <= now)
        && attempt_left(step.attempts, rule)
}

/// The reasons in order; exactly `[Claimable]` where [`claimable`] holds.
pub fn explain(
    step: &StepFacts,
    rule: &StepRule,
    around: &Around,
    parents: &[(i32, StepState)],
    now: Timestamp,
) -> Vec<Reason> {
    if claimable(step, rule, around, now) {
        return vec![Reason::Claimable];
    }
    let mut reasons = Vec::new();
    if !matches!(around.task, TaskState::Pending | TaskState::InProgress) {
        reasons.push(Reason::TaskEnded { state: around.task });
    }
    if step.state.is_terminal() {
        reasons.push(Reason::StepEnded { state: step.state });
        return reasons;
    }
    let waits = parents.iter().filter(|(_, state)| !state.settles());
    reasons.extend(waits.map(|&(step_id, state)| Reason::WaitsForParent { step_id, state }));
    let later = step.visible_at.filter(|&at| at > now && at.is_finite());
    if rule.kind == StepKind::Wait {
        // Its own time is that of its timeout, not of a claim.
        if step.state == StepState::Pending && step.remaining_parents <= 0 {
            reasons.push(Reason::WaitsForSignal { until: step.visible_at.filter(|at| at.is_finite()) });
        }
        if step.state == StepState::Error {
            reasons.push(Reason::NotRetryable);
        }
        if reasons.is_empty() {
            reasons.push(Reason::NotQueued);
        }
        return reasons;
    }
    if rule.retry_limit <= 0 {
        reasons.push(Reason::NeverByWorker);
    } else if step.attempts >= rule.retry_limit && step.state != StepState::InProgress {
        reasons.push(Reason::NoAttemptLeft { attempts: step.attempts, retry_limit: rule.retry_limit });
    } else if step.state == StepState::Error && (step.retryable == Some(false) || !rule.retryable) {
        reasons.push(Reason::NotRetryable);
    }
    match (step.state, later) {
        (StepState::InProgress, Some(until)) => reasons.push(Reason::Held { until }),
        // The lease is over, and the next claim will find that there is no attempt left.
        (StepState::InProgress, None) if step.attempts >= rule.retry_limit => {
            reasons.push(Reason::NoAttemptLeft { attempts: step.attempts, retry_limit: rule.retry_limit });
        }
        (StepState::InProgress, None) if !rule.retryable => reasons.push(Reason::NotRetryable),
        (StepState::Error, Some(until)) => reasons.push(Reason::Backoff { until, attempt: step.attempts }),
        (_, Some(until)) if step.backoff_request_seconds.is_some() => {
            reasons.push(Reason::Backoff { until, attempt: step.attempts });
        }
        (_, Some(until)) => reasons.push(Reason::Delayed { until }),
        // A step that no worker runs has the same time, and its own reason.
        (StepState::Pending, None) if step.visible_at == Some(Timestamp::INFINITY) && rule.retry_limit > 0 => {
            reasons.push(Reason::Delayed { until: Timestamp::INFINITY });
        }
        _ => {}
    }
    if around.deadline_over {
        reasons.push(Reason::DeadlineOver);
    }
    if around.queue_paused {
        reasons.push(Reason::QueuePaused);
    }
    // A step that is held holds its own place.
    if step.state != StepState::InProgress || later.is_none() {
        reasons.extend(around.full.iter().map(|&(limit, most)| Reason::LimitReached { limit, most }));
    }
    if reasons.is_empty() {
        reasons.push(Reason::NotQueued);
    }
    reasons
}

//! Why a change of state is refused.
//!
//! In: the reasons with their message, detail and hint. Out: the rules that refuse (`transition`, `outcome`) and the
//! SQLSTATE, which is the same for all: the object is not in the state that the change needs.

use thiserror::Error;

use super::explain::Limit;
use super::state::{StepState, TaskState};
use super::time::{Timestamp, rfc3339};

/// A change of state that the rules forbid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("step cannot go from {from} to {to}")]
    IllegalStep { from: StepState, to: StepState },
    #[error("step cannot go from {from} to in_progress: its parents are not satisfied")]
    ParentsUnsatisfied { from: StepState, remaining: i32 },
    #[error("step cannot go from {from} to in_progress: it is not due")]
    NotDue { from: StepState, visible_at: Option<Timestamp> },
    #[error("step cannot go from {from} to in_progress: it has no attempt left")]
    AttemptsExhausted { from: StepState, attempts: i32, retry_limit: i32 },
    #[error("step cannot go to in_progress: a limit is reached")]
    LimitReached { task_id: i64, step_id: i32, limit: Limit, most: i32 },
    #[error("step does not wait for a signal")]
    NoWait { kind: &'static str },
    #[error("step cannot be signalled: it is {from}")]
    NoSignal { from: StepState },
    #[error("step cannot be reset: it is {from}")]
    NotFailed { from: StepState },
    #[error("backoff cannot be set: the step is {from}")]
    NoBackoff { from: StepState, why: &'static str },
    #[error("task cannot go from {from} to {to}")]
    IllegalTask { from: TaskState, to: TaskState },
    #[error("task cannot go from {from} to {to}: it has unfinished steps")]
    StepsUnfinished { from: TaskState, to: TaskState, completed: i32, total: i32 },
    #[error("task cannot go from {from} to {to}: its steps do not allow it")]
    StepsLive { from: TaskState, to: TaskState, live: i32 },
}

impl Refusal {
    /// The values behind the message.
    pub fn detail(&self) -> Option<String> {
        Some(match self {
            Self::IllegalStep { from, .. } if from.is_terminal() => format!("The state {from} is final."),
            Self::IllegalTask { from, .. } if from.is_terminal() => format!("The state {from} is final."),
            Self::IllegalStep { .. } | Self::IllegalTask { .. } => return None,
            Self::ParentsUnsatisfied { remaining, .. } => format!("Unsatisfied parents: {remaining}."),
            Self::NotDue { visible_at: Some(at), .. } => format!("It is due at {}.", rfc3339(*at)),
            Self::NotDue { visible_at: None, .. } => "It has no time from which it may be claimed.".to_owned(),
            Self::AttemptsExhausted { attempts, retry_limit, .. } => {
                format!("Attempts: {attempts} of {retry_limit}.")
            }
            Self::LimitReached { task_id, step_id, limit, most } => {
                let what = match limit {
                    Limit::Queue => "its queue",
                    Limit::Task => "its task",
                    Limit::Key => "its concurrency key",
                };
                format!("Step {step_id} of task {task_id}: {most} steps of {what} may be in progress at once.")
            }
            Self::NoWait { kind } => format!("Its kind is {kind}."),
            Self::NoSignal { .. } => return None,
            Self::NotFailed { .. } => "Only a step in error is reset.".to_owned(),
            Self::NoBackoff { why, .. } => format!("The step cannot be delayed: {why}."),
            Self::StepsUnfinished { completed, total, .. } => format!("Finished steps: {completed} of {total}."),
            Self::StepsLive { live, .. } => format!("Steps that can still run: {live}."),
        })
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::ParentsUnsatisfied { .. } => "Complete or resolve its parents first.",
            Self::NotDue { .. } => "Wait, or end the backoff with release_backoff.",
            Self::AttemptsExhausted { .. } => "Reset or resolve the step.",
            Self::LimitReached { .. } => "Wait until one of them ends, or raise the limit.",
            Self::NoWait { .. } => "Only steps defined with \"kind\": \"wait\" are signalled.",
            Self::NoSignal { from: StepState::Error } => {
                "Its time was over. Reset the step, then signal it; or resolve it."
            }
            Self::NoSignal { .. } => "It has ended otherwise.",
            Self::NotFailed { .. } => "Wait for its worker, or for its lease to end.",
            Self::StepsUnfinished { .. } => "Complete, resolve or skip its other steps; the task then follows.",
            Self::StepsLive { to: TaskState::Error, .. } => "A task fails by itself once its steps cannot go on.",
            Self::StepsLive { .. } => "Reset a failed step; the task then follows.",
            Self::IllegalStep { .. } | Self::IllegalTask { .. } | Self::NoBackoff { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

//! The events that a change of state announces, and their NOTIFY payload.
//!
//! In: names and payload. Out: when and whether they are sent, and the stream they are read from.

use serde::Serialize;

use super::state::{StepState, TaskState};
use super::traceparent;

/// Every event of a task and of a step.
pub const TASK_EVENTS: [&str; 9] = [
    "task.initialize_requested",
    "task.start_requested",
    "task.retry_requested",
    "task.finalization_started",
    "task.completed",
    "task.failed",
    "task.cancelled",
    "task.finalization_completed",
    "task.resolved_manually",
];
pub const STEP_EVENTS: [&str; 9] = [
    "step.execution_requested",
    "step.retry_requested",
    "step.completed",
    "step.failed",
    "step.backoff",
    "step.max_retries_reached",
    "step.cancelled",
    "step.resolved_manually",
    "step.skipped",
];

/// NOTIFY refuses a payload of this many bytes.
pub const PAYLOAD_LIMIT: usize = 8000;

/// The events of a task's change of state, in the order to announce them; `from` is none for a new task.
#[inline]
pub fn task_events(from: Option<TaskState>, to: TaskState) -> &'static [&'static str] {
    match (from, to) {
        (Some(from), to) if from == to => &[],
        (None, TaskState::Complete) => {
            &["task.initialize_requested", "task.finalization_started", "task.completed", "task.finalization_completed"]
        }
        (None, _) => &["task.initialize_requested"],
        (Some(TaskState::Error), TaskState::Pending | TaskState::InProgress) => &["task.retry_requested"],
        (_, TaskState::Pending) => &[],
        (_, TaskState::InProgress) => &["task.start_requested"],
        (_, TaskState::Complete) => &["task.finalization_started", "task.completed", "task.finalization_completed"],
        (_, TaskState::Error) => &["task.finalization_started", "task.failed", "task.finalization_completed"],
        (_, TaskState::Cancelled) => &["task.finalization_started", "task.cancelled", "task.finalization_completed"],
        (_, TaskState::ResolvedManually) => &["task.resolved_manually"],
    }
}

/// What a change says about the next attempt, beside the states; history keeps it, so that the stream tells the same
/// events as NOTIFY. `Some(true)`: after a backoff. `Some(false)`: there is none. `None`: at once, or it is no question.
#[inline]
pub fn retry_after(from: StepState, to: StepState, for_good: bool, backoff: bool) -> Option<bool> {
    match (from, to) {
        (from, to) if from == to => backoff.then_some(true),
        (_, StepState::Error) if for_good => Some(false),
        (_, StepState::Error) => backoff.then_some(true),
        _ => None,
    }
}

/// The events of a step's change of state, in the order to announce them; `retry` as [`retry_after`] says.
#[inline]
pub fn step_events(from: StepState, to: StepState, retry: Option<bool>) -> &'static [&'static str] {
    match (from, to) {
        (from, to) if from == to => match retry {
            Some(true) => &["step.backoff"],
            _ => &[],
        },
        (_, StepState::Error) => match retry {
            Some(false) => &["step.failed", "step.max_retries_reached"],
            Some(true) => &["step.failed", "step.backoff"],
            None => &["step.failed"],
        },
        (StepState::Error, StepState::Pending | StepState::InProgress) => &["step.retry_requested"],
        (_, StepState::Pending) => &[],
        (_, StepState::InProgress) => &["step.execution_requested"],
        (_, StepState::Complete) => &["step.completed"],
        (_, StepState::Cancelled) => &["step.cancelled"],
        (_, StepState::ResolvedManually) => &["step.resolved_manually"],
        (_, StepState::Skipped) => &["step.skipped"],
    }
}

/// What NOTIFY carries: ids and short facts, never context, inputs or results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Payload<'a> {
    pub event: &'a str,
    pub event_id: i64,
    pub task_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_id: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<&'a str>,
    /// `namespace/name@version`
    pub template: &'a str,
    /// None for what has just been created.
    pub from: Option<&'a str>,
    pub to: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// RFC 3339.
    pub at: String,
    /// The trace that the task belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<&'a str>,
}

impl Payload<'_> {
    /// The payload as JSON, always shorter than [`PAYLOAD_LIMIT`] bytes: texts longer than any name are cut.
    pub fn to_json(&self) -> String {
        let whole = self.written();
        if whole.len() < PAYLOAD_LIMIT {
            return whole;
        }
        // At most six bytes per character (\u0001): 545 × 6 + 255 × 6 + 4 × 64 × 6 leaves over a kilobyte for the rest.
        Payload {
            event: first_chars(self.event, 64),
            step: self.step.map(|step| first_chars(step, 255)),
            template: first_chars(self.template, 545),
            from: self.from.map(|from| first_chars(from, 64)),
            to: first_chars(self.to, 64),
            at: first_chars(&self.at, 64).to_owned(),
            traceparent: self.traceparent.map(|traceparent| first_chars(traceparent, traceparent::LENGTH)),
            ..*self
        }
        .written()
    }

    fn written(&self) -> String {
        // Only strings and numbers: there is nothing that could fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn first_chars(text: &str, most: usize) -> &str {
    text.char_indices().nth(most).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_follows_from_it() {
        let failed = |for_good, backoff| {
            let (from, to) = (StepState::InProgress, StepState::Error);
            step_events(from, to, retry_after(from, to, for_good, backoff))
        };
        assert_eq!(failed(true, false), ["step.failed", "step.max_retries_reached"]);
        assert_eq!(failed(false, true), ["step.failed", "step.backoff"]);
        assert_eq!(step_events(StepState::Error, StepState::InProgress, None), ["step.retry_requested"]);
        assert!(step_events(StepState::InProgress, StepState::Pending, None).is_empty());
    }

    #[test]
    fn the_payload_leaves_out_what_a_task_has_not() {
        let payload = Payload {
            event: "task.completed",
            event_id: 5,
            task_id: 6,
            step_id: None,
            step: None,
            template: "shop/fulfil_order@1.2.0",
            from: Some("in_progress"),
            to: "complete",
            attempt: None,
            at: "2000-01-01T00:00:00.000000Z".to_owned(),
            traceparent: None,
        };
        assert_eq!(
            payload.to_json(),
            r#"{"event":"task.completed","event_id":5,"task_id":6,"template":"shop/fulfil_order@1.2.0","from":"in_progress","to":"complete","at":"2000-01-01T00:00:00.000000Z"}"#
        );
    }
}

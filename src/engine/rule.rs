//! What a step's template says about running it.
//!
//! In: the plain facts that the other rules take as an argument. Out: their defaults' origin (`template`).

use super::backoff::Backoff;
use super::time::{Span, Timestamp};

/// Who takes a step to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StepKind {
    /// A worker: it claims the step and reports.
    #[default]
    Work,
    /// A signal: nobody claims the step; it completes when it is signalled, or fails at its timeout.
    Wait,
}

impl StepKind {
    pub fn as_str(self) -> &'static str {
        match self {
            StepKind::Work => "work",
            StepKind::Wait => "wait",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [StepKind::Work, StepKind::Wait].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// The run rules of one step, from its template.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRule {
    pub kind: StepKind,
    /// The most attempts, the first included; 0: never run by a worker.
    pub retry_limit: i32,
    /// Whether a failed attempt may be followed by another.
    pub retryable: bool,
    pub backoff: Backoff,
    /// How long a claim holds when the claim names no lease. Of a wait: how long it waits; 0 is for ever.
    pub timeout: Span,
    /// How long the step rests between the end of its last parent and its first attempt.
    pub delay: Span,
    /// Whether a task may be created without this step.
    pub skippable: bool,
}

impl StepRule {
    pub const DEFAULT_RETRY_LIMIT: i32 = 3;
    pub const DEFAULT_TIMEOUT: Span = Span::from_secs(60);

    /// From when a step may be claimed whose parents have settled, or whose task starts, at `from`. Of a wait: when it
    /// fails for want of a signal. Infinity: by no worker ever, but it keeps its task open.
    pub fn visible_from(&self, from: Timestamp) -> Timestamp {
        match self.kind {
            StepKind::Wait if self.timeout <= Span(0) => Timestamp::INFINITY,
            StepKind::Wait => from.plus(self.delay).plus(self.timeout),
            StepKind::Work if self.retry_limit <= 0 => Timestamp::INFINITY,
            StepKind::Work => from.plus(self.delay),
        }
    }

    /// How long a claim holds that names no lease.
    pub fn lease(&self) -> Span {
        if self.timeout > Span(0) { self.timeout } else { Self::DEFAULT_TIMEOUT }
    }
}

impl Default for StepRule {
    fn default() -> Self {
        StepRule {
            kind: StepKind::Work,
            retry_limit: Self::DEFAULT_RETRY_LIMIT,
            retryable: true,
            backoff: Backoff::default(),
            timeout: Self::DEFAULT_TIMEOUT,
            delay: Span(0),
            skippable: false,
        }
    }
}

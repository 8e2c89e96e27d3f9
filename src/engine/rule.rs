//! What a step's template says about running it.
//!
//! In: the plain facts that the other rules take as an argument. Out: their defaults' origin (`template`).

use super::backoff::Backoff;
use super::time::Span;

/// The run rules of one step, from its template.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRule {
    /// The most attempts, the first included; 0: never run by a worker.
    pub retry_limit: i32,
    /// Whether a failed attempt may be followed by another.
    pub retryable: bool,
    pub backoff: Backoff,
    /// How long a claim holds when the claim names no lease.
    pub timeout: Span,
    /// Whether a task may be created without this step.
    pub skippable: bool,
}

impl StepRule {
    pub const DEFAULT_RETRY_LIMIT: i32 = 3;
    pub const DEFAULT_TIMEOUT: Span = Span::from_secs(60);
}

impl Default for StepRule {
    fn default() -> Self {
        StepRule {
            retry_limit: Self::DEFAULT_RETRY_LIMIT,
            retryable: true,
            backoff: Backoff::default(),
            timeout: Self::DEFAULT_TIMEOUT,
            skippable: false,
        }
    }
}

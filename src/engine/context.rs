//! What a task's steps add up to: its execution context.
//!
//! In: the counts and the words and advice drawn from them. Out: the readiness of each step (`readiness`).

use super::readiness::Readiness;
use super::state::{StepState, TaskState};

/// Counts of a task's steps, gathered one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    total: i32,
    pending: i32,
    in_progress: i32,
    completed: i32,
    failed: i32,
    ready: i32,
    exhausted: i32,
}

/// The execution context of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub total_steps: i32,
    pub pending_steps: i32,
    pub in_progress_steps: i32,
    /// Complete, resolved manually or skipped.
    pub completed_steps: i32,
    /// In error, whether they can be tried again or not.
    pub failed_steps: i32,
    pub ready_steps: i32,
    pub execution_status: &'static str,
    pub recommended_action: &'static str,
    /// Completed steps in hundredths of a percent, rounded half up; 0 for a task without steps.
    pub completion_basis_points: i32,
    pub health_status: &'static str,
}

impl Tally {
    #[inline]
    pub fn add(&mut self, state: StepState, readiness: &Readiness) {
        self.total += 1;
        self.pending += i32::from(state == StepState::Pending);
        self.in_progress += i32::from(state == StepState::InProgress);
        self.completed += i32::from(state.settles());
        self.failed += i32::from(state == StepState::Error);
        self.ready += i32::from(readiness.ready_for_execution);
        self.exhausted += i32::from(readiness.exhausted);
    }

    #[inline]
    pub fn finish(self, task: TaskState) -> Context {
        let (execution_status, recommended_action) = self.status(task);
        Context {
            total_steps: self.total,
            pending_steps: self.pending,
            in_progress_steps: self.in_progress,
            completed_steps: self.completed,
            failed_steps: self.failed,
            ready_steps: self.ready,
            execution_status,
            recommended_action,
            completion_basis_points: basis_points(self.completed, self.total),
            health_status: self.health(task),
        }
    }

    /// The first row of the table of execution statuses whose condition holds.
    fn status(&self, task: TaskState) -> (&'static str, &'static str) {
        if matches!(task, TaskState::Cancelled | TaskState::ResolvedManually) {
            (task.as_str(), "none")
        } else if self.ready > 0 {
            ("has_ready_steps", "execute_ready_steps")
        } else if self.in_progress > 0 {
            ("processing", "wait_for_completion")
        } else if self.exhausted > 0 || task == TaskState::Error {
            // Of a task that its deadline has ended, perhaps no step has failed.
            ("blocked_by_failures", "handle_failures")
        } else if self.completed == self.total {
            ("all_complete", "finalize_task")
        } else {
            ("waiting_for_dependencies", "wait_for_dependencies")
        }
    }

    fn health(&self, task: TaskState) -> &'static str {
        if self.failed == 0 {
            if task == TaskState::Error { "blocked" } else { "healthy" }
        } else if self.ready > 0 || self.exhausted == 0 {
            "recovering"
        } else {
            "blocked"
        }
    }
}

fn basis_points(completed: i32, total: i32) -> i32 {
    let (completed, total) = (i64::from(completed), i64::from(total));
    if total <= 0 {
        return 0;
    }
    // Twice the value plus one half, halved: half up without a float.
    i32::try_from((completed * 20_000 + total) / (2 * total)).unwrap_or(i32::MAX)
}

//! How a task ends, and what its row becomes when it is updated.
//!
//! In: the outcome from the counters, the guards of a task's change of state, its times. Out: how the counters are kept.

pub use super::refusal::Refusal;
use super::state::TaskState;
use super::time::Timestamp;

/// The columns of a task that decide its state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TaskRow {
    pub state: TaskState,
    pub total: i32,
    /// Steps that can still make progress by themselves: those with a `visible_at`.
    pub live: i32,
    /// Steps complete, resolved manually or skipped.
    pub completed: i32,
    /// Steps that failed for good.
    pub failed: i32,
    pub cancelled: i32,
    /// Its deadline has passed, and its open steps are cancelled for it.
    pub timed_out: bool,
    /// Until when it must have ended; none once it has.
    pub deadline: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

/// The state in which a task with these counters ends; `None` while a step can still make progress.
///
/// In this order: a step failed for good → error; every step finished → complete; its deadline passed → error; else some
/// were cancelled.
#[inline]
pub fn outcome(task: &TaskRow) -> Option<TaskState> {
    if task.live > 0 {
        None
    } else if task.failed > 0 {
        Some(TaskState::Error)
    } else if task.completed >= task.total {
        Some(TaskState::Complete)
    } else if task.timed_out {
        Some(TaskState::Error)
    } else if task.cancelled > 0 {
        Some(TaskState::Cancelled)
    } else {
        // Nothing can move and nothing says why: no end, but a finding for `verify`.
        None
    }
}

/// Whether a task's columns can stand beside each other: no counter below zero or beyond the total, and an end exactly
/// where it has ended. `counted`: completed, failed, cancelled.
pub fn is_sound(state: TaskState, total: i32, live: i32, counted: [i32; 3], finished: bool) -> bool {
    let sum: i64 = counted.iter().copied().map(i64::from).sum();
    let ended = !matches!(state, TaskState::Pending | TaskState::InProgress);
    live >= 0 && counted.iter().all(|&count| count >= 0) && sum <= i64::from(total) && finished == ended
}

/// The row to store when `asked` would replace `old`, or why it may not.
#[inline]
pub fn settle(old: &TaskRow, asked: &TaskRow, now: Timestamp) -> Result<TaskRow, Refusal> {
    if asked.state != old.state {
        check(old.state, asked)?;
    }
    let state = if asked.state.is_terminal() {
        asked.state
    } else {
        match outcome(asked) {
            Some(state) => state,
            // A failed step was reset: there is work again.
            None if asked.state == TaskState::Error => TaskState::Pending,
            None => asked.state,
        }
    };
    let started_at = match state {
        TaskState::InProgress => asked.started_at.or(Some(now)),
        _ => asked.started_at,
    };
    let finished_at = match state {
        TaskState::Pending | TaskState::InProgress => None,
        _ if state != old.state => Some(now),
        _ => asked.finished_at.or(old.finished_at).or(Some(now)),
    };
    let ended = finished_at.is_some();
    Ok(TaskRow {
        state,
        started_at,
        finished_at,
        deadline: asked.deadline.filter(|_| !ended),
        // Taken back to work or ended otherwise by an operator, it has no deadline any more.
        timed_out: asked.timed_out
            && match state {
                TaskState::Error => true,
                TaskState::Pending | TaskState::InProgress => old.finished_at.is_none(),
                TaskState::Complete | TaskState::Cancelled | TaskState::ResolvedManually => false,
            },
        ..*asked
    })
}

/// The state between `from` and `to` where the outcome takes a task along two legal changes at once.
///
/// Only error → complete: resolving the last failed step first puts the task back to work, which is then done.
#[inline]
pub fn passes_through(from: TaskState, to: TaskState) -> Option<TaskState> {
    match (from, to) {
        (TaskState::Error, TaskState::Complete) => Some(TaskState::Pending),
        _ => None,
    }
}

#[inline]
fn check(from: TaskState, asked: &TaskRow) -> Result<(), Refusal> {
    let to = asked.state;
    if !from.may_become(to) {
        return Err(Refusal::IllegalTask { from, to });
    }
    match to {
        TaskState::Complete if asked.completed != asked.total => {
            Err(Refusal::StepsUnfinished { from, to, completed: asked.completed, total: asked.total })
        }
        TaskState::Error if asked.live != 0 || asked.failed <= 0 => {
            Err(Refusal::StepsLive { from, to, live: asked.live })
        }
        TaskState::Pending | TaskState::InProgress if from == TaskState::Error && asked.live <= 0 => {
            Err(Refusal::StepsLive { from, to, live: asked.live })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(7);
    const ROW: TaskRow = TaskRow {
        state: TaskState::Pending,
        total: 3,
        live: 1,
        completed: 0,
        failed: 0,
        cancelled: 0,
        timed_out: false,
        deadline: None,
        started_at: None,
        finished_at: None,
    };

    #[test]
    fn a_failure_outweighs_and_a_cancelled_step_comes_last() {
        let end = |live, [completed, failed, cancelled]: [i32; 3], timed_out| {
            outcome(&TaskRow { live, completed, failed, cancelled, timed_out, ..ROW })
        };
        assert_eq!(end(1, [2, 0, 0], false), None);
        assert_eq!(end(0, [1, 1, 1], false), Some(TaskState::Error));
        assert_eq!(end(0, [3, 0, 0], true), Some(TaskState::Complete));
        assert_eq!(end(0, [2, 0, 1], false), Some(TaskState::Cancelled));
        assert_eq!(end(0, [2, 0, 1], true), Some(TaskState::Error));
    }

    #[test]
    fn a_deadline_goes_with_the_end_and_does_not_come_back() {
        let deadline = Some(Timestamp(3));
        let old = TaskRow { state: TaskState::InProgress, deadline, timed_out: true, ..ROW };
        let ended = settle(&old, &TaskRow { live: 0, cancelled: 2, failed: 1, ..old }, NOW).unwrap();
        assert_eq!((ended.state, ended.deadline, ended.timed_out), (TaskState::Error, None, true));
        let again = settle(&ended, &TaskRow { live: 1, failed: 0, ..ended }, NOW).unwrap();
        assert_eq!((again.state, again.deadline, again.timed_out), (TaskState::Pending, None, false));
        let given_up = settle(&ended, &TaskRow { state: TaskState::Cancelled, ..ended }, NOW).unwrap();
        assert_eq!((given_up.state, given_up.timed_out), (TaskState::Cancelled, false));
    }

    #[test]
    fn the_last_step_settles_the_task() {
        let old = TaskRow { state: TaskState::InProgress, ..ROW };
        let settled = settle(&old, &TaskRow { live: 0, completed: 3, ..old }, NOW).unwrap();
        assert_eq!((settled.state, settled.finished_at), (TaskState::Complete, Some(NOW)));
    }

    #[test]
    fn a_reset_step_takes_the_task_back_to_work() {
        let old = TaskRow { state: TaskState::Error, live: 0, failed: 1, finished_at: Some(Timestamp(1)), ..ROW };
        let again = settle(&old, &TaskRow { live: 1, failed: 0, ..old }, NOW).unwrap();
        assert_eq!((again.state, again.finished_at), (TaskState::Pending, None));
        assert_eq!(passes_through(TaskState::Error, TaskState::Complete), Some(TaskState::Pending));
    }

    #[test]
    fn a_task_is_not_closed_by_hand_over_its_steps() {
        let ask = |old: TaskRow, state| settle(&old, &TaskRow { state, ..old }, NOW).unwrap_err().to_string();
        let failed = TaskRow { state: TaskState::Error, live: 0, failed: 1, ..ROW };
        assert_eq!(ask(ROW, TaskState::Complete), "task cannot go from pending to complete: it has unfinished steps");
        assert_eq!(ask(ROW, TaskState::Error), "task cannot go from pending to error: its steps do not allow it");
        assert_eq!(ask(failed, TaskState::Pending), "task cannot go from error to pending: its steps do not allow it");
        assert_eq!(ask(failed, TaskState::Complete), "task cannot go from error to complete");
    }
}

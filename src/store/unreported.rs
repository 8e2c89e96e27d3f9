//! Steps whose handlers have returned in this session and are not reported yet. What another handler then decides about
//! them would come too late for their work: whoever runs handlers takes that call back, and makes it again after the
//! reports.
use super::scope::StepChange;
use crate::engine::state::StepState;
use std::cell::RefCell;
use std::collections::HashSet;

#[derive(Default)]
struct Unreported {
    steps: HashSet<(i64, i32)>,
    overtaken: bool,
}

thread_local! {
    /// A handler may run handlers.
    static STACK: RefCell<Vec<Unreported>> = const { RefCell::new(Vec::new()) };
}

/// The steps of one run of handlers, until it is dropped, also while an error unwinds.
pub struct Batch(());

impl Drop for Batch {
    fn drop(&mut self) {
        STACK.with_borrow_mut(|stack| stack.pop());
    }
}

impl Batch {
    pub fn new() -> Batch {
        STACK.with_borrow_mut(|stack| stack.push(Unreported::default()));
        Batch(())
    }

    fn with(&self, change: impl FnOnce(&mut Unreported)) {
        STACK.with_borrow_mut(|stack| stack.last_mut().map(change));
    }

    /// Another handler begins: what was seen before is of no matter.
    pub fn begin(&self) {
        self.with(|batch| batch.overtaken = false);
    }

    pub fn returned(&self, task_id: i64, step_id: i32) {
        self.with(|batch| batch.steps.extend([(task_id, step_id)]));
    }

    pub fn reported(&self) {
        self.with(|batch| *batch = Unreported::default());
    }

    /// Whether a step that has returned was decided since the handler began.
    pub fn is_overtaken(&self) -> bool {
        STACK.with_borrow(|stack| stack.last().is_some_and(|batch| batch.overtaken))
    }
}

/// Notes which steps a statement has decided.
pub fn note(changes: &[StepChange]) {
    STACK.with_borrow_mut(|stack| {
        for batch in stack.iter_mut().filter(|batch| !batch.steps.is_empty()) {
            let ended = |change: &&StepChange| change.from == StepState::InProgress && change.to != change.from;
            batch.overtaken |=
                changes.iter().filter(ended).any(|change| batch.steps.contains(&(change.task_id, change.step_id)));
        }
    });
}

/// Runs the handler of a step; and whether it has decided its step itself.
pub fn decides<R>(task_id: i64, step_id: i32, handler: impl FnOnce() -> R) -> (R, bool) {
    let batch = Batch::new();
    batch.returned(task_id, step_id);
    let answer = handler();
    (answer, batch.is_overtaken())
}

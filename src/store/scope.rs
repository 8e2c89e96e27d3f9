//! What the engine itself is writing. Statement triggers fire also for the statements that the engine runs inside a
//! trigger; the scope lets the inner one hand its rows to the outer instead of starting over, lets history say why a
//! change was made, and tells the engine's own writes of kept columns from a client's.
use std::cell::RefCell;

/// One row of `steps` that an UPDATE changed, as both transition tables show it.
#[derive(Debug, Clone)]
pub struct StepChange {
    pub task_id: i64,
    pub step_id: i32,
    pub template_id: i64,
    pub queue_id: i64,
    pub from: crate::engine::state::StepState,
    pub to: crate::engine::state::StepState,
    pub attempt: i32,
    pub was_live: bool,
    pub is_live: bool,
    pub was_failed: bool,
    pub is_failed: bool,
    /// Claimable from the moment of the change, not later.
    pub claimable_now: bool,
    pub worker: Option<String>,
    /// The error of a failed attempt, as stored jsonb.
    pub error: Option<Box<[u8]>>,
}

/// Why the engine writes.
#[derive(Debug, Default, Clone)]
pub struct Writing {
    /// Goes into the metadata of each transition: JSON.
    pub reason: Option<&'static str>,
    /// Inside the propagation of a change: rows are handed to it instead of being propagated.
    nested: bool,
    handed: Vec<StepChange>,
}

thread_local! {
    static STACK: RefCell<Vec<Writing>> = const { RefCell::new(Vec::new()) };
}

/// Pops its entry when dropped, also while an error unwinds.
struct Entry;

impl Drop for Entry {
    fn drop(&mut self) {
        STACK.with_borrow_mut(|stack| stack.pop());
    }
}

/// Runs `body` as a write of the engine.
pub fn writing<R>(reason: Option<&'static str>, body: impl FnOnce() -> R) -> R {
    STACK.with_borrow_mut(|stack| stack.push(Writing { reason, ..Writing::default() }));
    let _entry = Entry;
    body()
}

/// Runs a statement of the propagation itself; returns the rows of `steps` that changed under it.
pub fn propagating(reason: Option<&'static str>, body: impl FnOnce()) -> Vec<StepChange> {
    STACK.with_borrow_mut(|stack| stack.push(Writing { reason, nested: true, handed: Vec::new() }));
    let _entry = Entry;
    body();
    STACK.with_borrow_mut(|stack| stack.last_mut().map(|top| std::mem::take(&mut top.handed)).unwrap_or_default())
}

/// Whether the current statement is the engine's.
pub fn active() -> bool {
    STACK.with_borrow(|stack| !stack.is_empty())
}

pub fn reason() -> Option<&'static str> {
    STACK.with_borrow(|stack| stack.last().and_then(|top| top.reason))
}

/// Gives changed rows to the propagation around this statement; returns them where there is none.
pub fn hand_over(changes: Vec<StepChange>) -> Option<Vec<StepChange>> {
    STACK.with_borrow_mut(|stack| match stack.last_mut() {
        Some(top) if top.nested => {
            top.handed.extend(changes);
            None
        }
        _ => Some(changes),
    })
}

//! What the engine itself is writing. Statement triggers fire also for the statements that the engine runs inside a
//! trigger; the scope lets the inner one hand its rows to the outer instead of starting over, lets history say why a
//! change was made, and tells the engine's own writes of kept columns from a client's.
use crate::engine::event::retry_after;
use crate::engine::time::Timestamp;
use crate::pg::catalog;
#[cfg(feature = "planted_bugs")]
use crate::pg::planted::{Bug, planted};
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
    pub visible_at: Option<Timestamp>,
    /// It held a place under a limit.
    pub was_limited: bool,
    /// A signal is kept for it.
    pub signalled: bool,
    /// Claimable from the moment of the change, not later.
    pub claimable_now: bool,
    pub worker: Option<String>,
    /// The error of a failed attempt, as stored jsonb.
    pub error: Option<Box<[u8]>>,
    /// What the failure said about another attempt.
    pub retryable: Option<bool>,
    pub backoff_request_seconds: Option<i32>,
    /// The time that the change stamped on the row.
    pub at: Timestamp,
    /// Of a claim: since when the step could be claimed. Of a lost attempt: the end of its lease.
    pub ready_at: Option<Timestamp>,
    /// Of the end of an attempt: when it was claimed.
    pub claimed_at: Option<Timestamp>,
}

impl StepChange {
    /// What it says about the next attempt.
    pub fn retry(&self) -> Option<bool> {
        retry_after(self.from, self.to, self.is_failed, self.is_live && !self.claimable_now)
    }
}

/// Why the engine writes, and on whose word.
#[derive(Debug, Default, Clone)]
pub struct Cause {
    /// Goes into the metadata of each transition.
    pub reason: Option<String>,
    /// Whom history names; nobody where the engine did what a worker's call asked, which names its worker.
    pub actor: Option<String>,
}

/// The reason of a change that ends an attempt whose lease is over.
pub const LEASE_EXPIRED: &str = "lease_expired";

impl Cause {
    pub fn reason(reason: &str) -> Self {
        Self { reason: Some(reason.to_owned()), actor: None }
    }
}

#[derive(Default)]
struct Writing {
    cause: Cause,
    /// Of a claim: the tasks of its steps that have not begun. Only these need their row changed.
    pending_tasks: Option<Vec<i64>>,
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
pub fn writing<R>(cause: Cause, body: impl FnOnce() -> R) -> R {
    STACK.with_borrow_mut(|stack| stack.push(Writing { cause, ..Writing::default() }));
    let _entry = Entry;
    body()
}

/// Runs `body` as a claim of steps whose tasks have all begun but for `pending_tasks`.
pub fn claiming<R>(pending_tasks: Vec<i64>, body: impl FnOnce() -> R) -> R {
    STACK.with_borrow_mut(|stack| stack.push(Writing { pending_tasks: Some(pending_tasks), ..Writing::default() }));
    let _entry = Entry;
    body()
}

/// Whether the claim that is being made, if any, knows that this task has begun.
pub fn has_begun(task_id: i64) -> bool {
    #[cfg(feature = "planted_bugs")]
    if planted(Bug::BeginRemembered) && crate::pg::planted::remembered(task_id) {
        return true;
    }
    STACK.with_borrow(|stack| {
        stack.last().and_then(|top| top.pending_tasks.as_ref()).is_some_and(|pending| !pending.contains(&task_id))
    })
}

/// Whether the statement is a claim, which takes places under limits before its steps.
pub fn is_claiming() -> bool {
    STACK.with_borrow(|stack| stack.last().is_some_and(|top| top.pending_tasks.is_some()))
}

/// Whether the statement ends attempts whose leases are over.
pub fn is_expiring() -> bool {
    STACK.with_borrow(|stack| stack.last().is_some_and(|top| top.cause.reason.as_deref() == Some(LEASE_EXPIRED)))
}

/// Runs a statement of the propagation itself; returns the rows of `steps` that changed under it.
pub fn propagating(body: impl FnOnce()) -> Vec<StepChange> {
    STACK.with_borrow_mut(|stack| stack.push(Writing { nested: true, ..Writing::default() }));
    let _entry = Entry;
    body();
    STACK.with_borrow_mut(|stack| stack.last_mut().map(|top| std::mem::take(&mut top.handed)).unwrap_or_default())
}

/// Whether the current statement is the engine's.
pub fn active() -> bool {
    STACK.with_borrow(|stack| !stack.is_empty())
}

/// Runs what a statement trigger has to do with the rights of the engine: under one of its own statements they are in
/// force already; where a client's statement has fired the trigger they are taken.
pub fn as_engine<R>(body: impl FnOnce() -> R) -> R {
    if active() { body() } else { catalog::as_owner_of(catalog::incarnation(), body) }
}

/// Why the current statement is made: by the engine, or by the role whose statement it is.
pub fn cause() -> Cause {
    let by_engine = STACK.with_borrow(|stack| stack.last().map(|top| top.cause.clone()));
    by_engine.unwrap_or_else(|| Cause { reason: None, actor: Some(catalog::actor()) })
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

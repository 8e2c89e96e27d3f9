//! Signals, which complete the steps that wait for them.
use super::error::StoreError;
use super::operate::{self, StepRef};
use super::scope::{self, Cause};
use crate::engine::refusal::Refusal;
use crate::engine::rule::StepKind;
use crate::engine::state::StepState;
use crate::pg::array::array;
use crate::pg::jsonb::Jsonb;
use crate::pg::spi::{self, Statement};
use crate::pg::value::param;
use std::rc::Rc;

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signalled {
    /// The step is complete.
    Accepted,
    /// The step waits for its parents; the signal is kept and completes it when it is reached.
    Kept,
    /// It was completed before, or a signal is kept for it; the first one counts.
    AlreadyDone,
}

impl Signalled {
    pub fn as_str(self) -> &'static str {
        match self {
            Signalled::Accepted => "accepted",
            Signalled::Kept => "kept",
            Signalled::AlreadyDone => "already_done",
        }
    }
}

static LOCK: Statement = Statement::write(
    "SELECT state, remaining_parents, signal IS NOT NULL FROM stepwise.steps \
     WHERE task_id = $1 AND step_id = $2 FOR UPDATE",
);
// Before the first of two changes: it may lock the task, which comes after them.
static LOCK_CHILDREN: Statement = Statement::write(
    "SELECT 1 FROM stepwise.steps WHERE task_id = $1 AND step_id = ANY ($2) ORDER BY step_id FOR UPDATE",
);
// Kept in the step's own row: whoever completes its last parent changes that row too, at whatever isolation level.
static KEEP: Statement = Statement::write("UPDATE stepwise.steps SET signal = $3 WHERE task_id = $1 AND step_id = $2");
static TAKE: Statement =
    Statement::write("UPDATE stepwise.steps SET state = 'in_progress' WHERE task_id = $1 AND step_id = $2");
static COMPLETE: Statement =
    Statement::write("UPDATE stepwise.steps SET state = 'complete', results = $3 WHERE task_id = $1 AND step_id = $2");

/// Signals a step of kind `wait`; the payload becomes its results.
pub fn signal(task_id: i64, step: &StepRef, payload: Jsonb, cause: Cause) -> Result<Signalled, StoreError> {
    spi::session(|spi| {
        let task = operate::task(spi, task_id)?;
        let (template, step_id) = (Rc::clone(&task.template), operate::step_id(&task.template, task_id, step)?);
        let [task, step] = [param(task_id), param(step_id)];
        let (state, remaining_parents, has_signal) = {
            let rows = LOCK.run(spi, &[task, step]);
            let row = rows.first().ok_or(StoreError::StepNotFound { task_id, step: step_id.to_string() })?;
            let state = StepState::parse(&row.want::<String>(1)).unwrap_or(StepState::Cancelled);
            (state, row.want::<i32>(2), row.want::<bool>(3))
        };
        let kind = template.step(step_id).map_or(StepKind::Work, |step| step.rule.kind);
        if kind != StepKind::Wait {
            return Err(Refusal::NoWait { kind: kind.as_str() }.into());
        }
        match state {
            StepState::Complete => Ok(Signalled::AlreadyDone),
            StepState::Pending if remaining_parents > 0 && has_signal => Ok(Signalled::AlreadyDone),
            StepState::Pending if remaining_parents > 0 => {
                scope::writing(cause, || KEEP.run(spi, &[task, step, param(payload)]));
                Ok(Signalled::Kept)
            }
            StepState::Pending => {
                let children = template.graph.children(step_id);
                if !children.is_empty() {
                    LOCK_CHILDREN.run(spi, &[task, array(children)]);
                }
                scope::writing(cause.clone(), || TAKE.run(spi, &[task, step]));
                scope::writing(cause, || COMPLETE.run(spi, &[task, step, param(payload)]));
                Ok(Signalled::Accepted)
            }
            from => Err(Refusal::NoSignal { from }.into()),
        }
    })
}

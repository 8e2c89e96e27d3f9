//! What operators do to steps and tasks: the same UPDATEs as anybody's, with a reason and an actor for the history.
//! Each locks steps before tasks, in the order of their keys.
use super::access;
use super::due;
use super::error::StoreError;
use super::graph_cache::{self, CachedTemplate};
use super::history;
use super::report::Outcome;
use super::scope::{self, Cause, StepChange};
use crate::engine::operate::{Action, Refusal, back_off, may_back_off};
use crate::engine::state::{StepState, TaskState};
use crate::engine::time::Timestamp;
use crate::events;
use crate::pg::jsonb::Jsonb;
use crate::pg::spi::{self, Row, Session, Statement};
use crate::pg::time;
use crate::pg::value::{optional, param};
use std::rc::Rc;

/// How a caller names a step of a task.
pub enum StepRef {
    Id(i32),
    Name(String),
}

static TASK: Statement = Statement::fresh("SELECT template_id, state FROM stepwise.tasks WHERE task_id = $1");
static LOCK_STEP: Statement = Statement::write(
    "SELECT state, queue_id, attempts, worker, remaining_parents, retryable, last_attempted_at, last_failure_at \
     FROM stepwise.steps WHERE task_id = $1 AND step_id = $2 FOR UPDATE",
);
static SET_STATE: Statement =
    Statement::write("UPDATE stepwise.steps SET state = $3 WHERE task_id = $1 AND step_id = $2");
static RESOLVE: Statement = Statement::write(
    "UPDATE stepwise.steps SET state = 'resolved_manually', results = coalesce($3, results) \
     WHERE task_id = $1 AND step_id = $2",
);
// All that may still change: a step that fails or is claimed meanwhile is waited for, and then seen as it has become.
static LOCK_OPEN: Statement = Statement::write(
    "SELECT 1 FROM stepwise.steps WHERE task_id = $1 AND state IN ('pending', 'in_progress', 'error') \
     ORDER BY step_id FOR UPDATE",
);
static CANCEL_ALL: Statement = Statement::write(
    "UPDATE stepwise.steps SET state = 'cancelled' \
     WHERE task_id = $1 AND state IN ('pending', 'in_progress', 'error')",
);
// The deadline of a task outweighs its cancelled steps: it stays in error until an operator says otherwise.
static CANCEL_FAILED: Statement =
    Statement::write("UPDATE stepwise.tasks SET state = 'cancelled' WHERE task_id = $1 AND state = 'error'");
static RESET_FAILED: Statement =
    Statement::write("UPDATE stepwise.steps SET state = 'pending' WHERE task_id = $1 AND state = 'error'");
static SET_BACKOFF: Statement = Statement::write(
    "UPDATE stepwise.steps SET backoff_request_seconds = $3, visible_at = $4 WHERE task_id = $1 AND step_id = $2",
);
static RELEASE_BACKOFFS: Statement = Statement::write(
    "UPDATE stepwise.steps SET backoff_request_seconds = 0, visible_at = $2 \
     WHERE task_id = $1 AND visible_at > $2 AND visible_at < 'infinity' \
         AND (state = 'error' OR state = 'pending' AND backoff_request_seconds IS NOT NULL) \
     RETURNING state, queue_id, attempts, worker, step_id",
);

pub struct Task {
    pub template_id: i64,
    pub template: Rc<CachedTemplate>,
    pub state: TaskState,
}

/// The task as it is now, if the caller may know of it.
pub fn task(spi: &Session, task_id: i64) -> Result<Task, StoreError> {
    let rows = TASK.run(spi, &[param(task_id)]);
    let row = rows.first().ok_or(StoreError::TaskNotFound { task_id })?;
    let template_id = row.want(1);
    if !access::may_use(template_id) {
        return Err(StoreError::TaskNotFound { task_id });
    }
    let state = TaskState::parse(&row.want::<String>(2)).unwrap_or(TaskState::Pending);
    Ok(Task { template_id, template: graph_cache::template_of_row(template_id), state })
}

/// The number of the step that is meant.
pub fn step_id(template: &CachedTemplate, task_id: i64, step: &StepRef) -> Result<i32, StoreError> {
    let (found, text) = match step {
        StepRef::Id(id) => (template.step(*id).map(|_| *id), id.to_string()),
        StepRef::Name(name) => (template.step_id(name), format!("\"{name}\"")),
    };
    found.ok_or(StoreError::StepNotFound { task_id, step: text })
}

/// Resets, resolves or cancels one step.
pub fn act(
    action: Action,
    task_id: i64,
    step: &StepRef,
    results: Option<Jsonb>,
    cause: Cause,
) -> Result<Outcome, StoreError> {
    spi::session(|spi| {
        let task = task(spi, task_id)?;
        let step_id = step_id(&task.template, task_id, step)?;
        let key = [param(task_id), param(step_id)];
        let rows = LOCK_STEP.run(spi, &key);
        // A purge may have removed the task while this waited for it.
        let row = rows.first().ok_or(StoreError::TaskNotFound { task_id })?;
        let state = StepState::parse(&row.want::<String>(1)).unwrap_or(StepState::Cancelled);
        if !action.applies(state)? {
            return Ok(Outcome::AlreadyDone);
        }
        let [task, step] = key;
        scope::writing(cause, || match action {
            Action::Resolve => RESOLVE.run(spi, &[task, step, optional(results)]),
            _ => SET_STATE.run(spi, &[task, step, param(action.target().as_str())]),
        });
        Ok(Outcome::Accepted)
    })
}

/// Cancels every step of the task that is not at its end, and so the task; returns how many, 0 where it is cancelled
/// already, or was ended by its deadline.
pub fn cancel_task(task_id: i64, cause: Cause) -> Result<i32, StoreError> {
    change_task(task_id, TaskState::Cancelled, &CANCEL_ALL, cause)
}

/// Resets every failed step of the task; returns how many.
pub fn retry_task(task_id: i64, cause: Cause) -> Result<i32, StoreError> {
    change_task(task_id, TaskState::InProgress, &RESET_FAILED, cause)
}

/// Changes all steps of a task that the statement finds. Where it finds none, the task's own state says whether that is
/// as it should be; asked afterwards, so that what has happened meanwhile counts.
fn change_task(task_id: i64, to: TaskState, steps: &'static Statement, cause: Cause) -> Result<i32, StoreError> {
    spi::session(|spi| {
        let before = task(spi, task_id)?;
        LOCK_OPEN.run(spi, &[param(task_id)]);
        let changed = scope::writing(cause.clone(), || steps.run(spi, &[param(task_id)]).count);
        let mut from = task(spi, task_id)?.state;
        if to == TaskState::Cancelled && from == TaskState::Error {
            scope::writing(cause, || CANCEL_FAILED.run(spi, &[param(task_id)]));
            from = task(spi, task_id)?.state;
        }
        if changed == 0 && from != to && from.is_terminal() {
            return Err(Refusal::IllegalTask { from: before.state, to }.into());
        }
        Ok(changed as i32)
    })
}

/// Delays the next attempt of a step by `seconds` from now.
pub fn set_backoff(task_id: i64, step: &StepRef, seconds: i32, cause: Cause) -> Result<Outcome, StoreError> {
    let now = time::now();
    spi::session(|spi| {
        let task = task(spi, task_id)?;
        let step_id = step_id(&task.template, task_id, step)?;
        let rows = LOCK_STEP.run(spi, &[param(task_id), param(step_id)]);
        let (Some(row), Some(step)) = (rows.first(), task.template.step(step_id)) else {
            return Err(StoreError::StepNotFound { task_id, step: step_id.to_string() });
        };
        let state = StepState::parse(&row.want::<String>(1)).unwrap_or(StepState::Cancelled);
        may_back_off(state, row.want(5), row.want(3), row.get(6), &step.rule)?;
        let (stored, visible_at) = back_off(state, row.get(7), row.get(8), seconds, now);
        scope::writing(cause.clone(), || {
            SET_BACKOFF.run(spi, &[param(task_id), param(step_id), param(stored), param(visible_at)]);
        });
        let change = StepChange {
            claimable_now: visible_at <= now,
            visible_at: Some(visible_at),
            ..backoff(&task, task_id, step_id, &row, stored, now)
        };
        record_backoffs(spi, &[change], &cause);
        Ok(Outcome::Accepted)
    })
}

/// Ends every backoff of the task now; returns how many.
pub fn release_backoff(task_id: i64, cause: Cause) -> Result<i32, StoreError> {
    let now = time::now();
    spi::session(|spi| {
        let task = task(spi, task_id)?;
        let rows = scope::writing(cause.clone(), || RELEASE_BACKOFFS.run(spi, &[param(task_id), param(now)]));
        let changes: Vec<StepChange> = rows
            .iter()
            .map(|row| StepChange { visible_at: Some(now), ..backoff(&task, task_id, row.want(5), &row, 0, now) })
            .collect();
        record_backoffs(spi, &changes, &cause);
        Ok(changes.len() as i32)
    })
}

/// A backoff that was set on a waiting step, as a change that leaves the state as it is.
fn backoff(task: &Task, task_id: i64, step_id: i32, row: &Row, seconds: i32, now: Timestamp) -> StepChange {
    let state = StepState::parse(&row.want::<String>(1)).unwrap_or(StepState::Error);
    StepChange {
        task_id,
        step_id,
        template_id: task.template_id,
        queue_id: row.want(2),
        from: state,
        to: state,
        attempt: row.want(3),
        was_live: true,
        is_live: true,
        was_failed: false,
        is_failed: false,
        visible_at: None,
        was_limited: false,
        signalled: false,
        claimable_now: seconds == 0,
        worker: row.get(4),
        error: None,
        retryable: None,
        backoff_request_seconds: Some(seconds),
        at: now,
        ready_at: None,
        claimed_at: None,
    }
}

fn record_backoffs(spi: &Session, changes: &[StepChange], cause: &Cause) {
    if changes.is_empty() {
        return;
    }
    due::note_changes(changes, changes.first().map_or(Timestamp::NEG_INFINITY, |change| change.at));
    let rows: Vec<&StepChange> = changes.iter().collect();
    history::record(spi, &rows, cause, |change| {
        let mut object = serde_json::Map::new();
        object.extend(cause.reason.as_deref().map(|reason| ("reason".to_owned(), reason.into())));
        object.extend(change.backoff_request_seconds.map(|seconds| ("backoff_seconds".to_owned(), seconds.into())));
        Some(serde_json::Value::from(object).to_string())
    });
    events::announce_ready(changes.iter().filter(|change| change.claimable_now).map(|change| change.queue_id));
}

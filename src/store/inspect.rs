//! One task looked at closely: why a step does not move, what takes the longest. Reads only.
use super::error::StoreError;
use super::graph_cache::CachedTemplate;
use super::limits;
use super::operate::{self, StepRef};
use crate::engine::explain::{self, Around, Limit, Reason};
use crate::engine::readiness::StepFacts;
use crate::engine::state::StepState;
use crate::engine::time::{Span, Timestamp};
use crate::pg::array::array;
use crate::pg::catalog;
use crate::pg::spi::{self, Session, Statement};
use crate::pg::time;
use crate::pg::value::param;
use std::collections::HashMap;
use std::rc::Rc;

static STEP: Statement = Statement::read(
    "SELECT s.state, s.attempts, s.remaining_parents, s.visible_at, s.backoff_request_seconds, s.retryable, \
         s.last_attempted_at, s.last_failure_at, s.queue_id, s.priority, s.worker, q.name, q.paused, \
         q.max_in_flight, t.deadline, t.concurrency_key \
     FROM stepwise.steps s JOIN stepwise.queues q ON q.queue_id = s.queue_id \
     JOIN stepwise.tasks t ON t.task_id = s.task_id \
     WHERE s.task_id = $1 AND s.step_id = $2",
);
static PARENTS: Statement = Statement::read(
    "SELECT step_id, state FROM stepwise.steps WHERE task_id = $1 AND step_id = ANY ($2) ORDER BY step_id",
);
static AHEAD: Statement = Statement::read(
    "SELECT count(*) FROM stepwise.steps \
     WHERE queue_id = $1 AND visible_at <= $4 AND (priority > $2 OR priority = $2 AND visible_at < $3)",
);
static DURATIONS: Statement = Statement::read(
    "SELECT step_id, state, (date_part('epoch', coalesce(finished_at, $2) - last_attempted_at) * 1e6)::bigint \
     FROM stepwise.steps WHERE task_id = $1 ORDER BY step_id",
);
// Of tasks of the same template among the last thousand before this one: a range of the key, bounded by the limit.
static EXPECTED: Statement = Statement::read(
    "SELECT step_id, (avg(seconds) * 1e6)::bigint \
     FROM (SELECT step_id, date_part('epoch', finished_at - last_attempted_at) AS seconds FROM stepwise.steps \
         WHERE task_id BETWEEN $1 - 1000 AND $1 - 1 AND template_id = $2 AND state = 'complete' \
         ORDER BY task_id DESC LIMIT 100000) AS finished \
     GROUP BY step_id",
);

/// One row of `explain_step`.
pub struct Explanation {
    pub reason: Reason,
    pub detail: String,
    /// Place in the queue, 1 for the next to be handed out; of a claimable step only.
    pub rank: Option<i64>,
}

/// Why a step cannot be claimed now, or that it can.
pub fn explain(task_id: i64, step: &StepRef) -> Result<Vec<Explanation>, StoreError> {
    let now = time::now();
    spi::session(|spi| {
        let task = operate::task(spi, task_id)?;
        let step_id = operate::step_id(&task.template, task_id, step)?;
        let rows = STEP.run(spi, &[param(task_id), param(step_id)]);
        let (Some(row), Some(step)) = (rows.first(), task.template.step(step_id)) else {
            return Err(StoreError::StepNotFound { task_id, step: step_id.to_string() });
        };
        let parent_ids = task.template.graph.parents(step_id);
        let facts = StepFacts {
            state: StepState::parse(&row.want::<String>(1)).unwrap_or(StepState::Cancelled),
            attempts: row.want(2),
            remaining_parents: row.want(3),
            total_parents: parent_ids.len() as i32,
            visible_at: row.get(4),
            backoff_request_seconds: row.get(5),
            retryable: row.get(6),
            last_attempted_at: row.get(7),
            last_failure_at: row.get(8),
        };
        let (worker, queue): (Option<String>, String) = (row.get(11), row.want(12));
        let parents = parents(spi, task_id, parent_ids);
        let under =
            limits::owners(&task.template, task_id, row.get::<String>(16).as_deref(), row.want(9), row.want(14));
        // The places of a limit that others share are theirs, that none is left is everybody's.
        let full: Vec<(Limit, i32)> =
            catalog::as_owner_of(catalog::incarnation(), || limits::reached(spi, &under, now));
        let around = Around {
            task: task.state,
            queue_paused: row.want(13),
            deadline_over: row.get::<Timestamp>(15).is_some_and(|deadline| deadline <= now),
            full: &full,
        };
        let reasons = explain::explain(&facts, &step.rule, &around, &parents, now);
        let describe = |reason: Reason| Explanation {
            detail: describe(&reason, &task.template, worker.as_deref(), &queue),
            rank: (reason == Reason::Claimable).then(|| rank(spi, row.want(9), row.want(10), facts.visible_at, now)),
            reason,
        };
        Ok(reasons.into_iter().map(describe).collect())
    })
}

fn parents(spi: &Session, task_id: i64, ids: &[i32]) -> Vec<(i32, StepState)> {
    let rows = PARENTS.run(spi, &[param(task_id), array(ids)]);
    rows.iter().filter_map(|row| Some((row.want(1), StepState::parse(&row.want::<String>(2))?))).collect()
}

fn rank(spi: &Session, queue_id: i64, priority: i16, visible_at: Option<Timestamp>, now: Timestamp) -> i64 {
    let visible_at = visible_at.unwrap_or(now);
    let rows = AHEAD.run(spi, &[param(queue_id), param(priority), param(visible_at), param(now)]);
    rows.first().map_or(0, |row| row.want::<i64>(1)) + 1
}

fn describe(reason: &Reason, template: &CachedTemplate, worker: Option<&str>, queue: &str) -> String {
    match reason {
        Reason::TaskEnded { state } => format!("the task is {state}"),
        Reason::StepEnded { state } => format!("the step is {state}"),
        Reason::WaitsForParent { step_id, state } => {
            let name = template.step(*step_id).map_or("", |step| step.name.as_str());
            format!("parent \"{name}\" is {state}")
        }
        Reason::Held { .. } => format!("worker \"{}\" holds it", worker.unwrap_or("")),
        Reason::NeverByWorker => "its retry limit is 0: resolve it by hand".into(),
        Reason::NoAttemptLeft { attempts, retry_limit } => format!("attempts: {attempts} of {retry_limit}"),
        Reason::NotRetryable => "its last failure allows no further attempt".into(),
        Reason::Backoff { attempt, .. } => format!("it rests after attempt {attempt}"),
        Reason::Delayed { .. } => "it was asked to start later".into(),
        Reason::WaitsForSignal { .. } => "stepwise.signal_step completes it".into(),
        Reason::DeadlineOver => "the task has run out of time".into(),
        Reason::LimitReached { limit: Limit::Queue, most } => {
            format!("{most} steps of queue \"{queue}\" are in progress, as many as may be")
        }
        Reason::LimitReached { limit: Limit::Task, most } => {
            format!("{most} steps of the task are in progress, as many as may be")
        }
        Reason::LimitReached { limit: Limit::Key, most } => {
            format!("{most} steps of tasks with the same concurrency key are in progress, as many as may be")
        }
        Reason::QueuePaused => format!("queue \"{queue}\" is paused"),
        Reason::NotQueued => "it is in no queue; ask stepwise.verify".into(),
        Reason::Claimable => format!("the next claims on queue \"{queue}\" hand it out"),
    }
}

/// One step of the critical path.
pub struct PathStep {
    pub step_id: i32,
    pub state: StepState,
    pub duration: Span,
    /// The step has ended: its duration is its own, not an expectation.
    pub measured: bool,
}

/// The chain of steps that takes the longest, by measured durations where there are any; else by what the same step
/// took in earlier tasks, or its timeout.
pub fn critical_path(task_id: i64) -> Result<(Rc<CachedTemplate>, Vec<PathStep>), StoreError> {
    let now = time::now();
    spi::session(|spi| {
        let task = operate::task(spi, task_id)?;
        let rows = EXPECTED.run(spi, &[param(task_id), param(task.template_id)]);
        let expected: HashMap<i32, i64> = rows.iter().map(|row| (row.want(1), row.want(2))).collect();
        let rows = DURATIONS.run(spi, &[param(task_id), param(now)]);
        let steps: Vec<PathStep> = rows
            .iter()
            .map(|row| {
                let step_id: i32 = row.want(1);
                let state = StepState::parse(&row.want::<String>(2)).unwrap_or(StepState::Pending);
                let timeout = || task.template.step(step_id).map_or(0, |step| step.rule.timeout.0);
                let usual = || expected.get(&step_id).copied().unwrap_or_else(timeout);
                let own: Option<i64> = row.get(3);
                let micros = match state {
                    _ if state.is_terminal() => own.unwrap_or(0),
                    StepState::InProgress => own.unwrap_or(0).max(usual()),
                    _ => usual(),
                };
                PathStep { step_id, state, duration: Span(micros.max(0)), measured: state.is_terminal() }
            })
            .collect();
        let weights: Vec<i64> = steps.iter().map(|step| step.duration.0).collect();
        let path: Vec<i32> = task.template.graph.heaviest_path(&weights);
        let on_path = steps.into_iter().filter(|step| path.binary_search(&step.step_id).is_ok()).collect();
        Ok((task.template, on_path))
    })
}

/// The template of a task, for its graph.
pub fn template_of_task(task_id: i64) -> Result<Rc<CachedTemplate>, StoreError> {
    spi::session(|spi| Ok(operate::task(spi, task_id)?.template))
}

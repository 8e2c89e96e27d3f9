//! One row of history, and its events, for every change of state.
use super::graph_cache;
use super::scope::{self, Cause, StepChange};
use crate::engine::state::TaskState;
use crate::engine::time::Timestamp;
use crate::events;
use crate::pg::array::{array, array_of_optional};
use crate::pg::guc::{self, NotifyLevel};
use crate::pg::jsonb::Jsonb;
use crate::pg::spi::{self, Session, Statement};
use crate::pg::value::{no_array, optional};

static STEPS: Statement = Statement::write(include_str!("../../sql/query/record_step_transitions.sql"));
static STEPS_WITH_IDS: Statement =
    Statement::write(concat!(include_str!("../../sql/query/record_step_transitions.sql"), "RETURNING event_id"));

const TASKS_SQL: &str = "INSERT INTO stepwise.transitions (task_id, from_state, to_state, actor, at, metadata) \
     SELECT i.task_id, i.from_state, i.to_state, $4, i.at, $6::jsonb \
     FROM unnest($1, $2, $3, $5) AS i (task_id, from_state, to_state, at) \
     RETURNING event_id";
static TASKS: Statement = Statement::write(TASKS_SQL);

/// A task's change of state; `from` is `None` at its creation.
pub struct TaskChange {
    pub task_id: i64,
    pub template_id: i64,
    pub from: Option<TaskState>,
    pub to: TaskState,
    pub at: Timestamp,
}

/// Records the changed rows among `changes`. `metadata` gives a row's own, as JSON text; a failure's error is added.
pub fn record_steps(
    spi: &Session,
    changes: &[StepChange],
    cause: &Cause,
    metadata: impl Fn(&StepChange) -> Option<String>,
) {
    let changed: Vec<&StepChange> = changes.iter().filter(|change| change.from != change.to).collect();
    if !changed.is_empty() {
        record(spi, &changed, cause, metadata);
    }
}

/// Records all of these rows: also a backoff that was set, which leaves the state as it is.
pub fn record(spi: &Session, changed: &[&StepChange], cause: &Cause, metadata: impl Fn(&StepChange) -> Option<String>) {
    let task_ids: Vec<i64> = changed.iter().map(|change| change.task_id).collect();
    let step_ids: Vec<i32> = changed.iter().map(|change| change.step_id).collect();
    let from: Vec<&str> = changed.iter().map(|change| change.from.as_str()).collect();
    let to: Vec<&str> = changed.iter().map(|change| change.to.as_str()).collect();
    let attempts: Vec<i32> = changed.iter().map(|change| change.attempt).collect();
    let workers: Vec<Option<&str>> = changed.iter().map(|change| change.worker.as_deref()).collect();
    let metadata: Vec<Option<String>> = changed.iter().map(|change| metadata(change)).collect();
    let errors: Vec<Option<Jsonb>> =
        changed.iter().map(|change| change.error.as_deref().map(Jsonb::from_bytes)).collect();
    let times: Vec<Timestamp> = changed.iter().map(|change| change.at).collect();
    let announce = guc::notify_level() == NotifyLevel::Step;
    let statement = if announce { &STEPS_WITH_IDS } else { &STEPS };
    let rows = statement.run(
        spi,
        &[
            array(&task_ids),
            array(&step_ids),
            array(&from),
            array(&to),
            array(&attempts),
            array_of_optional(&workers),
            if metadata.iter().all(Option::is_none) { no_array::<String>() } else { array_of_optional(&metadata) },
            if errors.iter().all(Option::is_none) { no_array::<Jsonb>() } else { array_of_optional(&errors) },
            optional(cause.actor.as_deref()),
            array(&times),
        ],
    );
    if announce {
        for (row, change) in rows.iter().zip(changed) {
            let template = graph_cache::template_of_row(change.template_id);
            events::announce_step(row.want(1), change, &template);
        }
    }
}

/// Records changes of tasks.
pub fn record_tasks(spi: &Session, changes: &[TaskChange], cause: &Cause) {
    if changes.is_empty() {
        return;
    }
    let task_ids: Vec<i64> = changes.iter().map(|change| change.task_id).collect();
    let from: Vec<Option<&str>> = changes.iter().map(|change| change.from.map(TaskState::as_str)).collect();
    let to: Vec<&str> = changes.iter().map(|change| change.to.as_str()).collect();
    let times: Vec<Timestamp> = changes.iter().map(|change| change.at).collect();
    let reason = cause.reason.as_deref().map(|reason| serde_json::json!({ "reason": reason }).to_string());
    let rows = TASKS.run(
        spi,
        &[
            array(&task_ids),
            array_of_optional(&from),
            array(&to),
            optional(cause.actor.as_deref()),
            array(&times),
            optional(reason),
        ],
    );
    if guc::notify_level() >= NotifyLevel::Task {
        for (row, change) in rows.iter().zip(changes) {
            let template = graph_cache::template_of_row(change.template_id);
            events::announce_task(row.want(1), change, &template);
        }
    }
}

/// [`record_tasks`] in a session of its own.
pub fn record_task_changes(changes: &[TaskChange]) {
    spi::session(|spi| record_tasks(spi, changes, &scope::cause()));
}

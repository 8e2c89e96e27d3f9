//! One row of history, and its events, for every change of state.
use super::graph_cache;
use super::scope::{self, StepChange};
use crate::engine::state::TaskState;
use crate::engine::time::Timestamp;
use crate::events;
use crate::pg::array::{array, array_of_optional};
use crate::pg::catalog;
use crate::pg::guc::{self, NotifyLevel};
use crate::pg::jsonb::Jsonb;
use crate::pg::spi::{self, Session, Statement};
use crate::pg::value::{no_array, optional, param};

static STEPS: Statement = Statement::write(include_str!("../../sql/query/record_step_transitions.sql"));
static STEPS_WITH_IDS: Statement =
    Statement::write(concat!(include_str!("../../sql/query/record_step_transitions.sql"), "RETURNING event_id"));

const TASKS_SQL: &str = "INSERT INTO stepwise.transitions (task_id, from_state, to_state, actor, at) \
     SELECT i.task_id, i.from_state, i.to_state, $4, $5 FROM unnest($1, $2, $3) AS i (task_id, from_state, to_state) \
     RETURNING event_id";
static TASKS: Statement = Statement::write(TASKS_SQL);

/// A task's change of state; `from` is `None` at its creation.
pub struct TaskChange {
    pub task_id: i64,
    pub template_id: i64,
    pub from: Option<TaskState>,
    pub to: TaskState,
}

/// Who changed it: nobody is named where the engine did what a worker's call asked; that names its worker.
fn actor() -> Option<String> {
    (!scope::active()).then(catalog::actor)
}

/// Records the changed rows among `changes`. `metadata` gives a row's own, as JSON text.
pub fn record_steps(
    spi: &Session,
    changes: &[StepChange],
    now: Timestamp,
    metadata: impl Fn(&StepChange) -> Option<String>,
) {
    let changed: Vec<&StepChange> = changes.iter().filter(|change| change.from != change.to).collect();
    if changed.is_empty() {
        return;
    }
    let task_ids: Vec<i64> = changed.iter().map(|change| change.task_id).collect();
    let step_ids: Vec<i32> = changed.iter().map(|change| change.step_id).collect();
    let from: Vec<&str> = changed.iter().map(|change| change.from.as_str()).collect();
    let to: Vec<&str> = changed.iter().map(|change| change.to.as_str()).collect();
    let attempts: Vec<i32> = changed.iter().map(|change| change.attempt).collect();
    let workers: Vec<Option<&str>> = changed.iter().map(|change| change.worker.as_deref()).collect();
    let metadata: Vec<Option<String>> = changed.iter().map(|change| metadata(change)).collect();
    let errors: Vec<Option<Jsonb>> =
        changed.iter().map(|change| change.error.as_deref().map(Jsonb::from_bytes)).collect();
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
            optional(actor()),
            param(now),
        ],
    );
    if announce {
        for (row, change) in rows.iter().zip(changed) {
            let template = graph_cache::template_of_row(change.template_id);
            events::announce_step(row.want(1), change, &template, now);
        }
    }
}

/// Records changes of tasks.
pub fn record_tasks(spi: &Session, changes: &[TaskChange], now: Timestamp) {
    if changes.is_empty() {
        return;
    }
    let task_ids: Vec<i64> = changes.iter().map(|change| change.task_id).collect();
    let from: Vec<Option<&str>> = changes.iter().map(|change| change.from.map(TaskState::as_str)).collect();
    let to: Vec<&str> = changes.iter().map(|change| change.to.as_str()).collect();
    let rows = TASKS.run(spi, &[array(&task_ids), array_of_optional(&from), array(&to), optional(actor()), param(now)]);
    if guc::notify_level() >= NotifyLevel::Task {
        for (row, change) in rows.iter().zip(changes) {
            let template = graph_cache::template_of_row(change.template_id);
            events::announce_task(row.want(1), change, &template, now);
        }
    }
}

/// [`record_tasks`] in a session of its own.
pub fn record_task_changes(changes: &[TaskChange], now: Timestamp) {
    spi::session(|spi| record_tasks(spi, changes, now));
}

//! One row of history, and its events, for every change of state.
use super::columns::{TASKS_BY_KEY, tasks as task};
use super::graph_cache;
use super::scope::{self, Cause, StepChange};
use crate::engine::state::{StepState, TaskState};
use crate::engine::time::Timestamp;
use crate::events;
use crate::pg::array::{array, array_of_optional};
use crate::pg::guc::{self, NotifyLevel};
use crate::pg::heap;
use crate::pg::jsonb::Jsonb;
use crate::pg::lookup::{Key, Sees};
use crate::pg::planted::{Bug, planted};
use crate::pg::spi::{self, Session, Statement};
use crate::pg::value::{Param, optional, param};
use std::collections::HashMap;

static INSERT: Statement = Statement::write(include_str!("../../sql/query/insert_transitions.sql"));

/// A task's change of state; `from` is `None` at its creation.
pub struct TaskChange {
    pub task_id: i64,
    pub template_id: i64,
    pub from: Option<TaskState>,
    pub to: TaskState,
    pub at: Timestamp,
    pub traceparent: Option<String>,
}

/// A row of `transitions`, but for what is drawn or the same for all rows of a call.
struct Transition<'a> {
    task_id: i64,
    step_id: Option<i32>,
    attempt: Option<i32>,
    retry: Option<bool>,
    from: Option<&'static str>,
    to: &'static str,
    worker: Option<&'a str>,
    at: Timestamp,
    ready_at: Option<Timestamp>,
    claimed_at: Option<Timestamp>,
    metadata: Option<Jsonb>,
}

/// Texts as datums, each made once: most rows of a call repeat a few states and one worker.
#[derive(Default)]
struct Texts<'a>(Vec<(&'a str, Param)>);

impl<'a> Texts<'a> {
    fn get(&mut self, text: Option<&'a str>) -> Param {
        let Some(text) = text else { return optional(None::<&str>) };
        if let Some((_, made)) = self.0.iter().find(|(known, _)| *known == text) {
            return *made;
        }
        let made = param(text);
        if self.0.len() < 16 {
            self.0.push((text, made));
        }
        made
    }
}

/// Stores rows; returns their event ids. History is the most written table and is never updated, so its rows go
/// straight into it; where somebody has hung a trigger or a partial index on it, by a statement.
fn store(spi: &Session, rows: &[Transition], cause: &Cause) -> Vec<i64> {
    // In this order: whoever draws an event id has its transaction id before, which the stream rests on (engine::stream).
    let tx = Param::xid8(heap::transaction_id());
    let event_ids = heap::draw(c"transitions_event_id_seq", rows.len());
    let mut texts = Texts::default();
    let columns: Vec<[Param; 14]> = rows
        .iter()
        .zip(&event_ids)
        .map(|(row, &event_id)| {
            [
                param(event_id),
                param(row.task_id),
                tx,
                param(row.at),
                optional(row.ready_at),
                optional(row.claimed_at),
                optional(row.step_id),
                optional(row.attempt),
                optional(row.retry),
                texts.get(row.from),
                texts.get(Some(row.to)),
                texts.get(row.worker),
                texts.get(cause.actor.as_deref()),
                optional(row.metadata),
            ]
        })
        .collect();
    if !heap::append(c"transitions", &columns) {
        insert(spi, rows, &event_ids, cause);
    }
    event_ids
}

fn insert(spi: &Session, rows: &[Transition], event_ids: &[i64], cause: &Cause) {
    INSERT.run(
        spi,
        &[
            array(event_ids),
            array(&rows.iter().map(|row| row.task_id).collect::<Vec<i64>>()),
            array(&rows.iter().map(|row| row.at).collect::<Vec<Timestamp>>()),
            array_of_optional(&rows.iter().map(|row| row.step_id).collect::<Vec<_>>()),
            array_of_optional(&rows.iter().map(|row| row.attempt).collect::<Vec<_>>()),
            array_of_optional(&rows.iter().map(|row| row.from).collect::<Vec<_>>()),
            array(&rows.iter().map(|row| row.to).collect::<Vec<_>>()),
            array_of_optional(&rows.iter().map(|row| row.worker).collect::<Vec<_>>()),
            optional(cause.actor.as_deref()),
            array_of_optional(&rows.iter().map(|row| row.metadata).collect::<Vec<_>>()),
            array_of_optional(&rows.iter().map(|row| row.retry).collect::<Vec<_>>()),
            array_of_optional(&rows.iter().map(|row| row.ready_at).collect::<Vec<_>>()),
            array_of_optional(&rows.iter().map(|row| row.claimed_at).collect::<Vec<_>>()),
        ],
    );
}

/// Records the changed rows among `changes`. `metadata` gives a row's own, as JSON text; a failure's error is added.
pub fn record_steps(
    spi: &Session,
    changes: &[StepChange],
    cause: &Cause,
    metadata: impl Fn(&StepChange) -> Option<String>,
) {
    let changed: Vec<&StepChange> = changes
        .iter()
        .filter(|change| change.from != change.to)
        .filter(|change| !(change.to == StepState::Skipped && planted(Bug::SkipUnrecorded)))
        .collect();
    if !changed.is_empty() {
        record(spi, &changed, cause, metadata);
    }
}

/// Records all of these rows: also a backoff that was set, which leaves the state as it is.
pub fn record(spi: &Session, changed: &[&StepChange], cause: &Cause, metadata: impl Fn(&StepChange) -> Option<String>) {
    let with_error = |change: &StepChange| {
        let own = metadata(change).map(|text| Jsonb::from_text(&text));
        match &change.error {
            Some(error) => {
                let object = own.unwrap_or_else(Jsonb::empty_object);
                Some(object.with(&["error".to_owned()], Jsonb::from_bytes(error)))
            }
            None => own,
        }
    };
    let rows: Vec<Transition> = changed
        .iter()
        .map(|change| Transition {
            task_id: change.task_id,
            step_id: Some(change.step_id),
            attempt: Some(change.attempt),
            retry: change.retry(),
            from: Some(change.from.as_str()),
            to: change.to.as_str(),
            worker: change.worker.as_deref(),
            at: change.at,
            ready_at: change.ready_at,
            claimed_at: change.claimed_at,
            metadata: with_error(change),
        })
        .collect();
    let event_ids = store(spi, &rows, cause);
    if guc::notify_level() == NotifyLevel::Step {
        let traceparents = traceparents(changed);
        for (event_id, change) in event_ids.into_iter().zip(changed) {
            let template = graph_cache::template_of_row(change.template_id);
            let traceparent = traceparents.get(&change.task_id).map(String::as_str);
            events::announce_step(event_id, change, &template, traceparent);
        }
    }
}

/// The traceparents of the tasks of these steps, where they have one.
fn traceparents(changed: &[&StepChange]) -> HashMap<i64, String> {
    let mut task_ids: Vec<i64> = changed.iter().map(|change| change.task_id).collect();
    task_ids.sort_unstable();
    task_ids.dedup();
    let mut found = HashMap::new();
    TASKS_BY_KEY.each(Sees::Now, Key::runs(task_ids.into_iter()), |_, row| {
        if let Some(traceparent) = row.get(task::TRACEPARENT) {
            found.insert(row.want(task::TASK_ID), traceparent);
        }
    });
    found
}

/// Records changes of tasks.
pub fn record_tasks(spi: &Session, changes: &[TaskChange], cause: &Cause) {
    if changes.is_empty() {
        return;
    }
    let reason = cause.reason.as_deref();
    let metadata = reason.map(|reason| Jsonb::from_text(&serde_json::json!({ "reason": reason }).to_string()));
    let rows: Vec<Transition> = changes
        .iter()
        .map(|change| Transition {
            task_id: change.task_id,
            step_id: None,
            attempt: None,
            retry: None,
            from: change.from.map(TaskState::as_str),
            to: change.to.as_str(),
            worker: None,
            at: change.at,
            ready_at: None,
            claimed_at: None,
            metadata,
        })
        .collect();
    let event_ids = store(spi, &rows, cause);
    if guc::notify_level() >= NotifyLevel::Task {
        for (event_id, change) in event_ids.into_iter().zip(changes) {
            let template = graph_cache::template_of_row(change.template_id);
            events::announce_task(event_id, change, &template);
        }
    }
}

/// [`record_tasks`] in a session of its own.
pub fn record_task_changes(changes: &[TaskChange]) {
    spi::session(|spi| record_tasks(spi, changes, &scope::cause()));
}

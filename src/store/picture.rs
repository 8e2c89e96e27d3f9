//! What a picture of a task or a template shows, read for `picture`. Reads only: the caller's snapshot and rights.
use super::error::StoreError;
use super::graph_cache::{self, CachedTemplate};
use super::templates;
use crate::engine::state::{StepState, TaskState};
use crate::engine::time::Timestamp;
use crate::pg::spi::{self, Row as SpiRow, Session, Statement};
use crate::pg::time;
use crate::pg::value::param;
use crate::picture::Format;
use crate::picture::model::{Change, Picture, Row, Step, Task, text};
use std::rc::Rc;

static TASK: Statement = Statement::read(
    "SELECT template_id, state, created_at, finished_at, timed_out FROM stepwise.tasks WHERE task_id = $1",
);
static STEPS: Statement = Statement::read(
    "SELECT s.step_id, s.state, s.attempts, s.worker, s.visible_at, s.last_attempted_at, s.last_failure_at, \
         s.finished_at, q.paused \
     FROM stepwise.steps s JOIN stepwise.queues q ON q.queue_id = s.queue_id \
     WHERE s.task_id = $1 ORDER BY s.step_id",
);
// An error may be of any size and shape: its message where it has one, and of that the beginning.
static HISTORY: Statement = Statement::read(include_str!("../../sql/query/picture_history.sql"));

/// Changes that are read at most.
const MOST_CHANGES: usize = 20_000;

/// The template of a picture, beside which the picture borrows its graph.
pub struct Drawn {
    pub template: Rc<CachedTemplate>,
    steps: Vec<Step>,
    task: Option<Task>,
}

impl Drawn {
    pub fn picture(self, template: &CachedTemplate) -> Picture<'_> {
        Picture { label: text(&template.label), graph: &template.graph, steps: self.steps, task: self.task }
    }
}

/// A task as it is now.
pub fn of_task(task_id: i64, format: Format) -> Result<Drawn, StoreError> {
    spi::session(|spi| {
        let rows = TASK.run(spi, &[param(task_id)]);
        let row = rows.first().ok_or(StoreError::TaskNotFound { task_id })?;
        let template = graph_cache::template_of_row(row.want(1));
        let mut steps = steps_of(&template);
        for row in STEPS.run(spi, &[param(task_id)]).iter() {
            let index = usize::try_from(row.want::<i32>(1)).ok().and_then(|id| id.checked_sub(1));
            if let Some(step) = index.and_then(|index| steps.get_mut(index)) {
                step.row = Some(row_of_step(&row));
            }
        }
        let mut history = if format == Format::Html { history(spi, task_id) } else { Vec::new() };
        let history_is_cut = history.len() > MOST_CHANGES;
        history.truncate(MOST_CHANGES);
        let state = TaskState::parse(&row.want::<String>(2)).unwrap_or(TaskState::Pending);
        let (created_at, finished_at) = (row.want(3), row.get::<Timestamp>(4));
        let timed_out = state == TaskState::Error && row.want(5);
        let now = time::now();
        let task = Task { task_id, state, created_at, finished_at, timed_out, now, history, history_is_cut };
        Ok(Drawn { template, steps, task: Some(task) })
    })
}

/// A template, found as `create_task` finds it.
pub fn of_template(name: &str, namespace: Option<&str>, version: Option<&str>) -> Result<Drawn, StoreError> {
    let found = spi::session(|spi| templates::find(spi, name, namespace, version))?;
    let template = graph_cache::template_of_row(found.template_id);
    Ok(Drawn { steps: steps_of(&template), template, task: None })
}

fn steps_of(template: &CachedTemplate) -> Vec<Step> {
    let step = |step: &graph_cache::CachedStep| Step {
        name: text(&step.name),
        queue: text(graph_cache::queue_name(step.queue_id)),
        rule: step.rule,
        row: None,
    };
    template.steps.iter().map(step).collect()
}

fn row_of_step(row: &SpiRow) -> Row {
    Row {
        state: StepState::parse(&row.want::<String>(2)).unwrap_or(StepState::Pending),
        attempts: row.want(3),
        worker: row.get::<String>(4).map(text),
        visible_at: row.get(5),
        last_attempted_at: row.get(6),
        last_failure_at: row.get(7),
        finished_at: row.get(8),
        queue_paused: row.want(9),
    }
}

fn history(spi: &Session, task_id: i64) -> Vec<Change> {
    let rows = HISTORY.run(spi, &[param(task_id), param(MOST_CHANGES as i64 + 1)]);
    let change = |row: SpiRow| {
        let state = |column| row.get::<String>(column).and_then(|state| StepState::parse(&state));
        Some(Change {
            at: row.want(1),
            step_id: row.get(2),
            from: state(3),
            to: state(4)?,
            attempt: row.get(5),
            worker: row.get::<String>(6).map(text),
            actor: row.get::<String>(7).map(text),
            note: row.get::<String>(8).map(text).unwrap_or_default(),
            backoff_seconds: row.get(9),
            retryable: row.get(10),
            lease_expired: row.want(11),
        })
    };
    rows.iter().filter_map(change).collect()
}

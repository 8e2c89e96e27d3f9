//! Readiness and context of tasks. Reads only: the caller's snapshot, no transaction id, fit for a standby.
use super::graph_cache::{self, CachedTemplate};
use crate::engine::context::{Context, Tally};
use crate::engine::readiness::{Readiness, StepFacts, Surroundings, evaluate};
use crate::engine::state::{StepState, TaskState};
use crate::engine::time::Timestamp;
use crate::engine::transition::StepKey;
use crate::pg::array::array;
use crate::pg::spi::{self, Row, Session, Statement};
use crate::pg::time;
use crate::pg::value::no_array;
use std::rc::Rc;

static TASKS: Statement =
    Statement::read("SELECT task_id, template_id, state FROM stepwise.tasks WHERE task_id = ANY ($1) ORDER BY task_id");
static STEPS: Statement = Statement::read(
    "SELECT s.task_id, s.step_id, s.state, s.attempts, s.remaining_parents, s.visible_at, \
         s.backoff_request_seconds, s.retryable, s.last_attempted_at, s.last_failure_at, s.queue_id, s.priority \
     FROM stepwise.steps s WHERE s.task_id = ANY ($1) AND ($2 IS NULL OR s.step_id = ANY ($2)) \
     ORDER BY s.task_id, s.step_id",
);
static PAUSED_QUEUES: Statement = Statement::read("SELECT queue_id FROM stepwise.queues WHERE paused");
static NEXT_VISIBLE_AT: Statement = Statement::read(include_str!("../../sql/query/next_visible_at.sql"));

/// One step with what the rules say about it.
pub struct StepStatus {
    pub task_id: i64,
    pub step_id: i32,
    pub state: StepState,
    pub readiness: Readiness,
    pub attempts: i32,
    pub backoff_request_seconds: Option<i32>,
    pub last_attempted_at: Option<Timestamp>,
    pub visible_at: Option<Timestamp>,
    pub priority: i16,
    pub template: Rc<CachedTemplate>,
}

/// One task with what its steps amount to.
pub struct TaskStatus {
    pub task_id: i64,
    pub state: TaskState,
    pub template: Rc<CachedTemplate>,
    pub context: Context,
}

struct Task {
    task_id: i64,
    state: TaskState,
    template: Rc<CachedTemplate>,
}

fn tasks(spi: &Session, task_ids: &[i64]) -> Vec<Task> {
    let rows = TASKS.run(spi, &[array(task_ids)]);
    rows.iter()
        .filter_map(|row| {
            Some(Task {
                task_id: row.want(1),
                template: graph_cache::template_of_row(row.want(2)),
                state: TaskState::parse(&row.want::<String>(3))?,
            })
        })
        .collect()
}

/// Visits the steps of tasks in the order of their keys; `step_ids` limits which, never what is said of them.
fn each_step(
    spi: &Session,
    tasks: &[Task],
    step_ids: Option<&[i32]>,
    mut visit: impl FnMut(&Task, &Row, StepState, &StepFacts, Readiness),
) {
    let now = time::now();
    let paused: Vec<i64> = PAUSED_QUEUES.run(spi, &[]).iter().map(|row| row.want(1)).collect();
    let ids: Vec<i64> = tasks.iter().map(|task| task.task_id).collect();
    let rows = STEPS.run(spi, &[array(&ids), step_ids.map_or_else(no_array::<i32>, array)]);
    let mut tasks = tasks.iter();
    let mut current = tasks.next();
    for row in rows.iter() {
        let task_id: i64 = row.want(1);
        while current.is_some_and(|task| task.task_id < task_id) {
            current = tasks.next();
        }
        let (Some(task), Some(state)) = (current, StepState::parse(&row.want::<String>(3))) else { continue };
        let step_id: i32 = row.want(2);
        let Some(step) = task.template.step(step_id) else { continue };
        let facts = StepFacts {
            state,
            attempts: row.want(4),
            remaining_parents: row.want(5),
            total_parents: task.template.graph.parents(step_id).len() as i32,
            visible_at: row.get(6),
            backoff_request_seconds: row.get(7),
            retryable: row.get(8),
            last_attempted_at: row.get(9),
            last_failure_at: row.get(10),
        };
        let around = Surroundings { task: task.state, queue_paused: paused.contains(&row.want(11)) };
        let readiness = evaluate(&facts, &step.rule, &around, StepKey { task_id, step_id }, now);
        visit(task, &row, state, &facts, readiness);
    }
}

/// Readiness of the steps of tasks, ordered by task and step.
pub fn step_statuses(task_ids: &[i64], step_ids: Option<&[i32]>) -> Vec<StepStatus> {
    spi::session(|spi| {
        let tasks = tasks(spi, task_ids);
        let mut found = Vec::new();
        each_step(spi, &tasks, step_ids, |task, row, state, facts, readiness| {
            found.push(StepStatus {
                task_id: task.task_id,
                step_id: row.want(2),
                state,
                readiness,
                attempts: facts.attempts,
                backoff_request_seconds: facts.backoff_request_seconds,
                last_attempted_at: facts.last_attempted_at,
                visible_at: facts.visible_at,
                priority: row.want(12),
                template: Rc::clone(&task.template),
            });
        });
        found
    })
}

/// The steps that are ready now, in the order in which a claim would take them from one queue.
pub fn viable_steps(task_ids: &[i64]) -> Vec<StepStatus> {
    let mut steps = step_statuses(task_ids, None);
    steps.retain(|step| step.readiness.ready_for_execution);
    steps.sort_by_key(|step| (std::cmp::Reverse(step.priority), step.visible_at, step.task_id, step.step_id));
    steps
}

/// Execution contexts of tasks, ordered by task.
pub fn task_statuses(task_ids: &[i64]) -> Vec<TaskStatus> {
    spi::session(|spi| {
        let tasks = tasks(spi, task_ids);
        let mut tallies: Vec<(i64, Tally)> = Vec::with_capacity(tasks.len());
        each_step(spi, &tasks, None, |task, _, state, _, readiness| {
            if tallies.last().is_none_or(|(task_id, _)| *task_id != task.task_id) {
                tallies.push((task.task_id, Tally::default()));
            }
            if let Some((_, tally)) = tallies.last_mut() {
                tally.add(state, &readiness);
            }
        });
        let mut tallies = tallies.into_iter().peekable();
        tasks
            .into_iter()
            .map(|task| {
                let tally = tallies.next_if(|(task_id, _)| *task_id == task.task_id).map(|(_, tally)| tally);
                TaskStatus {
                    task_id: task.task_id,
                    state: task.state,
                    context: tally.unwrap_or_default().finish(task.state),
                    template: task.template,
                }
            })
            .collect()
    })
}

/// The earliest time at which a step of these queues can be claimed, which may be over; `None`: every queue, or no
/// such time.
pub fn next_visible_at(queues: Option<&[String]>) -> Option<Timestamp> {
    spi::session(|spi| {
        let rows = NEXT_VISIBLE_AT.run(spi, &[queues.map_or_else(no_array::<String>, array)]);
        rows.first().and_then(|row| row.get(1))
    })
}

//! Readiness and context of tasks. Reads only: the caller's snapshot, no transaction id, fit for a standby.
use super::columns::{QUEUES_BY_KEY, STEPS_BY_KEY, TASKS_BY_KEY, queues as queue, steps as step, tasks as task};
use super::graph_cache::{self, CachedTemplate};
use crate::engine::context::{Context, Tally};
use crate::engine::readiness::{Readiness, StepFacts, Surroundings, evaluate};
use crate::engine::state::{StepState, TaskState};
use crate::engine::time::Timestamp;
use crate::engine::transition::StepKey;
use crate::pg::array::array;
use crate::pg::lookup::{self, Sees};
use crate::pg::spi::{self, Statement};
use crate::pg::time;
use crate::pg::trigger::SlotRow;
use crate::pg::value::no_array;
use std::collections::BTreeSet;
use std::rc::Rc;

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

/// The tasks that there are, by id.
fn tasks(task_ids: &[i64]) -> Vec<Task> {
    lookup::check_may_read(c"tasks", None);
    let ids: BTreeSet<i64> = task_ids.iter().copied().collect();
    let mut found = Vec::with_capacity(ids.len());
    let mut templates: Option<(i64, Rc<CachedTemplate>)> = None;
    TASKS_BY_KEY.each(Sees::Caller, ids.into_iter().map(|id| (id, None)), |_, row| {
        let template_id = row.want(task::TEMPLATE_ID);
        let template = match &templates {
            Some((known, template)) if *known == template_id => Rc::clone(template),
            _ => graph_cache::template_of_row(template_id),
        };
        templates = Some((template_id, Rc::clone(&template)));
        let state = TaskState::parse(row.text(task::STATE)).unwrap_or(TaskState::Pending);
        found.push(Task { task_id: row.want(task::TASK_ID), state, template });
    });
    found
}

/// Which of the queues met so far are paused.
#[derive(Default)]
struct Queues(Vec<(i64, bool)>);

impl Queues {
    fn paused(&mut self, queue_id: i64) -> bool {
        if let Some((_, paused)) = self.0.iter().find(|(known, _)| *known == queue_id) {
            return *paused;
        }
        let mut paused = false;
        QUEUES_BY_KEY.each(Sees::Caller, std::iter::once((queue_id, None)), |_, row| paused = row.want(queue::PAUSED));
        self.0.push((queue_id, paused));
        paused
    }
}

/// Visits the steps of tasks in the order of their keys; `step_ids` limits which, never what is said of them.
fn each_step(tasks: &[Task], step_ids: Option<&[i32]>, mut visit: impl FnMut(&Task, &SlotRow, &StepFacts, Readiness)) {
    if tasks.is_empty() {
        return;
    }
    lookup::check_may_read(c"steps", Some(step::STATE as i16));
    lookup::check_may_read(c"queues", None);
    let now = time::now();
    let mut queues = Queues::default();
    let some: Option<BTreeSet<i32>> = step_ids.map(|ids| ids.iter().copied().collect());
    let keys: Vec<(usize, Option<i32>)> = match &some {
        None => (0..tasks.len()).map(|at| (at, None)).collect(),
        Some(ids) => (0..tasks.len()).flat_map(|at| ids.iter().map(move |&id| (at, Some(id)))).collect(),
    };
    let by_key = keys.iter().map(|&(at, step_id)| (tasks[at].task_id, step_id));
    STEPS_BY_KEY.each(Sees::Caller, by_key, |place, row| {
        let task = &tasks[keys[place].0];
        let step_id: i32 = row.want(step::STEP_ID);
        let (Some(state), Some(of_template)) = (StepState::parse(row.text(step::STATE)), task.template.step(step_id))
        else {
            return;
        };
        let facts = StepFacts {
            state,
            attempts: row.want(step::ATTEMPTS),
            remaining_parents: row.want(step::REMAINING_PARENTS),
            total_parents: task.template.graph.parents(step_id).len() as i32,
            visible_at: row.get(step::VISIBLE_AT),
            backoff_request_seconds: row.get(step::BACKOFF_REQUEST_SECONDS),
            retryable: row.get(step::RETRYABLE),
            last_attempted_at: row.get(step::LAST_ATTEMPTED_AT),
            last_failure_at: row.get(step::LAST_FAILURE_AT),
        };
        let around = Surroundings { task: task.state, queue_paused: queues.paused(row.want(step::QUEUE_ID)) };
        let key = StepKey { task_id: task.task_id, step_id };
        visit(task, row, &facts, evaluate(&facts, &of_template.rule, &around, key, now));
    });
}

/// Readiness of the steps of tasks, ordered by task and step.
pub fn step_statuses(task_ids: &[i64], step_ids: Option<&[i32]>) -> Vec<StepStatus> {
    let tasks = tasks(task_ids);
    let mut found = Vec::new();
    each_step(&tasks, step_ids, |task, row, facts, readiness| {
        found.push(StepStatus {
            task_id: task.task_id,
            step_id: row.want(step::STEP_ID),
            state: facts.state,
            readiness,
            attempts: facts.attempts,
            backoff_request_seconds: facts.backoff_request_seconds,
            last_attempted_at: facts.last_attempted_at,
            visible_at: facts.visible_at,
            priority: row.want(step::PRIORITY),
            template: Rc::clone(&task.template),
        });
    });
    found
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
    let tasks = tasks(task_ids);
    let mut tallies: Vec<(i64, Tally)> = Vec::with_capacity(tasks.len());
    each_step(&tasks, None, |task, _, facts, readiness| {
        if tallies.last().is_none_or(|(task_id, _)| *task_id != task.task_id) {
            tallies.push((task.task_id, Tally::default()));
        }
        if let Some((_, tally)) = tallies.last_mut() {
            tally.add(facts.state, &readiness);
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
}

/// The earliest time at which a step of these queues can be claimed, which may be over; `None`: every queue, or no
/// such time.
pub fn next_visible_at(queues: Option<&[String]>) -> Option<Timestamp> {
    spi::session(|spi| {
        let rows = NEXT_VISIBLE_AT.run(spi, &[queues.map_or_else(no_array::<String>, array)]);
        rows.first().and_then(|row| row.get(1))
    })
}

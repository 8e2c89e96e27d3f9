//! Readiness and context of tasks. Reads only: the caller's snapshot, no transaction id, fit for a standby.
use super::access::restriction_now;
use super::by_time::NEXT_VISIBLE;
use super::columns::{QUEUES_BY_KEY, STEPS_BY_KEY, TASKS_BY_KEY, queues as queue, steps as step, tasks as task};
use super::graph_cache::{self, CachedStep, CachedTemplate};
use crate::engine::access::Level;
use crate::engine::context::{Context, Tally};
use crate::engine::readiness::{Readiness, StepFacts, Surroundings, evaluate};
use crate::engine::state::{StepState, TaskState};
use crate::engine::time::Timestamp;
use crate::engine::transition::StepKey;
use crate::pg::array::array;
use crate::pg::lookup::{Key, Sees};
use crate::pg::spi;
use crate::pg::time;
use crate::pg::trigger::SlotRow;
use crate::pg::value::no_array;
use std::collections::BTreeSet;
use std::rc::Rc;

/// One step with what the rules say about it.
pub struct StepStatus<'a> {
    pub task_id: i64,
    pub step_id: i32,
    pub facts: &'a StepFacts,
    pub readiness: &'a Readiness,
    pub of_template: &'a CachedStep,
}

/// One step that is ready.
pub struct ViableStep {
    pub task_id: i64,
    pub step_id: i32,
    pub name: String,
    pub state: StepState,
    pub attempts: i32,
    pub priority: i16,
    pub visible_at: Option<Timestamp>,
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

/// The tasks that there are for the caller, by id.
fn tasks(task_ids: &[i64]) -> Vec<Task> {
    let ids: BTreeSet<i64> = task_ids.iter().copied().collect();
    let mut found: Vec<Task> = Vec::with_capacity(ids.len());
    let mut last: Option<(i64, Rc<CachedTemplate>)> = None;
    let restriction = restriction_now(Level::Reader);
    TASKS_BY_KEY.each(Sees::Caller, Key::runs(ids.into_iter()), |_, row| {
        if restriction.as_ref().is_some_and(|only| !only.has_template(row.want(task::TEMPLATE_ID))) {
            return;
        }
        let state = TaskState::parse(row.text(task::STATE)).unwrap_or(TaskState::Pending);
        let template_id = row.want(task::TEMPLATE_ID);
        let template = match &last {
            Some((known, template)) if *known == template_id => Rc::clone(template),
            _ => {
                let template = graph_cache::template_of_row(template_id);
                last = Some((template_id, Rc::clone(&template)));
                template
            }
        };
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
        let key = std::iter::once(Key::Run(queue_id, queue_id));
        QUEUES_BY_KEY.each(Sees::Caller, key, |_, row| paused = row.want(queue::PAUSED));
        self.0.push((queue_id, paused));
        paused
    }
}

/// Visits the steps of tasks in the order of their keys; `step_ids` limits which, never what is said of them.
fn each_step(tasks: &[Task], step_ids: Option<&[i32]>, mut visit: impl FnMut(&SlotRow, &StepStatus)) {
    if tasks.is_empty() {
        return;
    }
    let now = time::now();
    let mut queues = Queues::default();
    // The task of the row: rows come in the order of the tasks.
    let mut at = 0;
    let visit_row = |_: usize, row: &SlotRow| {
        // Read first, it lays open the columns before it.
        let state = StepState::parse(row.text(step::STATE));
        let (task_id, step_id) = (row.want::<i64>(step::TASK_ID), row.want::<i32>(step::STEP_ID));
        while tasks.get(at).is_some_and(|task| task.task_id < task_id) {
            at += 1;
        }
        let Some(task) = tasks.get(at).filter(|task| task.task_id == task_id) else { return };
        let (Some(state), Some(of_template)) = (state, task.template.step(step_id)) else { return };
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
        let readiness = evaluate(&facts, &of_template.rule, &around, StepKey { task_id, step_id }, now);
        visit(row, &StepStatus { task_id, step_id, facts: &facts, readiness: &readiness, of_template });
    };
    let task_ids = tasks.iter().map(|task| task.task_id);
    match step_ids {
        None => STEPS_BY_KEY.each(Sees::Caller, Key::runs(task_ids), visit_row),
        Some(ids) => {
            let ids: BTreeSet<i32> = ids.iter().copied().collect();
            let keys = task_ids.flat_map(|task_id| ids.iter().map(move |&step_id| Key::One(task_id, step_id)));
            STEPS_BY_KEY.each(Sees::Caller, keys, visit_row);
        }
    }
}

/// Visits the steps of tasks with their readiness, ordered by task and step.
pub fn each_step_status(task_ids: &[i64], step_ids: Option<&[i32]>, mut visit: impl FnMut(&StepStatus)) {
    each_step(&tasks(task_ids), step_ids, |_, status| visit(status));
}

/// The steps that are ready now, in the order in which a claim would take them from one queue.
pub fn viable_steps(task_ids: &[i64]) -> Vec<ViableStep> {
    let mut steps = Vec::new();
    each_step(&tasks(task_ids), None, |row, status| {
        if status.readiness.ready_for_execution {
            steps.push(ViableStep {
                task_id: status.task_id,
                step_id: status.step_id,
                name: status.of_template.name.clone(),
                state: status.facts.state,
                attempts: status.facts.attempts,
                priority: row.want(step::PRIORITY),
                visible_at: status.facts.visible_at,
            });
        }
    });
    steps.sort_by_key(|step| (std::cmp::Reverse(step.priority), step.visible_at, step.task_id, step.step_id));
    steps
}

/// Execution contexts of tasks, ordered by task.
pub fn task_statuses(task_ids: &[i64]) -> Vec<TaskStatus> {
    let tasks = tasks(task_ids);
    let mut tallies: Vec<(i64, Tally)> = Vec::with_capacity(tasks.len());
    each_step(&tasks, None, |_, status| {
        if tallies.last().is_none_or(|(task_id, _)| *task_id != status.task_id) {
            tallies.push((status.task_id, Tally::default()));
        }
        if let Some((_, tally)) = tallies.last_mut() {
            tally.add(status.facts.state, status.readiness);
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
        let queues = queues.map_or_else(no_array::<String>, array);
        let rows = NEXT_VISIBLE.run(spi, queues);
        rows.first().and_then(|row| row.get(1))
    })
}

//! A locked step that a claim has found, with what it needs to know of its task.
use super::columns::{TASKS_BY_KEY, steps as step, tasks as task};
use super::graph_cache::{self, CachedTemplate};
use crate::engine::rule::StepKind;
use crate::engine::state::StepState;
use crate::engine::time::Timestamp;
use crate::engine::transition::attempt_left;
use crate::pg::jsonb::Jsonb;
use crate::pg::lookup::{Key, Sees};
use crate::pg::planted::{Bug, planted};
use crate::pg::spi::Row;
use crate::pg::trigger::SlotRow;
use crate::pg::value::Tid;
use std::collections::HashMap;
use std::rc::Rc;

/// A locked row that is visible now.
pub struct Found {
    pub task_id: i64,
    pub step_id: i32,
    pub template: Rc<CachedTemplate>,
    pub attempts: i32,
    pub inputs: Option<Jsonb>,
    pub context: Option<Jsonb>,
    pub traceparent: Option<String>,
    pub task_is_pending: bool,
    /// It has taken places under limits.
    pub limited: bool,
    /// Where the row lies, unless a statement may have changed it since it was locked.
    pub(super) tid: Option<Tid>,
    pub(super) state: StepState,
    pub(super) queue_id: i64,
    pub(super) priority: i16,
    pub(super) deadline: Option<Timestamp>,
    pub(super) concurrency_key: Option<String>,
}

impl Found {
    /// A row of the statements of `claimable`.
    pub(super) fn read(row: &Row) -> Found {
        Found {
            task_id: row.want(1),
            step_id: row.want(2),
            template: graph_cache::template_of_row(row.want(3)),
            state: StepState::parse(&row.want::<String>(4)).unwrap_or(StepState::Cancelled),
            attempts: row.want(5),
            inputs: row.keep(6),
            context: row.keep(7),
            task_is_pending: row.want(8),
            queue_id: row.want(9),
            priority: row.want(10),
            deadline: row.get(11),
            concurrency_key: row.get(12),
            traceparent: row.get(13),
            limited: false,
            tid: None,
        }
    }

    /// A row of `steps`; what its task says comes by [`Found::with_tasks`].
    pub(super) fn of_step(row: &SlotRow) -> Found {
        let state = StepState::parse(row.text(step::STATE)).unwrap_or(StepState::Cancelled);
        Found {
            task_id: row.want(step::TASK_ID),
            step_id: row.want(step::STEP_ID),
            template: graph_cache::template_of_row(row.want(step::TEMPLATE_ID)),
            state,
            attempts: row.want(step::ATTEMPTS),
            inputs: row.get::<Jsonb>(step::INPUTS).map(Jsonb::keep),
            context: None,
            traceparent: None,
            task_is_pending: false,
            queue_id: row.want(step::QUEUE_ID),
            priority: row.want(step::PRIORITY),
            deadline: None,
            concurrency_key: None,
            limited: false,
            // A lease that is over ends first.
            tid: (state != StepState::InProgress).then(|| row.tid()),
        }
    }

    /// The rows with what their tasks say. A context is copied once for all steps of its task.
    pub(super) fn with_tasks(mut rows: Vec<Found>) -> Vec<Found> {
        let mut task_ids: Vec<i64> = rows.iter().map(|row| row.task_id).collect();
        task_ids.sort_unstable();
        task_ids.dedup();
        let mut tasks: HashMap<i64, OfTask> = HashMap::with_capacity(task_ids.len());
        let keys = task_ids.iter().map(|&task_id| Key::Run(task_id, task_id));
        TASKS_BY_KEY.each(Sees::Now, keys, |_, row| {
            let of_task = OfTask {
                context: row.get::<Jsonb>(task::CONTEXT).map(Jsonb::keep),
                is_pending: row.text(task::STATE) == "pending",
                deadline: row.get(task::DEADLINE),
                concurrency_key: row.get(task::CONCURRENCY_KEY),
                traceparent: row.get(task::TRACEPARENT),
            };
            tasks.insert(row.want(task::TASK_ID), of_task);
        });
        rows.retain_mut(|row| {
            let Some(of_task) = tasks.get(&row.task_id) else { return false };
            row.context = of_task.context;
            row.task_is_pending = of_task.is_pending;
            row.deadline = of_task.deadline;
            row.concurrency_key.clone_from(&of_task.concurrency_key);
            row.traceparent.clone_from(&of_task.traceparent);
            true
        });
        rows
    }

    pub(super) fn key(&self) -> (i64, i32) {
        (self.task_id, self.step_id)
    }

    pub(super) fn waits(&self) -> bool {
        self.template.step(self.step_id).is_some_and(|step| step.rule.kind == StepKind::Wait)
    }

    pub(super) fn is_overdue(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now) && !planted(Bug::DeadlineIgnored)
    }

    /// Whether it can be handed out, limits aside.
    pub(super) fn is_usable(&self, now: Timestamp) -> bool {
        self.template
            .step(self.step_id)
            .is_some_and(|step| step.rule.kind == StepKind::Work && attempt_left(self.attempts, &step.rule))
            && !self.is_overdue(now)
    }
}

struct OfTask {
    context: Option<Jsonb>,
    is_pending: bool,
    deadline: Option<Timestamp>,
    concurrency_key: Option<String>,
    traceparent: Option<String>,
}

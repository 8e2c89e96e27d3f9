//! The steps of one task that a session may run now, read and locked by their keys: a statement that joins them with their
//! task, queue and template would take longer than all the rest of a claim.
use super::claimable::Found;
use super::columns::{QUEUES_BY_KEY, STEPS_BY_KEY, TASKS_BY_KEY, queues as queue, steps as step, tasks as task};
use super::graph_cache;
use crate::engine::rule::StepKind;
use crate::engine::state::StepState;
use crate::engine::time::Timestamp;
use crate::pg::jsonb::Jsonb;
use crate::pg::lookup::{Key, Sees};
use crate::pg::trigger::SlotRow;
use std::cmp::Reverse;
use std::collections::HashMap;

/// What a claim asks of a queue.
struct Queue {
    paused: bool,
    max_in_flight: i32,
}

/// The locked steps with SQL handlers that are visible, by priority, then age, and the limits of their queues.
pub fn lock(task_id: i64, now: Timestamp) -> (Vec<Found>, HashMap<i64, i32>) {
    let mut queues: HashMap<i64, Queue> = HashMap::new();
    let mut rows: Vec<(Timestamp, Found)> = Vec::new();
    let wanted = |row: &SlotRow| {
        row.get::<Timestamp>(step::VISIBLE_AT).is_some_and(|visible_at| visible_at <= now)
            && graph_cache::template_of_row(row.want(step::TEMPLATE_ID))
                .step(row.want(step::STEP_ID))
                .is_some_and(|known| known.in_database || known.rule.kind == StepKind::Wait)
            && !queues.entry(row.want(step::QUEUE_ID)).or_insert_with_key(|id| read_queue(*id)).paused
    };
    let this_task = Key::Run(task_id, task_id);
    STEPS_BY_KEY.lock_each(this_task, wanted, |row| rows.push((row.want(step::VISIBLE_AT), read_step(row))));
    if rows.is_empty() {
        return (Vec::new(), HashMap::new());
    }
    TASKS_BY_KEY.each(Sees::Now, std::iter::once(this_task), |_, row| {
        // One copy for all of them.
        let context = row.get::<Jsonb>(task::CONTEXT).map(Jsonb::keep);
        for (_, found) in &mut rows {
            found.context = context;
            found.task_is_pending = row.text(task::STATE) == "pending";
            found.deadline = row.get(task::DEADLINE);
            found.concurrency_key = row.get(task::CONCURRENCY_KEY);
            found.traceparent = row.get(task::TRACEPARENT);
        }
    });
    rows.sort_by_key(|(visible_at, found)| (Reverse(found.priority), *visible_at));
    let limited = queues.iter().filter(|(_, queue)| queue.max_in_flight > 0);
    let max_in_flight = limited.map(|(id, queue)| (*id, queue.max_in_flight)).collect();
    (rows.into_iter().map(|(_, found)| found).collect(), max_in_flight)
}

fn read_step(row: &SlotRow) -> Found {
    Found {
        task_id: row.want(step::TASK_ID),
        step_id: row.want(step::STEP_ID),
        template: graph_cache::template_of_row(row.want(step::TEMPLATE_ID)),
        state: StepState::parse(row.text(step::STATE)).unwrap_or(StepState::Cancelled),
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
    }
}

fn read_queue(queue_id: i64) -> Queue {
    let mut queue = Queue { paused: true, max_in_flight: 0 };
    QUEUES_BY_KEY.each(Sees::Now, std::iter::once(Key::Run(queue_id, queue_id)), |_, row| {
        queue = Queue { paused: row.want(queue::PAUSED), max_in_flight: row.want(queue::MAX_IN_FLIGHT) };
    });
    queue
}

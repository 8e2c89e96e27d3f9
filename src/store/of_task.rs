//! The steps of one task that a session may run now, read and locked by their keys: a statement that joins them with their
//! task, queue and template would take longer than all the rest of a claim.
use super::columns::{QUEUES_BY_KEY, STEPS_BY_KEY, queues as queue, steps as step};
use super::found::Found;
use super::graph_cache;
use crate::engine::rule::StepKind;
use crate::engine::time::Timestamp;
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
    let (mut rows, mut times) = (Vec::new(), HashMap::new());
    let wanted = |row: &SlotRow| {
        row.get::<Timestamp>(step::VISIBLE_AT).is_some_and(|visible_at| visible_at <= now)
            && graph_cache::template_of_row(row.want(step::TEMPLATE_ID))
                .step(row.want(step::STEP_ID))
                .is_some_and(|known| known.in_database || known.rule.kind == StepKind::Wait)
            && !queues.entry(row.want(step::QUEUE_ID)).or_insert_with_key(|id| read_queue(*id)).paused
    };
    let this_task = Key::Run(task_id, task_id);
    STEPS_BY_KEY.lock_each(this_task, wanted, |row| {
        times.insert(row.want::<i32>(step::STEP_ID), row.want::<Timestamp>(step::VISIBLE_AT));
        rows.push(Found::of_step(row));
    });
    if rows.is_empty() {
        return (Vec::new(), HashMap::new());
    }
    let mut rows = Found::with_tasks(rows);
    rows.sort_by_key(|found| (Reverse(found.priority), times.get(&found.step_id).copied()));
    let limited = queues.iter().filter(|(_, queue)| queue.max_in_flight > 0);
    let max_in_flight = limited.map(|(id, queue)| (*id, queue.max_in_flight)).collect();
    (rows, max_in_flight)
}

fn read_queue(queue_id: i64) -> Queue {
    let mut queue = Queue { paused: true, max_in_flight: 0 };
    QUEUES_BY_KEY.each(Sees::Now, std::iter::once(Key::Run(queue_id, queue_id)), |_, row| {
        queue = Queue { paused: row.want(queue::PAUSED), max_in_flight: row.want(queue::MAX_IN_FLIGHT) };
    });
    queue
}

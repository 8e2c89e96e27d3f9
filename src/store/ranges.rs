//! Queries over the priorities that have visible steps, queue by queue.

/// Puts `WITH RECURSIVE ranges (queue_id, priority) AS (…)` before a query, over the queues `q` that a condition chooses.
/// The index has a queue's priorities in order, so the distinct ones are walked by one probe each; a queue without
/// visible steps gives one row, whose priority is NULL.
macro_rules! over_ranges {
    ($queues:expr, $query:expr) => {
        concat!(
            "WITH RECURSIVE ranges (queue_id, priority) AS ( \
                 SELECT q.queue_id, \
                     (SELECT s.priority FROM stepwise.steps AS s \
                      WHERE s.queue_id = q.queue_id AND s.visible_at IS NOT NULL ORDER BY s.priority DESC LIMIT 1) \
                 FROM stepwise.queues AS q WHERE ",
            $queues,
            " UNION ALL \
                 SELECT r.queue_id, \
                     (SELECT s.priority FROM stepwise.steps AS s \
                      WHERE s.queue_id = r.queue_id AND s.priority < r.priority AND s.visible_at IS NOT NULL \
                      ORDER BY s.priority DESC LIMIT 1) \
                 FROM ranges AS r WHERE r.priority IS NOT NULL) ",
            $query
        )
    };
}
pub(crate) use over_ranges;

/// The condition on a queue `q` that it is not paused and has a place free, if it is limited.
macro_rules! open_queue {
    () => {
        "NOT q.paused AND (q.max_in_flight = 0 OR EXISTS ( \
             SELECT FROM stepwise.slots AS b \
             WHERE b.kind = 'queue' AND b.owner_id = q.queue_id AND b.key = '' AND b.task_id IS NULL \
                 AND b.number <= q.max_in_flight))"
    };
}
pub(crate) use open_queue;

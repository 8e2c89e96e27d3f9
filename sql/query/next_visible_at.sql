-- The earliest time at which a step of these queues can be claimed. The index has a queue's priorities in order, so
-- the distinct ones are walked by one probe each, and each priority's earliest time is one more.
WITH RECURSIVE ranges (queue_id, priority) AS (
    SELECT q.queue_id,
           (SELECT s.priority FROM stepwise.steps AS s
            WHERE s.queue_id = q.queue_id AND s.visible_at IS NOT NULL ORDER BY s.priority DESC LIMIT 1)
    FROM stepwise.queues AS q
    WHERE NOT q.paused AND ($1 IS NULL OR q.name = ANY ($1))
        -- A queue that is full gets a place when a step ends, which is announced, or when a lease does.
        AND (q.max_in_flight = 0 OR EXISTS (
            SELECT FROM stepwise.slots AS b
            WHERE b.kind = 'queue' AND b.owner_id = q.queue_id AND b.key = '' AND b.task_id IS NULL
                AND b.number <= q.max_in_flight))
    UNION ALL
    SELECT r.queue_id,
           (SELECT s.priority FROM stepwise.steps AS s
            WHERE s.queue_id = r.queue_id AND s.priority < r.priority AND s.visible_at IS NOT NULL
            ORDER BY s.priority DESC LIMIT 1)
    FROM ranges AS r
    WHERE r.priority IS NOT NULL
)
SELECT least(
    (SELECT min((SELECT s.visible_at FROM stepwise.steps AS s
                 WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at < 'infinity'
                 ORDER BY s.visible_at LIMIT 1))
     FROM ranges AS r
     WHERE r.priority IS NOT NULL),
    (SELECT min((SELECT s.visible_at FROM stepwise.steps AS s WHERE s.task_id = b.task_id AND s.step_id = b.step_id))
     FROM stepwise.slots AS b
     JOIN stepwise.queues AS q ON q.queue_id = b.owner_id
     WHERE b.kind = 'queue' AND b.task_id IS NOT NULL AND NOT q.paused AND ($1 IS NULL OR q.name = ANY ($1))))

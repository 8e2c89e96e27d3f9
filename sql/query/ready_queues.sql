-- Queues from which a claim would get a step now.
-- The index has a queue's priorities in order, so the distinct ones are walked by one probe each.
WITH RECURSIVE ranges (queue_id, priority) AS (
    SELECT q.queue_id,
           (SELECT s.priority FROM stepwise.steps AS s
            WHERE s.queue_id = q.queue_id AND s.visible_at IS NOT NULL ORDER BY s.priority DESC LIMIT 1)
    FROM stepwise.queues AS q
    WHERE NOT q.paused
    UNION ALL
    SELECT r.queue_id,
           (SELECT s.priority FROM stepwise.steps AS s
            WHERE s.queue_id = r.queue_id AND s.priority < r.priority AND s.visible_at IS NOT NULL
            ORDER BY s.priority DESC LIMIT 1)
    FROM ranges AS r
    WHERE r.priority IS NOT NULL
)
SELECT DISTINCT r.queue_id
FROM ranges AS r
WHERE r.priority IS NOT NULL
    AND EXISTS (SELECT FROM stepwise.steps AS s
        WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at <= $1)
ORDER BY 1

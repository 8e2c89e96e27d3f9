-- The earliest time after $1 at which a step becomes visible or a task runs out of time.
-- The index has a queue's priorities in order, so the distinct ones are walked by one probe each.
WITH RECURSIVE ranges (queue_id, priority) AS (
    SELECT q.queue_id,
           (SELECT s.priority FROM stepwise.steps AS s
            WHERE s.queue_id = q.queue_id AND s.visible_at IS NOT NULL ORDER BY s.priority DESC LIMIT 1)
    FROM stepwise.queues AS q
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
                 WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at > $1
                     AND s.visible_at < 'infinity'
                 ORDER BY s.visible_at LIMIT 1))
     FROM ranges AS r WHERE r.priority IS NOT NULL),
    (SELECT t.deadline FROM stepwise.tasks AS t WHERE t.deadline > $1 ORDER BY t.deadline LIMIT 1))

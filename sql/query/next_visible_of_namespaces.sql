-- next_visible_at for the namespaces $2: the earliest time at which a step of these queues can be claimed: one probe for each priority. A queue that is full gets
-- a place when a step ends, which is announced, or when a lease does.
SELECT least(
    (SELECT min((SELECT s.visible_at FROM stepwise.steps AS s
                 WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at < 'infinity' AND EXISTS (
                         SELECT FROM stepwise.templates AS t JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
                         WHERE t.template_id = s.template_id AND n.name = ANY ($2))
                 ORDER BY s.visible_at LIMIT 1))
     FROM ranges AS r
     WHERE r.priority IS NOT NULL),
    (SELECT min((SELECT s.visible_at FROM stepwise.steps AS s WHERE s.task_id = b.task_id AND s.step_id = b.step_id AND EXISTS (
        SELECT FROM stepwise.templates AS t JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
        WHERE t.template_id = s.template_id AND n.name = ANY ($2))))
     FROM stepwise.slots AS b
     JOIN stepwise.queues AS q ON q.queue_id = b.owner_id
     WHERE b.kind = 'queue' AND b.task_id IS NOT NULL AND NOT q.paused AND ($1 IS NULL OR q.name = ANY ($1))))

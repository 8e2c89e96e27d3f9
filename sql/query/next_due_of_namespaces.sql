-- next_due for the namespaces $2: the earliest time after $1 at which a step becomes visible or a task runs out of time.
SELECT least(
    (SELECT min((SELECT s.visible_at FROM stepwise.steps AS s
                 WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at > $1
                     AND s.visible_at < 'infinity' AND EXISTS (
                             SELECT FROM stepwise.templates AS t JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
                             WHERE t.template_id = s.template_id AND n.name = ANY ($2))
                 ORDER BY s.visible_at LIMIT 1))
     FROM ranges AS r WHERE r.priority IS NOT NULL),
    (SELECT d.deadline FROM stepwise.tasks AS d WHERE d.deadline > $1 AND EXISTS (
        SELECT FROM stepwise.templates AS t JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
        WHERE t.template_id = d.template_id AND n.name = ANY ($2)) ORDER BY d.deadline LIMIT 1))

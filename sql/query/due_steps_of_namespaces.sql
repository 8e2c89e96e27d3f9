-- due_steps of the namespaces $2: of each queue and priority, among the oldest visible steps: those held beyond their leases, and waits beyond their time.
SELECT h.task_id, h.step_id
FROM ranges AS r
CROSS JOIN LATERAL (
    SELECT s.task_id, s.step_id, s.template_id, s.state FROM stepwise.steps AS s
    WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at <= $1
    AND EXISTS (
                SELECT FROM stepwise.templates AS t JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
                WHERE t.template_id = s.template_id AND n.name = ANY ($2))
    ORDER BY s.visible_at LIMIT 10000
) AS h
WHERE r.priority IS NOT NULL
    AND (h.state = 'in_progress' OR h.state = 'pending' AND EXISTS (
        SELECT FROM stepwise.template_steps AS e
        WHERE e.template_id = h.template_id AND e.step_id = h.step_id AND e.kind = 'wait'))
LIMIT 1000

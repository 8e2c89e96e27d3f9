-- The steps of a task, with what the template says of them.
SELECT s.step_id, s.state, r.name, r.kind, r.handler, r.retry_limit, q.name AS queue
FROM stepwise.steps AS s
JOIN stepwise.template_steps AS r USING (template_id, step_id)
JOIN stepwise.queues AS q ON q.queue_id = s.queue_id
WHERE s.task_id = %(task_id)s
ORDER BY s.step_id

-- Why the steps of a task do not move: psql -v task=12 -f why.sql
SELECT e.name AS step, s.state, x.reason, x.detail, date_trunc('second', x.until - stepwise.now()) AS left, x.rank
FROM stepwise.steps AS s
JOIN stepwise.template_steps AS e USING (template_id, step_id)
CROSS JOIN LATERAL stepwise.explain_step(s.task_id, s.step_id) AS x
WHERE s.task_id = :task AND s.state IN ('pending', 'in_progress', 'error')
ORDER BY s.step_id, x.position
LIMIT 30;

-- Why the steps of a task do not move: psql -v task=12 -f why.sql
SELECT format('There is no task %s (or none that this role may see).', :task) AS said, false AS moves
WHERE NOT EXISTS (SELECT FROM stepwise.tasks WHERE task_id = :task)
UNION ALL
SELECT format('Task %s has ended: %s%s, %s of %s steps done.', task_id, state, CASE WHEN timed_out THEN ' (timed out)' END,
           completed_steps, total_steps), false
FROM stepwise.tasks AS k
WHERE task_id = :task AND NOT EXISTS (
    SELECT FROM stepwise.steps AS s WHERE s.task_id = k.task_id AND s.state IN ('pending', 'in_progress', 'error'))
UNION ALL
SELECT NULL, true
ORDER BY moves
LIMIT 1
\gset why_
\if :why_moves
SELECT e.name AS step, s.state, x.reason, x.detail, date_trunc('second', x.until - stepwise.now()) AS left, x.rank
FROM stepwise.steps AS s
JOIN stepwise.template_steps AS e USING (template_id, step_id)
CROSS JOIN LATERAL stepwise.explain_step(s.task_id, s.step_id) AS x
WHERE s.task_id = :task AND s.state IN ('pending', 'in_progress', 'error')
ORDER BY s.step_id, x.position
LIMIT 30;
\else
\echo :why_said
\endif

-- What wants somebody to retry, resolve or cancel it, the latest first: steps that have failed for good, and tasks whose
-- time was over (docs/monitoring.md says what to do about those).
SELECT task_id AS task, namespace || '/' || template AS template, step, attempt,
       date_trunc('second', stepwise.now() - at) AS ago, error
FROM (
    SELECT task_id, namespace, template, step, attempts || '/' || retry_limit, last_failure_at, left(error::text, 60)
    FROM stepwise.failed_steps
    UNION ALL
    SELECT task_id, namespace, template, '(the task)', NULL, finished_at,
           format('timed out: %s of %s steps done', completed_steps, total_steps)
    FROM stepwise.failed_tasks
    WHERE timed_out
) AS f (task_id, namespace, template, step, attempt, at, error)
ORDER BY at DESC, task_id, step
LIMIT 15;

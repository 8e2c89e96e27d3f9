-- Steps that have failed for good and want somebody to retry, resolve or cancel them, the latest first.
SELECT task_id AS task, namespace || '/' || template AS template, step, attempts || '/' || retry_limit AS attempt,
       date_trunc('second', stepwise.now() - last_failure_at) AS ago, left(error::text, 60) AS error
FROM stepwise.failed_steps
ORDER BY last_failure_at DESC, task_id, step_id
LIMIT 15;

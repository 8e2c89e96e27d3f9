-- Steps that a worker holds, the oldest claim first. "left" below zero: the lease is over.
SELECT task_id AS task, namespace || '/' || template AS template, step, attempts || '/' || retry_limit AS attempt, worker,
       date_trunc('second', age) AS held, date_trunc('second', visible_at - stepwise.now()) AS left
FROM stepwise.live_steps
WHERE condition IN ('in_flight', 'lease_expired')
ORDER BY last_attempted_at, task_id, step_id
LIMIT 15;

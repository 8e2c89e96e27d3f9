-- New tasks of one template, with ids drawn before, so that every task is known by its place in the input; where a key
-- is taken (or comes twice) no row is inserted or returned. Keys come in order: two callers with overlapping keys wait
-- for each other one way round only.
INSERT INTO stepwise.tasks
    (task_id, template_id, created_at, finished_at, live_steps, total_steps, completed_steps, priority, state,
     requested_by, identity_key, tags, context, created_by, deadline, concurrency_key,
     traceparent)
SELECT i.task_id, $4, $5, CASE WHEN $9 = 'complete' THEN $5 END, $6, $7, $8, $10, $9, $11, i.identity_key, $12, i.context,
       $13, CASE WHEN $9 <> 'complete' THEN $14 END, i.concurrency_key,
       $16
FROM unnest($1, $2, $3, $15) AS i (task_id, context, identity_key, concurrency_key)
ON CONFLICT (template_id, identity_key) WHERE identity_key IS NOT NULL DO NOTHING
RETURNING task_id

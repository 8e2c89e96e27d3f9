-- New tasks of one template. Ids are drawn first, so that every task is known by its place in the input; where a key
-- is taken (or comes twice) no row is inserted. Keys are inserted in order: two callers with overlapping keys wait
-- for each other one way round only.
WITH input AS MATERIALIZED (
    SELECT i.ord, i.context,
           CASE
               WHEN i.identity_key IS NOT NULL THEN i.identity_key
               WHEN $12 THEN encode(sha256(convert_to($13 || i.context::text, 'UTF8')), 'hex')
           END AS identity_key,
           nextval('stepwise.tasks_task_id_seq'::regclass) AS task_id
    FROM unnest($1, $2) WITH ORDINALITY AS i (context, identity_key, ord)
), created AS (
    INSERT INTO stepwise.tasks
        (task_id, template_id, created_at, finished_at, live_steps, total_steps, completed_steps, priority, state,
         requested_by, identity_key, tags, context)
    SELECT input.task_id, $3, $4, CASE WHEN $8 = 'complete' THEN $4 END, $5, $6, $7, $9, $8, $10,
           input.identity_key, $11, input.context
    FROM input
    ORDER BY input.identity_key, input.ord
    ON CONFLICT (template_id, identity_key) WHERE identity_key IS NOT NULL DO NOTHING
    RETURNING task_id
)
SELECT input.ord::integer, created.task_id, input.identity_key
FROM input LEFT JOIN created USING (task_id)
ORDER BY input.ord

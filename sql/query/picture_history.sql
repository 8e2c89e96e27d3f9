-- The history of a task for its picture: at most $2 changes, the first ones. Metadata of any shape are read.
SELECT h.at, h.step_id, h.from_state, h.to_state, h.attempt, h.worker, h.actor,
       concat_ws('; ',
           CASE WHEN (h.metadata -> 'bypassed') = 'true' THEN 'bypassed' END,
           replace(h.metadata ->> 'reason', '_', ' '),
           'with ' || (h.metadata ->> 'cause'),
           left(CASE jsonb_typeof(h.metadata -> 'error')
                    WHEN 'object' THEN coalesce(h.metadata -> 'error' ->> 'message', h.metadata ->> 'error')
                    WHEN 'null' THEN NULL
                    ELSE h.metadata ->> 'error' END, 300)),
       CASE WHEN jsonb_typeof(h.metadata -> 'backoff_seconds') = 'number'
            THEN (h.metadata -> 'backoff_seconds')::integer END,
       CASE WHEN jsonb_typeof(h.metadata -> 'retryable') = 'boolean' THEN (h.metadata -> 'retryable')::boolean END,
       coalesce(h.metadata ->> 'reason' = 'lease_expired', false)
FROM stepwise.transitions AS h
WHERE h.task_id = $1
ORDER BY h.event_id
LIMIT $2

-- The steps of one template, in the order of their ids; intervals in microseconds.
SELECT parents, name, handler, config, queue_id, priority, retry_limit, retryable, skippable,
       (date_part('epoch', timeout) * 1e6)::bigint,
       (date_part('epoch', backoff_base) * 1e6)::bigint,
       (date_part('epoch', backoff_cap) * 1e6)::bigint,
       backoff_jitter, kind, in_database, (date_part('epoch', delay) * 1e6)::bigint
FROM stepwise.template_steps
WHERE template_id = $1
ORDER BY step_id

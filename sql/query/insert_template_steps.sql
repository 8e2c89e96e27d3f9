-- The steps of a new template. Arrays of arrays travel as text, because unnest would flatten them.
INSERT INTO stepwise.template_steps
    (template_id, step_id, level, name, description, handler, queue_id, priority, parents, children, retryable,
     retry_limit, skippable, timeout, backoff_base, backoff_cap, backoff_jitter, config, kind, in_database, delay)
SELECT $1, i.step_id, i.level, i.name, i.description, i.handler, q.queue_id, i.priority, i.parents::integer[],
       i.children::integer[], i.retryable, i.retry_limit, i.skippable, i.timeout * interval '1 microsecond',
       i.backoff_base * interval '1 microsecond', i.backoff_cap * interval '1 microsecond', i.backoff_jitter,
       i.config::jsonb, i.kind, i.in_database, i.delay * interval '1 microsecond'
FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
    AS i (step_id, level, name, description, handler, queue, priority, parents, children, retryable, retry_limit,
          skippable, timeout, backoff_base, backoff_cap, backoff_jitter, config, kind, in_database, delay)
JOIN stepwise.queues AS q ON q.name = i.queue

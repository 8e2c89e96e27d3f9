-- A template of steps that differ in their edges alone. Arrays of arrays travel as text, because unnest flattens them.
INSERT INTO floor.template_steps
    (template_id, queue_id, backoff_jitter, timeout, backoff_base, backoff_cap, step_id, level, retry_limit, priority,
     retryable, skippable, name, handler, parents, children)
SELECT $1, 1, 0, '60 seconds', '1 second', '30 seconds', i.step_id, 0, 3, 0, true, false, i.name, i.name,
       i.parents::integer[], i.children::integer[]
FROM unnest($2::integer[], $3::text[], $4::text[], $5::text[]) AS i (step_id, name, parents, children)

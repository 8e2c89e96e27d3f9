-- History of steps: one row per change. The error that a worker reported is kept here, because the next failure
-- overwrites it on the step.
INSERT INTO stepwise.transitions (task_id, step_id, from_state, to_state, attempt, worker, actor, at, metadata)
SELECT i.task_id, i.step_id, i.from_state, i.to_state, i.attempt, i.worker, $9, i.at,
       CASE
           WHEN i.error IS NULL THEN i.metadata::jsonb
           ELSE coalesce(i.metadata::jsonb, '{}') || jsonb_build_object('error', i.error)
       END
FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $10)
    AS i (task_id, step_id, from_state, to_state, attempt, worker, metadata, error, at)

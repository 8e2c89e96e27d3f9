-- History by a statement: for a table that somebody has hung a trigger or a partial index on (src/store/history.rs).
INSERT INTO stepwise.transitions
    (event_id, task_id, at, step_id, attempt, retry, from_state, to_state, worker, actor, metadata, ready_at,
     claimed_at)
SELECT i.event_id, i.task_id, i.at, i.step_id, i.attempt, i.retry, i.from_state, i.to_state, i.worker, $9, i.metadata,
       i.ready_at, i.claimed_at
FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $10, $11, $12, $13)
    AS i (event_id, task_id, at, step_id, attempt, from_state, to_state, worker, metadata, retry, ready_at,
          claimed_at)

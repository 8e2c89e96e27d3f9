-- The history in the layout of state-machine libraries: a sort_key per subject and the most recent row marked, without
-- the update that keeping such a mark would cost.

CREATE VIEW stepwise.task_transitions WITH (security_invoker = true) AS
SELECT event_id AS id, task_id, from_state, to_state,
       pg_catalog.row_number() OVER (PARTITION BY task_id ORDER BY event_id)::integer AS sort_key,
       pg_catalog.lead(event_id) OVER (PARTITION BY task_id ORDER BY event_id) IS NULL AS most_recent,
       actor, metadata, at AS created_at
FROM stepwise.transitions
WHERE step_id IS NULL;

CREATE VIEW stepwise.step_transitions WITH (security_invoker = true) AS
SELECT event_id AS id, task_id, step_id, from_state, to_state,
       pg_catalog.row_number() OVER (PARTITION BY task_id, step_id ORDER BY event_id)::integer AS sort_key,
       pg_catalog.lead(event_id) OVER (PARTITION BY task_id, step_id ORDER BY event_id) IS NULL AS most_recent,
       attempt, worker, actor, metadata, at AS created_at, ready_at, claimed_at
FROM stepwise.transitions
WHERE step_id IS NOT NULL;

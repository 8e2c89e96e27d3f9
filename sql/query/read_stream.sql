-- The history of all tasks from one event to another (src/store/stream.rs).
SELECT event_id, task_id, at, step_id, attempt, retry, from_state, to_state, worker, actor, metadata
FROM stepwise.transitions
WHERE event_id > $1 AND event_id <= $2
ORDER BY event_id

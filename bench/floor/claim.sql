-- Takes up to $2 steps of queue $1 for worker $3. Returns what a worker cannot do without: the step's key, the token of
-- this claim, the attempt, the task's context. No names, no results of the parents.
WITH due AS (
    SELECT s.task_id, s.step_id, s.state AS from_state, s.visible_at AS ready_at, t.state AS task_state, t.context
    FROM floor.steps AS s JOIN floor.tasks AS t ON t.task_id = s.task_id
    WHERE s.queue_id = $1 AND s.priority = 0 AND s.visible_at <= now()
    ORDER BY s.visible_at
    LIMIT $2
    FOR UPDATE OF s SKIP LOCKED
), taken AS (
    UPDATE floor.steps AS s
    SET state = 'in_progress', attempts = s.attempts + 1, claim_token = (random() * 70368744177664)::bigint,
        visible_at = now() + interval '60 seconds', last_attempted_at = now(), worker = $3
    FROM due
    WHERE s.task_id = due.task_id AND s.step_id = due.step_id
    RETURNING s.task_id, s.step_id, s.claim_token, s.attempts, due.from_state, due.ready_at, due.task_state, due.context
), history AS (
    INSERT INTO floor.transitions (task_id, step_id, from_state, to_state, attempt, worker, at, ready_at)
    SELECT task_id, step_id, from_state, 'in_progress', attempts, $3, now(), ready_at FROM taken
), started AS (
    UPDATE floor.tasks AS t
    SET state = 'in_progress', started_at = now()
    FROM (SELECT DISTINCT task_id FROM taken WHERE task_state = 'pending') AS first
    WHERE t.task_id = first.task_id AND t.state = 'pending'
    RETURNING t.task_id
), task_history AS (
    INSERT INTO floor.transitions (task_id, from_state, to_state, at)
    SELECT task_id, 'pending', 'in_progress', now() FROM started
)
SELECT task_id, step_id, claim_token, attempts, context FROM taken

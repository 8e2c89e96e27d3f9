-- Tasks $2 to $3 of template $1 and their ten steps, complete, with the history that they would have.
INSERT INTO stepwise.tasks (task_id, template_id, created_at, started_at, finished_at, live_steps, total_steps,
    completed_steps, state, requested_by, context)
SELECT t, $1, now(), now(), now(), 0, 10, 10, 'complete', 'bench', '{"order_id":123,"customer":"abc"}'
FROM generate_series($2::bigint, $3::bigint) AS t;

INSERT INTO stepwise.steps (task_id, template_id, queue_id, claim_token, last_attempted_at, finished_at, step_id,
    remaining_parents, attempts, state, worker, results)
SELECT t, $1, (SELECT queue_id FROM stepwise.template_steps WHERE template_id = $1 AND step_id = 1), t * 10 + s, now(),
    now(), s, 0, 1, 'complete', 'w1', '{"ok":true,"value":42}'
FROM generate_series($2::bigint, $3::bigint) AS t CROSS JOIN generate_series(1, 10) AS s;

INSERT INTO stepwise.transitions (task_id, at, step_id, attempt, from_state, to_state, worker)
SELECT t, now(), s, 1, c.from_state, c.to_state, 'w1'
FROM generate_series($2::bigint, $3::bigint) AS t CROSS JOIN generate_series(1, 10) AS s
    CROSS JOIN (VALUES ('pending', 'in_progress'), ('in_progress', 'complete')) AS c (from_state, to_state)
WHERE $1::bigint IS NOT NULL

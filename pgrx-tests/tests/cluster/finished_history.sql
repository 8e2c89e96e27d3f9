-- A history of tasks that have ended, as workers would have left it, written directly: history.tasks tasks of template 1,
-- from the id history.first on, ten steps in a chain, one task each 0.1 s, the last one an hour ago.
BEGIN;
SET LOCAL session_replication_role = replica;
CREATE TEMPORARY TABLE made ON COMMIT DROP AS
SELECT current_setting('history.first')::bigint + n - 1 AS task_id,
       stepwise.now() - interval '1 hour' - (current_setting('history.tasks')::integer - n) * interval '0.1 s' AS start
FROM generate_series(1, current_setting('history.tasks')::integer) AS n;
INSERT INTO stepwise.tasks (task_id, template_id, created_at, started_at, finished_at, live_steps, total_steps,
    completed_steps, state, requested_by)
SELECT task_id, 1, start, start + interval '1 s', start + interval '20 s', 0, 10, 10, 'complete', 'somebody' FROM made;
INSERT INTO stepwise.steps (task_id, template_id, queue_id, step_id, remaining_parents, attempts, state, worker,
    last_attempted_at, finished_at, claim_token, results)
SELECT task_id, 1, 1, s, 0, 1, 'complete', 'w' || task_id % 20, start + s * interval '2 s' - interval '1 s',
       start + s * interval '2 s', task_id, '{"ok": true}'
FROM made, generate_series(1, 10) AS s;
INSERT INTO stepwise.transitions (event_id, task_id, tx, at, ready_at, claimed_at, step_id, attempt, from_state, to_state,
    worker)
SELECT nextval('stepwise.transitions_event_id_seq'), task_id, '3', at, ready_at, claimed_at, step_id, attempt, from_state,
       to_state, worker
FROM (
    SELECT m.task_id, m.start + e.after * interval '1 s' AS at,
           CASE WHEN e.kind = 1 THEN m.start + (e.after - 0.5) * interval '1 s' END AS ready_at,
           CASE WHEN e.kind = 2 THEN m.start + (e.after - 1) * interval '1 s' END AS claimed_at,
           CASE WHEN e.kind IN (1, 2) THEN e.step_id END AS step_id,
           CASE WHEN e.kind IN (1, 2) THEN 1 END AS attempt,
           CASE e.kind WHEN 1 THEN 'pending' WHEN 2 THEN 'in_progress' WHEN 3 THEN 'pending' WHEN 4 THEN 'in_progress' END
               AS from_state,
           CASE e.kind WHEN 0 THEN 'pending' WHEN 1 THEN 'in_progress' WHEN 3 THEN 'in_progress' ELSE 'complete' END
               AS to_state,
           CASE WHEN e.kind IN (1, 2) THEN 'w' || m.task_id % 20 END AS worker
    FROM made AS m
    CROSS JOIN (
        SELECT 0 AS kind, 0::numeric AS after, 0 AS step_id
        UNION ALL SELECT 3, 1, 0 UNION ALL SELECT 4, 20, 0
        UNION ALL SELECT k, 2 * s - (2 - k), s FROM generate_series(1, 10) AS s, generate_series(1, 2) AS k
    ) AS e
    -- Nearly in the order of time, as it would have been.
    ORDER BY m.task_id / 100, e.after
) AS h;
SELECT setval('stepwise.tasks_task_id_seq', max(task_id)) FROM stepwise.tasks;
COMMIT;

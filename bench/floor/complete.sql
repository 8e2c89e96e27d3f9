-- Completes steps $1, $2 with results $3: history, children, counters, the task's end. Returns how many.
WITH done AS (
    UPDATE floor.steps AS s
    SET state = 'complete', finished_at = now(), results = i.results, visible_at = NULL
    FROM unnest($1::bigint[], $2::integer[], $3::jsonb[]) AS i (task_id, step_id, results)
    WHERE s.task_id = i.task_id AND s.step_id = i.step_id AND s.state = 'in_progress'
    RETURNING s.task_id, s.step_id, s.template_id, s.attempts, s.worker, s.last_attempted_at
), history AS (
    INSERT INTO floor.transitions (task_id, step_id, from_state, to_state, attempt, worker, at, claimed_at)
    SELECT task_id, step_id, 'in_progress', 'complete', attempts, worker, now(), last_attempted_at FROM done
), children AS (
    SELECT d.task_id, c.step_id, count(*)::integer AS parents
    FROM done AS d
    JOIN floor.template_steps AS t ON t.template_id = d.template_id AND t.step_id = d.step_id
    CROSS JOIN LATERAL unnest(t.children) AS c (step_id)
    GROUP BY d.task_id, c.step_id
), settled AS (
    UPDATE floor.steps AS s
    SET remaining_parents = s.remaining_parents - c.parents,
        visible_at = CASE WHEN s.remaining_parents = c.parents THEN now() END
    FROM children AS c
    WHERE s.task_id = c.task_id AND s.step_id = c.step_id
    RETURNING s.task_id, s.remaining_parents
), deltas AS (
    SELECT task_id, sum(live)::integer AS live, sum(completed)::integer AS completed
    FROM (
        SELECT task_id, -1 AS live, 1 AS completed FROM done
        UNION ALL
        SELECT task_id, 1, 0 FROM settled WHERE remaining_parents = 0
    ) AS changes
    GROUP BY task_id
), counted AS (
    UPDATE floor.tasks AS t
    SET live_steps = t.live_steps + d.live,
        completed_steps = t.completed_steps + d.completed,
        state = CASE WHEN t.live_steps + d.live = 0 THEN 'complete' ELSE t.state END,
        finished_at = CASE WHEN t.live_steps + d.live = 0 THEN now() END
    FROM deltas AS d
    WHERE t.task_id = d.task_id
    RETURNING t.task_id, t.state
), task_history AS (
    INSERT INTO floor.transitions (task_id, from_state, to_state, at)
    SELECT task_id, 'in_progress', 'complete', now() FROM counted WHERE state = 'complete'
)
SELECT count(*) FROM done

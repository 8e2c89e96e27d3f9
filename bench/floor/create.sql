-- One task per context, with its steps and the first row of its history.
WITH shape AS (
    SELECT count(*)::integer AS total_steps, (count(*) FILTER (WHERE parents = '{}'))::integer AS live_steps
    FROM floor.template_steps
    WHERE template_id = $1
), created AS (
    INSERT INTO floor.tasks (template_id, created_at, live_steps, total_steps, created_by, requested_by, context)
    SELECT $1, now(), shape.live_steps, shape.total_steps, current_user, current_user, i.context
    FROM unnest($2::jsonb[]) AS i (context) CROSS JOIN shape
    RETURNING task_id
), history AS (
    INSERT INTO floor.transitions (task_id, to_state, at) SELECT task_id, 'pending', now() FROM created
), laid_out AS (
    INSERT INTO floor.steps (task_id, template_id, queue_id, visible_at, step_id, remaining_parents, priority)
    SELECT created.task_id, $1, t.queue_id, CASE WHEN t.parents = '{}' THEN now() END, t.step_id,
           cardinality(t.parents), t.priority
    FROM created CROSS JOIN floor.template_steps AS t
    WHERE t.template_id = $1
)
SELECT task_id FROM created

-- The roles whose tasks have steps with SQL handlers that can be claimed now, and how many of the oldest of each queue and
-- priority; role_id is NULL where the role is gone, and may_connect says whether a process can be that role.
WITH RECURSIVE ranges (queue_id, priority) AS (
    SELECT q.queue_id,
           (SELECT s.priority FROM stepwise.steps AS s
            WHERE s.queue_id = q.queue_id AND s.visible_at IS NOT NULL ORDER BY s.priority DESC LIMIT 1)
    FROM stepwise.queues AS q
    WHERE NOT q.paused
    UNION ALL
    SELECT r.queue_id,
           (SELECT s.priority FROM stepwise.steps AS s
            WHERE s.queue_id = r.queue_id AND s.priority < r.priority AND s.visible_at IS NOT NULL
            ORDER BY s.priority DESC LIMIT 1)
    FROM ranges AS r
    WHERE r.priority IS NOT NULL
)
SELECT d.created_by, o.oid,
       coalesce((o.rolcanlogin OR current_setting('server_version_num')::integer >= 170000)
           AND has_database_privilege(o.oid, current_database(), 'CONNECT'), false),
       d.steps
FROM (
    SELECT coalesce(t.created_by, '') AS created_by, count(*)::integer AS steps
    FROM ranges AS r
    CROSS JOIN LATERAL (
        SELECT s.task_id, s.step_id, s.template_id FROM stepwise.steps AS s
        WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at <= $1
        ORDER BY s.visible_at LIMIT 100
    ) AS h
    JOIN stepwise.template_steps AS e ON e.template_id = h.template_id AND e.step_id = h.step_id AND e.in_database
    JOIN stepwise.tasks AS t ON t.task_id = h.task_id
    WHERE r.priority IS NOT NULL
    GROUP BY 1
) AS d
LEFT JOIN pg_roles AS o ON o.rolname = d.created_by
ORDER BY d.created_by

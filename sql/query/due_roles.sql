-- The roles whose tasks have steps with SQL handlers that can be claimed now, and how many of the oldest of each queue and
-- priority; role_id is NULL where the role is gone, and may_connect says whether a process can be that role.
SELECT d.created_by, o.oid,
       coalesce((o.rolcanlogin OR current_setting('server_version_num')::integer >= 170000)
           AND has_database_privilege(o.oid, current_database(), 'CONNECT'), false),
       d.steps
FROM (
    SELECT coalesce(h.created_by, '') AS created_by, count(*)::integer AS steps
    FROM ranges AS r
    CROSS JOIN LATERAL (
        SELECT t.created_by FROM stepwise.steps AS s
        JOIN stepwise.template_steps AS e ON e.template_id = s.template_id AND e.step_id = s.step_id AND e.in_database
        JOIN stepwise.tasks AS t ON t.task_id = s.task_id
        WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at <= $1
        ORDER BY s.visible_at LIMIT 100
    ) AS h
    WHERE r.priority IS NOT NULL
    GROUP BY 1
) AS d
LEFT JOIN pg_roles AS o ON o.rolname = d.created_by
ORDER BY d.created_by

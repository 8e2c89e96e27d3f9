-- The earliest time after $1 at which a step becomes visible or a task runs out of time.
SELECT least(
    (SELECT min((SELECT s.visible_at FROM stepwise.steps AS s
                 WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at > $1
                     AND s.visible_at < 'infinity'
                 ORDER BY s.visible_at LIMIT 1))
     FROM ranges AS r WHERE r.priority IS NOT NULL),
    (SELECT t.deadline FROM stepwise.tasks AS t WHERE t.deadline > $1 ORDER BY t.deadline LIMIT 1))

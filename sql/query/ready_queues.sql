-- Queues from which a claim would get a step now.
SELECT DISTINCT r.queue_id
FROM ranges AS r
WHERE r.priority IS NOT NULL
    AND EXISTS (SELECT FROM stepwise.steps AS s
        WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at <= $1)
ORDER BY 1

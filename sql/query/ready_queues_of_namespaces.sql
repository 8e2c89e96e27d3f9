-- ready_queues for the namespaces $2: queues from which a claim would get a step now.
SELECT DISTINCT r.queue_id
FROM ranges AS r
WHERE r.priority IS NOT NULL
    AND EXISTS (SELECT FROM stepwise.steps AS s
        WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at <= $1 AND EXISTS (
            SELECT FROM stepwise.templates AS t JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
            WHERE t.template_id = s.template_id AND n.name = ANY ($2)))
ORDER BY 1

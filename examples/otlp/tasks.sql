-- Finished tasks: by their ids, or those that finished within an interval.
SELECT t.task_id, t.traceparent, t.created_at AT TIME ZONE 'UTC' AS created_at,
       t.finished_at AT TIME ZONE 'UTC' AS finished_at, t.state, t.timed_out, t.requested_by, t.identity_key, t.tags,
       t.priority, t.total_steps, t.template_id, n.name AS namespace, r.name, r.version, current_database() AS database
FROM stepwise.tasks AS t
JOIN stepwise.templates AS r USING (template_id)
JOIN stepwise.namespaces AS n USING (namespace_id)
WHERE t.finished_at IS NOT NULL
  AND (t.task_id = ANY (%(task_ids)s) OR t.finished_at >= stepwise.now() - %(since)s::interval)
ORDER BY t.task_id

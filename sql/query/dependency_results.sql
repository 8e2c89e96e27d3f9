-- What the parents of claimed steps returned: {"parent name": its results, ...} per claimed step.
SELECT i.ord, jsonb_object_agg(i.name, p.results)
FROM unnest($1, $2, $3, $4) AS i (ord, task_id, step_id, name)
JOIN stepwise.steps AS p ON p.task_id = i.task_id AND p.step_id = i.step_id
GROUP BY i.ord

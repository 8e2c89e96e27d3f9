-- What the steps of each of the tasks $1 amount to, from their recomputed readiness.
SELECT task_id, count(*) AS total_steps,
       count(*) FILTER (WHERE current_state = 'pending') AS pending_steps,
       count(*) FILTER (WHERE in_process) AS in_progress_steps,
       count(*) FILTER (WHERE processed) AS completed_steps,
       count(*) FILTER (WHERE current_state = 'error') AS failed_steps,
       count(*) FILTER (WHERE ready_for_execution) AS ready_steps,
       count(*) FILTER (WHERE processed) * 100.0 / count(*) AS completion_percentage
FROM reference.readiness_batch($1) AS r
GROUP BY task_id
ORDER BY task_id

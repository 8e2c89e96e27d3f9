-- The counters of tasks, and their start. Arithmetic under the row's lock: two workers that finish the last two steps
-- at the same moment cannot both miss the end. The trigger on tasks decides what the new counters mean.
UPDATE stepwise.tasks AS t
SET live_steps = t.live_steps + i.live,
    completed_steps = t.completed_steps + i.completed,
    failed_steps = t.failed_steps + i.failed,
    cancelled_steps = t.cancelled_steps + i.cancelled,
    state = CASE WHEN i.started AND t.state = 'pending' THEN 'in_progress' ELSE t.state END
FROM i
WHERE t.task_id = i.task_id
    AND (i.live <> 0 OR i.completed <> 0 OR i.failed <> 0 OR i.cancelled <> 0
        OR (i.started AND t.state = 'pending'))

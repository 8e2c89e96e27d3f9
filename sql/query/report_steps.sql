-- Reports of workers, completions and failures in one statement. The token fences: a step that was claimed again, or
-- that an operator decided, keeps its row. An explicit backoff is counted from the attempt's start, so the time that
-- the attempt took is added to what the worker asked for.
UPDATE stepwise.steps AS s
SET state = i.state,
    results = CASE WHEN i.state = 'complete' THEN i.results ELSE s.results END,
    error = i.error,
    retryable = i.retryable,
    backoff_request_seconds = CASE WHEN i.retry_after IS NOT NULL THEN i.retry_after
        + greatest(0, least(1e9, round(date_part('epoch', $9 - s.last_attempted_at))))::integer END
FROM i
WHERE s.task_id = i.task_id AND s.step_id = i.step_id
    AND s.state = 'in_progress' AND s.claim_token = i.claim_token
RETURNING s.task_id, s.step_id, s.claim_token

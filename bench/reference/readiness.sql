-- Readiness of every step of the tasks $1, recomputed: parents counted over the edges, states from the most recent
-- transitions, the last failure from the history.
WITH current AS (
    SELECT s.*, coalesce(t.to_state, 'pending') AS state
    FROM reference.steps AS s
    LEFT JOIN reference.transitions AS t ON t.task_id = s.task_id AND t.step_id = s.step_id AND t.most_recent
    WHERE s.task_id = ANY ($1)
), parents AS (
    SELECT e.task_id, e.to_step_id AS step_id, count(*) AS total,
           count(*) FILTER (WHERE t.to_state IN ('complete', 'resolved_manually', 'skipped')) AS completed
    FROM reference.edges AS e
    LEFT JOIN reference.transitions AS t
        ON t.task_id = e.task_id AND t.step_id = e.from_step_id AND t.most_recent
    WHERE e.task_id = ANY ($1)
    GROUP BY e.task_id, e.to_step_id
), failures AS (
    SELECT task_id, step_id, max(created_at) AS last_failure_at
    FROM reference.transitions
    WHERE task_id = ANY ($1) AND to_state = 'error'
    GROUP BY task_id, step_id
)
SELECT c.task_id, c.step_id, c.name, c.state AS current_state,
       coalesce(p.completed = p.total, true) AS dependencies_satisfied,
       r.retry_eligible,
       c.state IN ('pending', 'error') AND coalesce(p.completed = p.total, true) AND r.retry_eligible
           AS ready_for_execution,
       f.last_failure_at, r.next_retry_at,
       coalesce(p.total, 0) AS total_parents, coalesce(p.completed, 0) AS completed_parents,
       c.attempts, c.retry_limit, c.backoff_request_seconds, c.last_attempted_at,
       c.state IN ('complete', 'resolved_manually', 'skipped') AS processed, c.state = 'in_progress' AS in_process
FROM current AS c
LEFT JOIN parents AS p USING (task_id, step_id)
LEFT JOIN failures AS f USING (task_id, step_id)
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN c.backoff_request_seconds IS NOT NULL
            THEN c.last_attempted_at + c.backoff_request_seconds * interval '1 second'
        WHEN c.state = 'error'
            THEN f.last_failure_at + least(2 ^ least(c.attempts, 10), 30) * interval '1 second'
    END AS next_retry_at
) AS b
CROSS JOIN LATERAL (
    SELECT b.next_retry_at,
           c.attempts < c.retry_limit AND (c.attempts = 0 OR c.retryable)
               AND (b.next_retry_at IS NULL OR b.next_retry_at <= clock_timestamp()) AS retry_eligible
) AS r
ORDER BY c.task_id, c.step_id

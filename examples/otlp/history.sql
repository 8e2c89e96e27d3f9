-- The history of a task in order. Where a row is a claim, ready_at is the time from which the step could have been
-- claimed; where it is a failure with another attempt, backoff_until is the time from which that could be.
WITH change AS (
    SELECT h.event_id, h.step_id, h.from_state, h.to_state, h.attempt, h.worker, h.actor, h.metadata, h.at,
           lag(h.event_id) OVER of_step AS previous, lead(h.to_state) OVER of_step AS next_state,
           max(h.at) FILTER (WHERE h.to_state = 'in_progress') OVER (of_step ROWS UNBOUNDED PRECEDING) AS claimed_at,
           r.delay, r.retry_limit, r.retryable, r.backoff_base, r.backoff_cap, r.backoff_jitter, r.parents
    FROM stepwise.transitions AS h
    JOIN stepwise.tasks AS t USING (task_id)
    LEFT JOIN stepwise.template_steps AS r ON r.template_id = t.template_id AND r.step_id = h.step_id
    WHERE h.task_id = %(task_id)s
    WINDOW of_step AS (PARTITION BY h.step_id ORDER BY h.event_id)
), due AS (
    -- A failure whose lease has expired has no backoff; an explicit one counts from the claim.
    SELECT c.*, CASE
        WHEN c.to_state <> 'error' OR c.from_state <> 'in_progress' OR c.metadata ->> 'reason' = 'lease_expired' THEN NULL
        WHEN c.attempt >= c.retry_limit OR NOT coalesce((c.metadata ->> 'retryable')::boolean, true) OR NOT c.retryable
            THEN NULL
        WHEN c.metadata ? 'backoff_seconds'
            THEN c.claimed_at + (c.metadata ->> 'backoff_seconds')::integer * interval '1 second'
        ELSE c.at + stepwise.calculate_backoff(c.attempt, c.backoff_base, c.backoff_cap, c.backoff_jitter,
            %(task_id)s::bigint, c.step_id)
    END AS backoff_until
    FROM change AS c
)
SELECT d.event_id, d.step_id, d.from_state, d.to_state, d.attempt, d.worker, d.actor, d.metadata,
       d.at AT TIME ZONE 'UTC' AS at, d.backoff_until AT TIME ZONE 'UTC' AS backoff_until,
       CASE WHEN d.to_state = 'in_progress' AND d.step_id IS NOT NULL THEN coalesce(
           -- The change before: the end of its backoff, or its own time (released, reset, lease expired).
           (SELECT greatest(p.backoff_until, p.at) FROM due AS p WHERE p.event_id = d.previous),
           -- The first claim: when its last parent had settled, or the task was made; then its delay.
           (SELECT max(p.at) FROM due AS p WHERE p.step_id = ANY (d.parents)
                AND p.to_state IN ('complete', 'resolved_manually', 'skipped')) + d.delay,
           (SELECT t.created_at FROM stepwise.tasks AS t WHERE t.task_id = %(task_id)s) + d.delay)
       AT TIME ZONE 'UTC' END AS ready_at
FROM due AS d
ORDER BY d.event_id

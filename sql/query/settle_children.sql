-- Parents of these steps have settled: count them off; whoever waits for none becomes visible. A step in error waits
-- for its parents only after an operator's hand; it comes back if it has an attempt left.
UPDATE stepwise.steps AS s
SET remaining_parents = s.remaining_parents - i.settled,
    visible_at = CASE
        WHEN s.remaining_parents > i.settled THEN s.visible_at
        WHEN s.state = 'pending' THEN i.visible_at
        WHEN s.state = 'error' AND s.attempts < i.retry_limit AND s.retryable IS NOT FALSE THEN i.visible_at
        ELSE s.visible_at
    END
FROM i
WHERE s.task_id = i.task_id AND s.step_id = i.step_id

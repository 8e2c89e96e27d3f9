-- What a reader has found out, for the next one. A row that somebody has locked is left as it is.
UPDATE stepwise.subscriptions AS s
SET position = greatest(s.position, i.position), safe_event = greatest(s.safe_event, i.safe_event),
    mark_xid = i.mark_xid, mark_event = i.mark_event
FROM (SELECT l.subscription_id FROM stepwise.subscriptions AS l WHERE l.subscription_id = ANY ($1)
      ORDER BY l.subscription_id FOR UPDATE SKIP LOCKED) AS free
JOIN unnest($1, $2, $3, $4, $5) AS i (subscription_id, position, safe_event, mark_xid, mark_event)
    ON i.subscription_id = free.subscription_id
WHERE s.subscription_id = free.subscription_id

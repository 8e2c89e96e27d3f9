-- A table that the listener keeps up with the events, a role for it, and its subscription.
CREATE SCHEMA feed;

-- What the listener does with an event: here, one row.
CREATE TABLE feed.entries (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id bigint NOT NULL,
    event text NOT NULL,
    task_id bigint NOT NULL,
    step text,
    at timestamptz NOT NULL,
    UNIQUE (event_id, event)
);

-- As a worker it reads and acknowledges; as a reader it asks how far it is behind. The subscription is an operator's to make:
-- history that it has not acknowledged is not purged.
CREATE ROLE event_listener LOGIN;
SELECT stepwise.grant_access('event_listener', 'worker'), stepwise.grant_access('event_listener', 'reader');
GRANT USAGE ON SCHEMA feed TO event_listener;
GRANT SELECT, INSERT ON feed.entries TO event_listener;
SELECT stepwise.create_subscription('feed', '{"event": ["task.*", "step.completed", "step.failed"]}', 'start');

-- What the steps of the demo orders write, and the role that their workers use: it may call the worker functions of
-- pg_stepwise and write these tables, and nothing else.
CREATE SCHEMA shop;

CREATE TABLE shop.orders (
    order_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    amount     numeric NOT NULL,
    steps_done integer NOT NULL DEFAULT 0
);

-- One row per step that was done. Nothing here refuses a second row for the same step: that there is none is the work
-- of the worker, which inserts it in the transaction that completes the step.
CREATE TABLE shop.entries (
    entry_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id bigint NOT NULL REFERENCES shop.orders,
    task_id  bigint NOT NULL,
    step     text NOT NULL,
    attempt  integer NOT NULL,
    worker   text NOT NULL,
    -- The trace that the task belongs to, as a call of another service would carry it in its header traceparent.
    traceparent text
);

DO $$
BEGIN
    -- Roles belong to the whole server: this one may be there from another database.
    IF to_regrole('order_worker') IS NULL THEN
        CREATE ROLE order_worker LOGIN;
    END IF;
END
$$;
SELECT stepwise.grant_access('order_worker', 'worker');
GRANT USAGE ON SCHEMA shop TO order_worker;
GRANT SELECT, UPDATE ON shop.orders TO order_worker;
GRANT INSERT ON shop.entries TO order_worker;

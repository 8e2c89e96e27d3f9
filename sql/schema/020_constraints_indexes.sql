-- Keys, checks and indexes. Each index says which query it serves.

ALTER TABLE stepwise.namespaces
    ADD CONSTRAINT namespaces_pkey PRIMARY KEY (namespace_id),
    ADD CONSTRAINT namespaces_name_key UNIQUE (name),
    ADD CONSTRAINT namespaces_name_chk CHECK (name <> '' AND pg_catalog.char_length(name) <= 255);

ALTER TABLE stepwise.access
    ADD CONSTRAINT access_level_chk CHECK (level IN ('reader', 'worker', 'operator', 'author')),
    ADD CONSTRAINT access_namespace_chk CHECK (namespace <> '' AND pg_catalog.char_length(namespace) <= 255);

-- A grant is made once, that of all namespaces (NULL), too.
CREATE UNIQUE INDEX access_key ON stepwise.access (role, level, COALESCE(namespace, ''));

ALTER TABLE stepwise.queues
    ADD CONSTRAINT queues_pkey PRIMARY KEY (queue_id),
    ADD CONSTRAINT queues_name_key UNIQUE (name),
    ADD CONSTRAINT queues_max_in_flight_chk CHECK (max_in_flight BETWEEN 0 AND 1000),
    ADD CONSTRAINT queues_name_chk CHECK (name <> '' AND pg_catalog.char_length(name) <= 255);

-- No foreign keys: namespaces, queues and templates are never removed (030). For every step of a new template they would be
-- asked, which is a third of what a large one takes; and they come with the extension, before the rows, so that a parallel
-- pg_restore, which loads tables in any order, would be refused.
ALTER TABLE stepwise.templates
    ADD CONSTRAINT templates_pkey PRIMARY KEY (template_id),
    ADD CONSTRAINT templates_version_key UNIQUE (namespace_id, name, version),
    ADD CONSTRAINT templates_name_chk CHECK (name <> '' AND pg_catalog.char_length(name) <= 255),
    ADD CONSTRAINT templates_identity_chk CHECK (identity = 'context'),
    ADD CONSTRAINT templates_step_count_chk CHECK (step_count > 0);

-- create_task finds a template, and its latest version, by name.
CREATE INDEX templates_name_idx ON stepwise.templates (name, namespace_id, version_order DESC);

ALTER TABLE stepwise.template_steps
    ADD CONSTRAINT template_steps_pkey PRIMARY KEY (template_id, step_id),
    ADD CONSTRAINT template_steps_name_key UNIQUE (template_id, name),
    ADD CONSTRAINT template_steps_name_chk CHECK (name <> '' AND pg_catalog.char_length(name) <= 255),
    ADD CONSTRAINT template_steps_retry_limit_chk CHECK (retry_limit >= 0),
    ADD CONSTRAINT template_steps_kind_chk CHECK (kind IN ('work', 'wait')),
    ADD CONSTRAINT template_steps_jitter_chk CHECK (backoff_jitter BETWEEN 0 AND 1);

-- Whose steps wait in a queue: pause_queue and register_template of a role that is restricted to namespaces.
CREATE INDEX template_steps_queue_idx ON stepwise.template_steps (queue_id, template_id);

ALTER TABLE stepwise.tasks
    ADD CONSTRAINT tasks_pkey PRIMARY KEY (task_id),
    -- A function: Postgres reads a CHECK's expression anew for every statement, which for a list of states took more
    -- time than all else that a report of one step does to its task.
    ADD CONSTRAINT tasks_sound_chk CHECK (stepwise.is_sound_task(
        state, total_steps, live_steps, completed_steps, failed_steps, cancelled_steps, finished_at IS NOT NULL));

-- create_task with an identity key: one task per template and key, under any concurrency.
CREATE UNIQUE INDEX tasks_identity_key ON stepwise.tasks (template_id, identity_key) WHERE identity_key IS NOT NULL;

-- Tasks that have run out of time: tick. An ended task has no deadline.
CREATE INDEX tasks_deadline_idx ON stepwise.tasks (deadline) WHERE deadline IS NOT NULL;

-- purge_tasks asks whether a task is left that needs the places of a concurrency key.
CREATE INDEX tasks_concurrency_key_idx ON stepwise.tasks (concurrency_key) WHERE concurrency_key IS NOT NULL;

ALTER TABLE stepwise.steps
    ADD CONSTRAINT steps_pkey PRIMARY KEY (task_id, step_id),
    ADD CONSTRAINT steps_sound_chk CHECK (stepwise.is_sound_step(state, remaining_parents, attempts));

-- The queue of the whole system: claim_steps scans one (queue, priority) range from its oldest visible_at.
CREATE INDEX steps_queue_idx ON stepwise.steps (queue_id, priority DESC, visible_at) WHERE visible_at IS NOT NULL;

-- A task's history, in order.
ALTER TABLE stepwise.transitions
    ADD CONSTRAINT transitions_pkey PRIMARY KEY (task_id, event_id);

-- The history of all tasks from an event or a time on: rows lie about in the order of both, so one summary for each 32
-- pages finds them, at a thousandth of a btree's size and nearly none of its cost for each row.
CREATE INDEX transitions_stream_idx ON stepwise.transitions
    USING brin (event_id pg_catalog.int8_minmax_multi_ops, at pg_catalog.timestamptz_minmax_multi_ops)
    WITH (pages_per_range = 32, autosummarize = on);

ALTER TABLE stepwise.slots
    ADD CONSTRAINT slots_pkey PRIMARY KEY (slot_id),
    -- The places of one limit, in order.
    ADD CONSTRAINT slots_number_key UNIQUE (kind, owner_id, key, number),
    ADD CONSTRAINT slots_kind_chk CHECK (kind IN ('queue', 'task', 'key'));

-- What a step holds, to give it back.
CREATE INDEX slots_holder_idx ON stepwise.slots (task_id, step_id) WHERE task_id IS NOT NULL;

ALTER TABLE stepwise.injected_failures
    ADD CONSTRAINT injected_failures_pkey PRIMARY KEY (task_id, step_id),
    ADD CONSTRAINT injected_failures_remaining_chk CHECK (remaining > 0);

ALTER TABLE stepwise.subscriptions
    ADD CONSTRAINT subscriptions_pkey PRIMARY KEY (subscription_id),
    ADD CONSTRAINT subscriptions_name_key UNIQUE (name),
    ADD CONSTRAINT subscriptions_name_chk CHECK (name <> '' AND pg_catalog.char_length(name) <= 255),
    ADD CONSTRAINT subscriptions_mark_chk CHECK ((mark_xid IS NULL) = (mark_event IS NULL));

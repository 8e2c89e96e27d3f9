-- Runs last: rights of the functions, privileges, what a dump carries, comments.

-- A worker needs EXECUTE only, never rights on the tables: commands run as the extension's owner, with a fixed
-- search_path, and run no code of a user. They are no definers: inside one nothing tells who called it, and what a caller
-- may use depends on that. They take the owner's rights and the fixed search_path themselves (src/store/access.rs).
-- The trigger functions are no definers: a definer's switch at each firing would cost more than most of their work. Under
-- a command they run as the owner already; where a client's own UPDATE fires them, the statement triggers, which write
-- history, children and counters, take the owner's rights and the fixed search_path themselves (src/pg/catalog.rs), as
-- Postgres' own foreign-key triggers do.
-- Readers run with the caller's rights; the fixed search_path keeps foreign operators and tables out. Readiness and
-- context run no SQL but the first read of a template, which sets its own: they go without, and without its cost.
ALTER FUNCTION stepwise.template_definition SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.calculate_dependency_levels SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.critical_path SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.render_task SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.render_template SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.explain_step(bigint, text) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION stepwise.explain_step(bigint, integer) SET search_path = pg_catalog, pg_temp;

-- Deny by default: functions are executable by PUBLIC unless revoked. Levels are granted by grant_access.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA stepwise FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA stepwise FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA stepwise FROM PUBLIC;

-- pg_dump carries the contents of every table and sequence. One statement each: the function updates one row.
DO $dump$
DECLARE
    relation pg_catalog.regclass;
BEGIN
    FOR relation IN
        SELECT c.oid FROM pg_catalog.pg_class AS c
        WHERE c.relnamespace = 'stepwise'::pg_catalog.regnamespace AND c.relkind IN ('r', 'S')
        ORDER BY c.oid
    LOOP
        PERFORM pg_catalog.pg_extension_config_dump(relation, '');
    END LOOP;
END
$dump$;

-- Comments: what psql's \d+ and \df+ show. Units, shapes and errors; docs/reference.md says the same at length.
COMMENT ON SCHEMA stepwise IS 'pg_stepwise: tasks are graphs of steps; workers claim ready steps and report results over SQL';

COMMENT ON TABLE stepwise.namespaces IS 'A tenant or domain of templates; made when a template first names it';
COMMENT ON COLUMN stepwise.namespaces.namespace_id IS 'Key';
COMMENT ON COLUMN stepwise.namespaces.created_at IS 'When a template first named it';
COMMENT ON COLUMN stepwise.namespaces.name IS '1 to 255 characters, unique';

COMMENT ON COLUMN stepwise.namespaces.private IS 'Its events are not announced by NOTIFY, nor the names of its queues. Set it by set_namespace_private or UPDATE';

COMMENT ON TABLE stepwise.access IS 'Which role has which level in which namespaces. Kept by grant_access and revoke_access; counts while the role has USAGE on the schema itself';
COMMENT ON COLUMN stepwise.access.role IS 'Name of the role; its members have it too';
COMMENT ON COLUMN stepwise.access.level IS 'reader, worker, operator or author';
COMMENT ON COLUMN stepwise.access.namespace IS 'Name of the namespace, which need not exist yet; NULL: all';

COMMENT ON TABLE stepwise.queues IS 'A place that workers claim steps from; made when a template first names it';
COMMENT ON COLUMN stepwise.queues.queue_id IS 'Key';
COMMENT ON COLUMN stepwise.queues.created_at IS 'When a template first named it';
COMMENT ON COLUMN stepwise.queues.max_in_flight IS 'The most of its steps that are in progress at once, 1 to 1000; 0: no limit. Set it by set_queue_limit or UPDATE';
COMMENT ON COLUMN stepwise.queues.paused IS 'Nothing is handed out from a paused queue; steps already claimed go on';
COMMENT ON COLUMN stepwise.queues.name IS '1 to 255 characters, unique; never changed, backends remember it';

COMMENT ON TABLE stepwise.templates IS 'One version of a workflow; never changes after its registration';
COMMENT ON COLUMN stepwise.templates.template_id IS 'Key';
COMMENT ON COLUMN stepwise.templates.namespace_id IS 'The namespace it belongs to';
COMMENT ON COLUMN stepwise.templates.created_at IS 'When it was registered';
COMMENT ON COLUMN stepwise.templates.step_count IS 'Number of its steps, 1 to 100000';
COMMENT ON COLUMN stepwise.templates.identity IS '''context'': tasks with equal contexts are one task; NULL: every task is new unless it brings an identity key';
COMMENT ON COLUMN stepwise.templates.name IS '1 to 255 characters; unique with namespace and version';
COMMENT ON COLUMN stepwise.templates.version IS 'Three numbers n.n.n';
COMMENT ON COLUMN stepwise.templates.version_order IS 'The version as numbers: the latest is the greatest';
COMMENT ON COLUMN stepwise.templates.description IS 'For people';
COMMENT ON COLUMN stepwise.templates.content_hash IS 'SHA-256 of the definition: a second registration of the same content is the same template';
COMMENT ON COLUMN stepwise.templates.context_schema IS 'JSON Schema (2020-12) that the contexts of its tasks must meet; NULL: anything goes';
COMMENT ON COLUMN stepwise.templates.insert_defaults IS 'Whether what a context lacks is added from the defaults of context_schema';
COMMENT ON COLUMN stepwise.templates.timeout IS 'How long a task may take from its start; then its open steps are cancelled and it is in error. NULL: for ever';
COMMENT ON COLUMN stepwise.templates.max_parallel_steps IS 'The most steps of one task that are in progress at once, 1 to 1000; 0: no limit';
COMMENT ON COLUMN stepwise.templates.concurrency_key IS 'JSON pointer into the context: tasks with the same value there share max_per_key. NULL: no such limit';
COMMENT ON COLUMN stepwise.templates.max_per_key IS 'The most steps of tasks with one concurrency key that are in progress at once, 1 to 1000; 0: no limit';
COMMENT ON COLUMN stepwise.templates.definition IS 'The definition as it was submitted';

COMMENT ON TABLE stepwise.template_steps IS 'One step of a template. The edges of the graph live here once, not in every task';
COMMENT ON COLUMN stepwise.template_steps.template_id IS 'The template';
COMMENT ON COLUMN stepwise.template_steps.queue_id IS 'The queue its steps wait in';
COMMENT ON COLUMN stepwise.template_steps.backoff_jitter IS '0 to 1: the most that is added to a backoff, as a part of it';
COMMENT ON COLUMN stepwise.template_steps.timeout IS 'How long a claim holds when it names no lease. Of kind wait: how long it waits for its signal; 0 is for ever';
COMMENT ON COLUMN stepwise.template_steps.delay IS 'How long it rests between the end of its last parent, or the start of the task, and its first attempt';
COMMENT ON COLUMN stepwise.template_steps.in_database IS 'Whether the handler is a SQL function, schema.function, which run_task, run_steps and the background workers run';
COMMENT ON COLUMN stepwise.template_steps.kind IS 'work: a worker claims it; wait: a signal completes it';
COMMENT ON COLUMN stepwise.template_steps.backoff_base IS 'The wait after attempt n is 2^n times this';
COMMENT ON COLUMN stepwise.template_steps.backoff_cap IS 'The longest wait';
COMMENT ON COLUMN stepwise.template_steps.step_id IS '1 to the number of steps, parents before children';
COMMENT ON COLUMN stepwise.template_steps.level IS 'Length of the longest path from a step without parents; 0 for such a step';
COMMENT ON COLUMN stepwise.template_steps.retry_limit IS 'The most attempts, the first included; 0: never run by a worker';
COMMENT ON COLUMN stepwise.template_steps.priority IS '-1000 to 1000, the higher the sooner';
COMMENT ON COLUMN stepwise.template_steps.retryable IS 'Whether a failed attempt may be followed by another';
COMMENT ON COLUMN stepwise.template_steps.skippable IS 'Whether create_task may bypass it';
COMMENT ON COLUMN stepwise.template_steps.name IS '1 to 255 characters, unique in the template';
COMMENT ON COLUMN stepwise.template_steps.handler IS 'What the worker looks up; the name of the step unless given';
COMMENT ON COLUMN stepwise.template_steps.description IS 'For people';
COMMENT ON COLUMN stepwise.template_steps.parents IS 'step_ids that it depends on, ascending';
COMMENT ON COLUMN stepwise.template_steps.children IS 'step_ids that depend on it, ascending';
COMMENT ON COLUMN stepwise.template_steps.config IS 'Handed to the worker with every claim';

COMMENT ON TABLE stepwise.tasks IS 'One execution of a template. The counters belong to the triggers';
COMMENT ON COLUMN stepwise.tasks.task_id IS 'Key';
COMMENT ON COLUMN stepwise.tasks.template_id IS 'The template it runs';
COMMENT ON COLUMN stepwise.tasks.created_at IS 'When create_task made it';
COMMENT ON COLUMN stepwise.tasks.started_at IS 'When its first step was claimed';
COMMENT ON COLUMN stepwise.tasks.finished_at IS 'When it reached complete, error, cancelled or resolved_manually; NULL in other states';
COMMENT ON COLUMN stepwise.tasks.deadline IS 'Until when it must have ended; NULL: no such time, or it has ended. May be changed by UPDATE';
COMMENT ON COLUMN stepwise.tasks.timed_out IS 'It is in error because its deadline was over';
COMMENT ON COLUMN stepwise.tasks.created_by IS 'The role that created it; its SQL handlers run in the background with that role''s rights';
COMMENT ON COLUMN stepwise.tasks.concurrency_key IS 'Namespace, template and the value at the template''s concurrency_key as a JSON array, or its SHA-256 where it is long; NULL: none';
COMMENT ON COLUMN stepwise.tasks.live_steps IS 'Steps that can make progress by themselves: those with a visible_at. At 0 the task has ended';
COMMENT ON COLUMN stepwise.tasks.total_steps IS 'All of its steps';
COMMENT ON COLUMN stepwise.tasks.completed_steps IS 'Steps complete, resolved_manually or skipped';
COMMENT ON COLUMN stepwise.tasks.failed_steps IS 'Steps in error with no attempt left';
COMMENT ON COLUMN stepwise.tasks.cancelled_steps IS 'Steps cancelled';
COMMENT ON COLUMN stepwise.tasks.priority IS 'Added to the priority of each of its steps when they were made';
COMMENT ON COLUMN stepwise.tasks.state IS 'pending, in_progress, complete, error, cancelled or resolved_manually';
COMMENT ON COLUMN stepwise.tasks.requested_by IS 'Who asked for it; the role that created it unless given';
COMMENT ON COLUMN stepwise.tasks.identity_key IS '1 to 512 characters, unique per template where not NULL: the same key is the same task';
COMMENT ON COLUMN stepwise.tasks.tags IS 'Free labels';
COMMENT ON COLUMN stepwise.tasks.context IS 'The input of the whole task, handed to the worker with every claim';
COMMENT ON COLUMN stepwise.tasks.traceparent IS 'The trace it belongs to, as W3C Trace Context writes it in version 00: 55 characters; NULL: none';

COMMENT ON TABLE stepwise.steps IS 'One step of a task. An UPDATE of state does what the functions do; the other columns follow';
COMMENT ON COLUMN stepwise.steps.task_id IS 'The task';
COMMENT ON COLUMN stepwise.steps.template_id IS 'The template of the task';
COMMENT ON COLUMN stepwise.steps.queue_id IS 'The queue it waits in';
COMMENT ON COLUMN stepwise.steps.visible_at IS 'From when it may be claimed; while it is claimed, the end of the lease; NULL: by nobody';
COMMENT ON COLUMN stepwise.steps.claim_token IS 'The random part of the receipt that may report; hidden from readers';
COMMENT ON COLUMN stepwise.steps.last_attempted_at IS 'When it was last claimed';
COMMENT ON COLUMN stepwise.steps.last_failure_at IS 'When its last attempt failed';
COMMENT ON COLUMN stepwise.steps.finished_at IS 'When it reached complete, cancelled, resolved_manually or skipped';
COMMENT ON COLUMN stepwise.steps.step_id IS 'Its number in the task, that of the template step; parents before children';
COMMENT ON COLUMN stepwise.steps.remaining_parents IS 'Parents that are neither complete, resolved_manually nor skipped';
COMMENT ON COLUMN stepwise.steps.attempts IS 'Claims since its creation or last reset, releases taken back';
COMMENT ON COLUMN stepwise.steps.backoff_request_seconds IS 'Explicit backoff in seconds from last_attempted_at; replaces the exponential one until the next claim';
COMMENT ON COLUMN stepwise.steps.priority IS 'Of the template step plus that of the task; the higher the sooner';
COMMENT ON COLUMN stepwise.steps.retryable IS 'What the last failure said about another attempt; NULL: nothing';
COMMENT ON COLUMN stepwise.steps.limited IS 'It holds places in slots';
COMMENT ON COLUMN stepwise.steps.signal IS 'Of kind wait: a signal that came before the step was reached, and completes it then';
COMMENT ON COLUMN stepwise.steps.state IS 'pending, in_progress, complete, error, cancelled, resolved_manually or skipped';
COMMENT ON COLUMN stepwise.steps.worker IS 'Who claimed it last';
COMMENT ON COLUMN stepwise.steps.inputs IS 'Input of this step alone, handed to the worker with its claim';
COMMENT ON COLUMN stepwise.steps.results IS 'What its worker reported; handed to its children as dependencies';
COMMENT ON COLUMN stepwise.steps.error IS 'What the last failed attempt reported';

COMMENT ON TABLE stepwise.slots IS 'Limits: each place under a limit is a row, free or held by a step in progress';
COMMENT ON COLUMN stepwise.slots.slot_id IS 'Key';
COMMENT ON COLUMN stepwise.slots.owner_id IS 'Of kind queue the queue_id, of kind task the task_id, of kind key 0';
COMMENT ON COLUMN stepwise.slots.task_id IS 'The task of the step that holds it; NULL: it is free';
COMMENT ON COLUMN stepwise.slots.step_id IS 'The step that holds it';
COMMENT ON COLUMN stepwise.slots.number IS '1 to the limit';
COMMENT ON COLUMN stepwise.slots.kind IS 'queue (max_in_flight), task (max_parallel_steps) or key (max_per_key)';
COMMENT ON COLUMN stepwise.slots.key IS 'Of kind key the concurrency_key of its tasks; else empty';
COMMENT ON TABLE stepwise.injected_failures IS 'For tests: attempts that fail instead of being made, in sessions with stepwise.testing = on';
COMMENT ON COLUMN stepwise.injected_failures.task_id IS 'The task';
COMMENT ON COLUMN stepwise.injected_failures.step_id IS 'The step';
COMMENT ON COLUMN stepwise.injected_failures.remaining IS 'How many more attempts fail';
COMMENT ON COLUMN stepwise.injected_failures.error IS 'What they report';
COMMENT ON TYPE stepwise.step_context IS 'What a SQL handler is given: handler(stepwise.step_context) returns jsonb';
COMMENT ON COLUMN stepwise.step_context.task_id IS 'The task';
COMMENT ON COLUMN stepwise.step_context.step_id IS 'The number of the step';
COMMENT ON COLUMN stepwise.step_context.attempt IS 'Which attempt this is, from 1';
COMMENT ON COLUMN stepwise.step_context.retry_limit IS 'The most attempts';
COMMENT ON COLUMN stepwise.step_context.namespace IS 'Of the template';
COMMENT ON COLUMN stepwise.step_context.task_name IS 'The name of the template';
COMMENT ON COLUMN stepwise.step_context.version IS 'Of the template';
COMMENT ON COLUMN stepwise.step_context.step_name IS 'The name of the step';
COMMENT ON COLUMN stepwise.step_context.context IS 'The input of the task';
COMMENT ON COLUMN stepwise.step_context.inputs IS 'The input of this step alone; NULL: none';
COMMENT ON COLUMN stepwise.step_context.dependencies IS 'What its parents returned, by their names';
COMMENT ON COLUMN stepwise.step_context.config IS 'From the template; NULL: none';
COMMENT ON COLUMN stepwise.step_context.traceparent IS 'The trace that the task belongs to (W3C Trace Context); NULL: none';
COMMENT ON TABLE stepwise.transitions IS 'History: one row per change of state of a task or step, written in the same transaction. Append-only';
COMMENT ON COLUMN stepwise.transitions.event_id IS 'Order within a task; across tasks ids may become visible out of order';
COMMENT ON COLUMN stepwise.transitions.task_id IS 'The task';
COMMENT ON COLUMN stepwise.transitions.tx IS 'The transaction that made the change';
COMMENT ON COLUMN stepwise.transitions.at IS 'When, by stepwise.now()';
COMMENT ON COLUMN stepwise.transitions.ready_at IS 'Of a claim: since when the step could be claimed; at less this is how long it waited for a worker. Of an attempt that was lost: the end of its lease';
COMMENT ON COLUMN stepwise.transitions.claimed_at IS 'Of the end of an attempt: when it was claimed. at less this is how long it ran';
COMMENT ON COLUMN stepwise.transitions.step_id IS 'The step; NULL: a change of the task itself';
COMMENT ON COLUMN stepwise.transitions.attempt IS 'The attempt of the step that the change belongs to';
COMMENT ON COLUMN stepwise.transitions.retry IS 'Of a failure or a backoff: true, another attempt after a backoff; false, none; NULL: at once, or another kind of change';
COMMENT ON COLUMN stepwise.transitions.from_state IS 'State before; NULL at the creation of a task';
COMMENT ON COLUMN stepwise.transitions.to_state IS 'State after';
COMMENT ON COLUMN stepwise.transitions.worker IS 'The worker that held the step';
COMMENT ON COLUMN stepwise.transitions.actor IS 'Who created the task or changed a state by hand or as an operator; NULL where the engine did';
COMMENT ON COLUMN stepwise.transitions.metadata IS 'An object with some of: error, retryable and backoff_seconds of a failed attempt, reason, cause (name of the step that took this one with it), bypassed';

COMMENT ON TABLE stepwise.subscriptions IS 'A durable reader of the history and how far it has read';
COMMENT ON COLUMN stepwise.subscriptions.subscription_id IS 'Key';
COMMENT ON COLUMN stepwise.subscriptions.created_at IS 'When it was made';
COMMENT ON COLUMN stepwise.subscriptions.acked_at IS 'When ack_events last moved its position; NULL: never';
COMMENT ON COLUMN stepwise.subscriptions.position IS 'event_id up to which it has acknowledged, or its filter passes over, every event';
COMMENT ON COLUMN stepwise.subscriptions.safe_event IS 'Up to this event_id no event can come any more';
COMMENT ON COLUMN stepwise.subscriptions.mark_xid IS 'Once every transaction with a smaller id has ended, no event up to mark_event can come any more; NULL: no such mark';
COMMENT ON COLUMN stepwise.subscriptions.mark_event IS 'See mark_xid';
COMMENT ON COLUMN stepwise.subscriptions.name IS '1 to 255 characters, unique';
COMMENT ON COLUMN stepwise.subscriptions.filter IS 'Which events it wants, an object with some of: event, namespace, template, queue; NULL: all';

COMMENT ON VIEW stepwise.task_transitions IS 'History of tasks, numbered per task by sort_key; most_recent marks the current state';
COMMENT ON VIEW stepwise.step_transitions IS 'History of steps, numbered per step by sort_key; most_recent marks the current state';
-- Insight: what costs what is in docs/monitoring.md.
COMMENT ON VIEW stepwise.live_steps IS 'Steps that can move by themselves, with what each is at. condition: ready, retry_due (claimable now), delayed, backoff, waits_for_signal, in_flight, lease_expired, never_by_worker. age: since it could be claimed, while it is held since it was claimed; negative: until then; NULL: for ever. Costs what is live';
COMMENT ON VIEW stepwise.open_tasks IS 'Tasks that have not ended, with their progress; waiting_steps: steps that wait for other steps. Costs what is live';
COMMENT ON VIEW stepwise.queue_depths IS 'One row for each queue: how many steps are ready (retries_due of them failed before), delayed, in_backoff, waiting for other steps or for a signal, for_operator (no worker gets them), in flight, or held beyond their lease; max_in_flight 0: no limit. Costs what is live; "waiting" besides all steps of open tasks, unless the query leaves it out';
COMMENT ON VIEW stepwise.failed_steps IS 'Steps that have failed for good, of tasks that reset_step or retry_task can take back to work. Costs the tasks that have failed';
COMMENT ON VIEW stepwise.failed_tasks IS 'Tasks that have ended in error, by failed_steps or because their time was over (timed_out). Costs the tasks that have failed';
COMMENT ON FUNCTION stepwise.get_step_durations IS
    'For each step of each template with claims or ends since then (NULL: an hour ago): how many, and percentiles of how long it waited for a worker (from ready to claimed) and how long it ran (from claimed to complete or error; ends of leases left out). Filters: NULL is any. Costs the history since then. Errors: 22023 for an infinite time';
COMMENT ON FUNCTION stepwise.get_failures IS
    'Failed attempts since then (NULL: an hour ago) by step of a template, most first: how many, how many of them by the end of a lease, in how many tasks, and the last one. Costs the history since then. Errors: 22023 for an infinite time';
COMMENT ON FUNCTION stepwise.get_throughput IS
    'One row for each minute since then (NULL: an hour ago), also where nothing happened. Costs the history since then. Errors: 22023 for an infinite time';
COMMENT ON FUNCTION stepwise.get_workers IS
    'Workers that have claimed or reported since then (NULL: an hour ago) or hold a step now, last seen first. holds: task_id/step of at most ten, oldest claim first. Costs the history since then and what is live. Errors: 22023 for an infinite time';
COMMENT ON FUNCTION stepwise.get_system_health_counts IS
    'Tasks and steps by state. Exact for what is open or has failed; totals, and what is complete or cancelled, are counted from at most 2000 pages of tasks: estimates where it is larger (totals_estimated). complete_steps: complete, resolved_manually or skipped';
COMMENT ON FUNCTION stepwise.get_analytics_metrics IS
    'One row about the time since then (NULL: an hour ago). task_throughput: tasks created; completion_count, error_count: of these, in that state now; completion_rate, error_rate: percent of them; system_health_score: completions of completions and errors, 0 to 1, 1 where there is none; avg_task_duration: seconds from creation to completion; step_throughput: steps completed; avg_step_duration: seconds from claim to completion. Errors: 22023 for an infinite time';
COMMENT ON FUNCTION stepwise.get_slowest_tasks IS
    'Tasks that ended in complete or error since then (NULL: 24 hours ago), the longest from creation to end first. Filters: NULL is any. Errors: 22023 for an infinite time or a negative limit';
COMMENT ON FUNCTION stepwise.get_slowest_steps IS
    'Steps that completed since then (NULL: 24 hours ago), the longest from the last claim to its end first. Filters: NULL is any. Errors: 22023 for an infinite time or a negative limit';
COMMENT ON FUNCTION stepwise.metrics_prometheus IS
    'The state of queues, tasks and workers, and of the last minute, in the text exposition format of Prometheus. Costs what is live or has failed, and the history of a minute';
COMMENT ON FUNCTION stepwise.prometheus_samples IS
    'What metrics_prometheus prints, as rows';
COMMENT ON FUNCTION stepwise.count_drawn IS
    'How many ids a sequence of the extension has given out, in all namespaces; NULL for a role that may not read it';
COMMENT ON FUNCTION stepwise.prometheus_labels IS
    'Labels of a sample, escaped; a NULL value leaves its label out';
COMMENT ON FUNCTION stepwise.window_start IS
    'since, or where it is NULL, so long before now; argument: what an error calls it. Errors: 22023 for an infinite time';

COMMENT ON VIEW stepwise.access_matrix IS 'Which level of grant_access may execute which function; ''owner'': nobody but the owner';

COMMENT ON FUNCTION stepwise.register_template IS
    'Stores a version of a workflow; returns its template_id, that of the existing one where the content is the same. Errors: 22023 for a definition that could not run (unknown key, cycle with its path, ...), 23505 for a version that is registered with other content, 22004 for NULL';
COMMENT ON FUNCTION stepwise.template_definition IS
    'The definition of a template as it was submitted; namespace NULL: the only one that has it, version NULL: the latest. Errors: P0002 for no such template, 22023 for a name that several namespaces have';
COMMENT ON FUNCTION stepwise.create_task IS
    'Starts a task of a template (namespace NULL: the only one that has it, version NULL: the latest) and returns its task_id; with an identity_key that is taken, the id of the first task with it, and nothing is created. run_at: no step is handed out before. priority: -1000 to 1000, added to that of each step. bypass_steps: names of skippable steps that count as resolved from the start. traceparent: the trace it belongs to, as the header of W3C Trace Context. Errors: P0002 for no such template, 22023 for a bad argument or a context that its template''s context_schema does not allow, 22004 for NULL';
COMMENT ON FUNCTION stepwise.create_tasks IS
    'create_task for many contexts in a fixed number of statements; task_ids in the order of the contexts. identity_keys: NULL, or one element (NULL: none) for each context';
COMMENT ON FUNCTION stepwise.claim_steps IS
    'Hands out up to max_steps (1 to 1000) claimable steps of the named queues (NULL: all), highest priority first, then oldest; no row where there is none, at once. Passes over steps that another transaction is claiming; waits only while one that has claimed the first step of the same task is still open. lease: how long the claim holds (NULL: the timeout of each step). dependencies: {"parent name": its results, ...}. The receipt is all that a report needs. traceparent: that of the task; NULL: none';
COMMENT ON FUNCTION stepwise.complete_step IS
    'Reports success; returns accepted, or already_done where the same report was accepted before. Errors: 55000 for a stale receipt (claimed again, or decided by an operator), P0002 for one that fits no step; the whole transaction rolls back with it';
COMMENT ON FUNCTION stepwise.complete_steps IS
    'complete_step for many receipts; one row each with its outcome accepted, already_done, stale or not_found. A bad one does not disturb the others. results: NULL, or one element per receipt';
COMMENT ON FUNCTION stepwise.fail_step IS
    'Reports a failed attempt; returns accepted or already_done. error: kept on the step and in the history. retryable false: no further attempt. retry_after: how long to wait before the next, instead of the exponential backoff (whole seconds, rounded up). Errors: as complete_step';
COMMENT ON FUNCTION stepwise.fail_steps IS
    'fail_step for many receipts; one row each with its outcome. errors, retryable, retry_after: NULL, or one element per receipt';
COMMENT ON FUNCTION stepwise.report_and_claim IS
    'complete_steps, fail_steps and claim_steps in one call: first a row per report with its outcome, then a row with outcome claimed per step handed out';
COMMENT ON FUNCTION stepwise.extend_lease IS
    'Moves the end of a lease to lease (NULL: the timeout of the step) from now; returns accepted. Errors: 55000 for a stale receipt, P0002 for one that fits no step';
COMMENT ON FUNCTION stepwise.release_step IS
    'Gives a step back: pending, claimable at once, the attempt not counted; returns accepted. Errors: 55000 for a stale receipt, P0002 for one that fits no step';
COMMENT ON FUNCTION stepwise.reset_step(bigint, text, text, text) IS
    'Takes a step in error, named by its name, back to pending with all of its attempts, claimable now; its task goes back to work. Returns accepted, or already_done where it is pending. reason and actor (NULL: the calling role) go into the history. Errors: 55000 for a step in another state, P0002 for no such task or step, 22004 for NULL';
COMMENT ON FUNCTION stepwise.reset_step(bigint, integer, text, text) IS
    'reset_step for a step named by its step_id';
COMMENT ON FUNCTION stepwise.resolve_step(bigint, text, jsonb, text, text) IS
    'Counts a step, named by its name, as done by hand, with the results that its dependents are handed; they go on. Returns accepted, or already_done where it is resolved. Errors: 55000 for a step that is complete, cancelled or skipped, P0002 for no such task or step, 22004 for NULL';
COMMENT ON FUNCTION stepwise.resolve_step(bigint, integer, jsonb, text, text) IS
    'resolve_step for a step named by its step_id';
COMMENT ON FUNCTION stepwise.cancel_step(bigint, text, text, text) IS
    'Gives up a step, named by its name, and with it the descendants that can no longer run; a worker that holds it finds its receipt stale. Returns accepted, or already_done where it is cancelled. Errors: 55000 for a step that is complete, resolved_manually or skipped, P0002 for no such task or step, 22004 for NULL';
COMMENT ON FUNCTION stepwise.cancel_step(bigint, integer, text, text) IS
    'cancel_step for a step named by its step_id';
COMMENT ON FUNCTION stepwise.set_backoff(bigint, text, interval, text, text) IS
    'Delays the next attempt of a waiting step, named by its name, until backoff from now (whole seconds, rounded up); replaces the exponential backoff until the next claim. Returns accepted. Errors: 55000 for a step that does not wait for an attempt, P0002 for no such task or step, 22023 for a negative backoff, 22004 for NULL';
COMMENT ON FUNCTION stepwise.set_backoff(bigint, integer, interval, text, text) IS
    'set_backoff for a step named by its step_id';
COMMENT ON FUNCTION stepwise.cancel_task IS
    'Cancels every step of a task that is not at its end; running workers find their receipts stale. Returns how many, 0 where it is cancelled already or its deadline had cancelled them; the task is cancelled then. Errors: 55000 for a task that is complete or resolved_manually, P0002 for no such task, 22004 for NULL';
COMMENT ON FUNCTION stepwise.retry_task IS
    'Resets every step of a task that is in error; completed steps keep their results. Returns how many, 0 where there is nothing to retry. Errors: 55000 for a task that is complete, cancelled or resolved_manually, P0002 for no such task, 22004 for NULL';
COMMENT ON FUNCTION stepwise.release_backoff IS
    'Ends every backoff of a task now, not a start that was asked for later. Returns how many. Errors: P0002 for no such task, 22004 for NULL';
COMMENT ON FUNCTION stepwise.purge_tasks IS
    'Removes at most max_tasks (1 to 100000) tasks, with their steps and history, that ended longer ago than older_than, in the order of their ids; not one with an event that a subscription has not acknowledged. states: which; a task in error may still be taken back to work, so name it to have it removed. Returns how many. Errors: 22023 for an argument out of range, 22004 for NULL';
COMMENT ON FUNCTION stepwise.create_subscription IS
    'Makes a durable reader of the events; returns its position. filter: NULL for all events, or an object with some of event (names, or step.* and task.*), namespace, template, queue (of a step), each a text or an array of texts; an event must fit every key. start_from: now (changes made from here on), start (all history there is), or the event_id after which to begin. Errors: 23505 for a name that is taken, 22023 for a bad name, filter or start, 22004 for NULL';
COMMENT ON FUNCTION stepwise.drop_subscription IS
    'Removes a subscription; the history that it held back may be purged. Errors: P0002 for no such subscription, 22004 for NULL';
COMMENT ON FUNCTION stepwise.read_events IS
    'The next events of a subscription in the order of event_id, at most max (1 to 10000; those of one event_id stay together), without those that an unfinished transaction may still precede. Comes again until ack_events. Errors: P0002 for no such subscription, 22023 for max out of range, 22004 for NULL';
COMMENT ON FUNCTION stepwise.claim_events IS
    'read_events for one reader at a time: until the transaction ends, others that claim events of the subscription get none. Errors: as read_events';
COMMENT ON FUNCTION stepwise.ack_events IS
    'Acknowledges all events of a subscription up to an event_id; returns its position, which never goes back. Errors: P0002 for no such subscription, 22023 for a position beyond the last event, 22004 for NULL';
COMMENT ON FUNCTION stepwise.subscription_lag IS
    'Every subscription: its position, the last event_id drawn, at most how many events it has not acknowledged, up to which event_id none can come any more, and since when it has acknowledged nothing (NULL: it is not behind). History after position is not purged';
COMMENT ON FUNCTION stepwise.signal_step(bigint, text, jsonb, text, text) IS
    'Completes a step of kind wait, named by its name; the payload becomes its results. Returns accepted, kept (its parents are not done: it completes when it is reached) or already_done (the first signal counts). Errors: 55000 for a step of another kind or one that has ended otherwise, P0002 for no such task or step, 22004 for NULL';
COMMENT ON FUNCTION stepwise.signal_step(bigint, integer, jsonb, text, text) IS
    'signal_step for a step named by its step_id';
COMMENT ON FUNCTION stepwise.tick IS
    'Does what is due that no claim has met: ends leases, fails waits without a signal, ends tasks past their deadline, and announces queues with claimable steps on stepwise_ready. One row: how many of each, and when something will be due next (NULL: nothing known). Any scheduler may call it, as often as it likes; claims do the same to what they meet';
COMMENT ON FUNCTION stepwise.run_task IS
    'Runs the steps of a task that have SQL handlers, in the caller''s session and transaction and with the caller''s rights, until none is ready, or max_seconds of the wall clock are over (NULL: no limit). wait_for_backoff: sleeps until backoffs, delays and leases of such steps end. Returns get_task_execution_context. Errors: P0002 for no such task, 22023 for a number out of range, 22004 for NULL';
COMMENT ON FUNCTION stepwise.run_steps IS
    'run_task for at most max_steps (1 to 100000) steps of any task of a queue (NULL: of every queue). Returns how many were executed, completed and failed; one that a handler has decided itself is neither completed nor failed. Errors: 22023 out of range, 22004 for NULL';
COMMENT ON FUNCTION stepwise.inject_failure IS
    'For tests: the next attempts of a step, so many times, fail with this error instead of being made, in sessions with stepwise.testing = on. 0 times: none. Errors: P0002 for no such step, 22023 for a negative number, 22004 for NULL';
COMMENT ON FUNCTION stepwise.advance_clock IS
    'For tests: adds to stepwise.clock_offset of this session (superuser only); returns stepwise.now(). Errors: 22004 for NULL, 42501 for others';
COMMENT ON FUNCTION stepwise.set_namespace_private IS
    'Whether the events of a namespace stay out of NOTIFY, which every role can listen to; its queues are then announced without their names. Returns whether that changes anything. Errors: P0002 for no such namespace, 22004 for NULL';
COMMENT ON FUNCTION stepwise.wake_queue IS
    'Announces a queue on stepwise_ready, and to the coordinator of the database';
COMMENT ON FUNCTION stepwise.simulate_template IS
    'The transitions that a task of a template would go through, in order and with the time since its start, without storing anything: one step at a time, backoffs and delays passed in no time, waits signalled at once. outcomes: {"step": outcome}, where an outcome is complete (the default), error, cancelled, resolved_manually or skipped, an array of these for each attempt, or the number of attempts that fail. Errors: 22023 for a definition or an outcome that is none, 54000 for more than a million transitions, 22004 for NULL';
COMMENT ON FUNCTION stepwise.pause_queue IS
    'Nothing is handed out from the queue until resume_queue; steps already claimed go on. Returns whether that changes anything. Errors: P0002 for no such queue, 22004 for NULL';
COMMENT ON FUNCTION stepwise.resume_queue IS
    'Ends a pause and announces the queue. Returns whether that changes anything. Errors: P0002 for no such queue, 22004 for NULL';
COMMENT ON FUNCTION stepwise.set_queue_limit IS
    'The most steps of the queue that are in progress at once: 1 to 1000, 0 is no limit. Counts for claims that begin after its commit; steps in progress beyond it go on, and none is handed out until they are within it. Errors: 22023 out of range, P0002 for no such queue, 22004 for NULL';
COMMENT ON FUNCTION stepwise.queues_after_update IS
    'Trigger: keeps the places of a queue''s limit, and tells waiting workers when it may hand out more';
COMMENT ON TRIGGER queues_after_update ON stepwise.queues IS 'The places of a queue''s limit; who waits for it is told';
COMMENT ON FUNCTION stepwise.now IS
    'The clock of every rule: clock_timestamp() plus the setting stepwise.clock_offset';
COMMENT ON FUNCTION stepwise.calculate_backoff IS
    'How long a step rests after the failure of attempt number attempts: least(2^attempts * base * (1 + jitter * u), cap), where u in [0, 1) is a hash of task_id, step_id and attempts';
COMMENT ON FUNCTION stepwise.get_step_readiness_status IS
    'One row per step of a task, or of those in step_ids, ordered by step_id: whether it can run now, and the facts behind it. No such task: no row';
COMMENT ON FUNCTION stepwise.get_step_readiness_status_batch IS
    'get_step_readiness_status for many tasks, ordered by task_id and step_id';
COMMENT ON FUNCTION stepwise.get_task_execution_context IS
    'One row: the counts of a task''s steps, what it is doing, what to do about it, how it is. No such task: no row';
COMMENT ON FUNCTION stepwise.get_task_execution_contexts_batch IS
    'get_task_execution_context for many tasks, ordered by task_id';
COMMENT ON FUNCTION stepwise.get_viable_steps IS
    'The steps of a task that are ready for execution now, highest priority first, then oldest';
COMMENT ON FUNCTION stepwise.calculate_dependency_levels IS
    'The level of each step of a task in its graph: the length of the longest path from a step without parents. Errors: P0002 for no such task, 22004 for NULL';
COMMENT ON FUNCTION stepwise.critical_path IS
    'The chain of steps of a task that takes the longest, by the run time of steps that have ended (measured) and, for the others, what the same step took in earlier tasks, else its timeout. until_its_end: the durations added up. Errors: P0002 for no such task, 22004 for NULL';
COMMENT ON FUNCTION stepwise.explain_step(bigint, text) IS
    'Why a step, named by its name, cannot be claimed now: one row per reason (task_ended, step_ended, waits_for_parent, held, never_by_worker, no_attempt_left, not_retryable, backoff, delayed, waits_for_signal, deadline_over, queue_paused, queue_full, task_full, key_full, not_queued), until when where that is known; or one row claimable with its rank in the queue, 1 for the next. Errors: P0002 for no such task or step, 22004 for NULL';
COMMENT ON FUNCTION stepwise.explain_step(bigint, integer) IS
    'explain_step for a step named by its step_id';
COMMENT ON FUNCTION stepwise.render_task IS
    'A picture of a task as it is now, as one text; format: text (a tree for a terminal), mermaid, dot, svg or html (a page with the graph, a chart of attempts and waits, and the history). Errors: P0002 for no such task, 22023 for another format, 54000 for a graph too large for svg and html (more than 2000 steps, 20000 dependencies or 20000 bends of long edges), 22004 for NULL';
COMMENT ON FUNCTION stepwise.render_template IS
    'A picture of a template; namespace NULL: the only one that has it, version NULL: the latest. Formats and errors: as render_task, and 22023 for a name that several namespaces have';
COMMENT ON FUNCTION stepwise.next_visible_at IS
    'The earliest time at which a step of the named queues (NULL: all) can be claimed; it may be over. Of a queue whose limit is reached, the end of the next lease; limits of tasks and keys are not asked. NULL: there is none. For a worker''s wait beside LISTEN stepwise_ready';
COMMENT ON FUNCTION stepwise.grant_access IS
    'Gives a role a level: reader (see), worker (create, claim, report; no rights on tables), operator (both), author (all, and register templates); in these namespaces, which need not exist yet, or (NULL) in all. From the first grant of a namespace on, a role has what it was granted here and no more. Errors: 22023 for another level or no name of a namespace, 22004 for NULL, 42704 for no such role, 55000 for a role that has the level in all namespaces';
COMMENT ON FUNCTION stepwise.revoke_access IS
    'Takes these namespaces from a role or (NULL), and with the last of them, every right on the schema stepwise. Errors: 22004 for NULL, 42704 for no such role, 55000 for namespaces of a role that has all';
COMMENT ON FUNCTION stepwise.separate_namespaces IS
    'Trigger: with the first namespace in access, puts the tables under the policies that keep roles to their namespaces. Takes an ACCESS EXCLUSIVE lock of each table, once';
COMMENT ON FUNCTION stepwise.may_use_all IS
    'Whether the current role has a level in all namespaces. Errors: 22023 for another level';
COMMENT ON FUNCTION stepwise.may_use_namespace IS
    'Whether the current role has a level in the namespace of this name, whether or not it exists. Errors: 22023 for another level';
COMMENT ON FUNCTION stepwise.may_use_template IS
    'Whether the current role has a level in the namespace of a template; false for one that does not exist, unless the role has all. Errors: 22023 for another level';
COMMENT ON FUNCTION stepwise.may_use_task IS
    'may_use_template for the template of a task';
COMMENT ON FUNCTION stepwise.may_use_queue IS
    'Whether steps of the namespaces that the current role has a level in may wait in a queue; at level operator, and no others may. Errors: 22023 for another level';
COMMENT ON FUNCTION stepwise.tell_backends IS
    'Trigger: tells every backend to read anew what it remembers of the table';
COMMENT ON TRIGGER access_separates ON stepwise.access IS 'The policies of the tables, once there is a namespace to keep to';
COMMENT ON TRIGGER access_changed ON stepwise.access IS 'Backends remember who may use what';
COMMENT ON TRIGGER namespaces_after_update ON stepwise.namespaces IS 'Backends remember which namespaces are private';
COMMENT ON FUNCTION stepwise.steps_before_update IS
    'Trigger: refuses an illegal change of a step (55000) and stamps what the new state implies';
COMMENT ON FUNCTION stepwise.steps_after_update IS
    'Trigger: history, children, counters and events of all steps that a statement changed; refuses a change of a kept column (55000)';
COMMENT ON FUNCTION stepwise.tasks_before_update IS
    'Trigger: refuses an illegal change of a task or of a kept column (55000), and ends a task when nothing of it can go on';
COMMENT ON FUNCTION stepwise.tasks_after_update IS
    'Trigger: history and events of all tasks that a statement changed; ends the open steps of a task ended by hand';
COMMENT ON FUNCTION stepwise.is_sound_step IS
    'What the CHECK of steps asks: a known state, no counter below zero';
COMMENT ON FUNCTION stepwise.is_sound_task IS
    'What the CHECK of tasks asks: a known state, no counter below zero or beyond the total, and an end exactly where it has ended';
COMMENT ON FUNCTION stepwise.keep_rows IS
    'Trigger: refuses a change or removal by hand of rows that only the engine changes or removes (55000)';
COMMENT ON TRIGGER tasks_kept ON stepwise.tasks IS 'Tasks go by purge_tasks';
COMMENT ON TRIGGER steps_kept ON stepwise.steps IS 'Steps go with their task';
COMMENT ON TRIGGER transitions_kept ON stepwise.transitions IS 'History is append-only';
COMMENT ON TRIGGER templates_kept ON stepwise.templates IS 'Templates never change';
COMMENT ON TRIGGER template_steps_kept ON stepwise.template_steps IS 'Templates never change';
COMMENT ON TRIGGER queues_kept ON stepwise.queues IS 'Backends remember the names of queues';
COMMENT ON TRIGGER namespaces_kept ON stepwise.namespaces IS 'Backends remember the names of namespaces';
COMMENT ON TRIGGER steps_before_update ON stepwise.steps IS 'The state machine of steps';
COMMENT ON TRIGGER steps_after_update ON stepwise.steps IS 'What follows from changed steps';
COMMENT ON TRIGGER tasks_before_update ON stepwise.tasks IS 'The state machine of tasks, and their end';
COMMENT ON TRIGGER tasks_after_update ON stepwise.tasks IS 'What follows from changed tasks';

COMMENT ON FUNCTION stepwise.task_history IS
    'The history of a task and its steps in order; subject: the name of the step, or task. No such task: no row';
COMMENT ON FUNCTION stepwise.rebuild_task_state IS
    'What the rows of a task (step_id NULL) and its steps must say, from the history and the template alone: state, attempts, times. No such task: no row';
COMMENT ON FUNCTION stepwise.get_step_readiness_status_sql IS
    'get_step_readiness_status in plain SQL, from the states of the parents and the history: no counter, no native code, for where the library cannot be loaded';
COMMENT ON VIEW stepwise.step_readiness IS
    'get_step_readiness_status_sql for all tasks; a condition task_id = ... reaches the indexes';
COMMENT ON FUNCTION stepwise.verify IS
    'Every violation of an invariant, of one task or (NULL) of all; no row: the data are sound. invariant: parents_first (a claim before a parent was settled), remaining_parents, visibility (who can be claimed), claim_token, counters (of the task), liveness (a task that cannot go on, or goes on after its end), outcome, attempts, history (order, legal changes), results, template (steps, queues, priorities), limits (places are held by steps in progress, and by each that is under a limit), references (rows without what they refer to), rebuild (rows differ from the history), readiness (native and SQL answers differ)';
COMMENT ON FUNCTION stepwise.find_violations IS
    'verify for a range of tasks';
COMMENT ON FUNCTION stepwise.fold_history IS
    'The history of each task (step_id NULL) and step in a range of tasks, folded into its last state, attempts, times, explicit backoff, and event_ids of its first claim and of its settling';
COMMENT ON FUNCTION stepwise.rebuild_states IS
    'rebuild_task_state for a range of tasks';
COMMENT ON FUNCTION stepwise.derive_readiness IS
    'get_step_readiness_status_sql for a range of tasks';
COMMENT ON FUNCTION stepwise.calculate_backoff_sql IS
    'calculate_backoff in plain SQL, equal to the microsecond';
COMMENT ON FUNCTION stepwise.jitter_sql IS
    'The part of a backoff''s jitter that task, step and attempt decide: a hash of them in [0, 1)';
COMMENT ON FUNCTION stepwise.now_sql IS
    'now in plain SQL: clock_timestamp() plus the setting stepwise.clock_offset, a text that PostgreSQL reads as an interval';

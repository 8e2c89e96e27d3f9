-- Who may do what. Nothing is granted to PUBLIC; a role gets a level, and a level is a list of objects. The list is
-- complete: a function that is missing from it fails a test.

CREATE VIEW stepwise.access_matrix (level, function_name) AS
VALUES
    ('reader', 'is_sound_step'),
    ('reader', 'is_sound_task'),
    ('reader', 'now'),
    ('reader', 'calculate_backoff'),
    ('reader', 'get_step_readiness_status'),
    ('reader', 'get_step_readiness_status_batch'),
    ('reader', 'get_task_execution_context'),
    ('reader', 'get_task_execution_contexts_batch'),
    ('reader', 'get_viable_steps'),
    ('reader', 'calculate_dependency_levels'),
    ('reader', 'critical_path'),
    ('reader', 'explain_step'),
    ('reader', 'render_task'),
    ('reader', 'render_template'),
    ('reader', 'next_visible_at'),
    ('reader', 'template_definition'),
    ('reader', 'simulate_template'),
    ('reader', 'task_history'),
    ('reader', 'rebuild_task_state'),
    ('reader', 'get_step_readiness_status_sql'),
    ('reader', 'verify'),
    ('reader', 'read_events'),
    ('reader', 'subscription_lag'),
    -- What those and the view step_readiness are made of; they run with the caller's rights.
    ('reader', 'fold_history'),
    ('reader', 'rebuild_states'),
    ('reader', 'derive_readiness'),
    ('reader', 'calculate_backoff_sql'),
    ('reader', 'jitter_sql'),
    ('reader', 'now_sql'),
    -- Insight.
    ('reader', 'get_step_durations'),
    ('reader', 'get_failures'),
    ('reader', 'get_throughput'),
    ('reader', 'get_workers'),
    ('reader', 'get_system_health_counts'),
    ('reader', 'get_analytics_metrics'),
    ('reader', 'get_slowest_tasks'),
    ('reader', 'get_slowest_steps'),
    ('reader', 'metrics_prometheus'),
    ('reader', 'prometheus_samples'),
    ('reader', 'prometheus_labels'),
    ('reader', 'count_drawn'),
    ('reader', 'window_start'),
    -- What the policies of the tables ask.
    ('reader', 'may_use_all'),
    ('reader', 'may_use_namespace'),
    ('reader', 'may_use_template'),
    ('reader', 'may_use_task'),
    ('reader', 'may_use_queue'),
    ('worker', 'now'),
    ('worker', 'create_task'),
    ('worker', 'create_tasks'),
    ('worker', 'claim_steps'),
    ('worker', 'complete_step'),
    ('worker', 'complete_steps'),
    ('worker', 'fail_step'),
    ('worker', 'fail_steps'),
    ('worker', 'extend_lease'),
    ('worker', 'release_step'),
    ('worker', 'report_and_claim'),
    ('worker', 'next_visible_at'),
    ('worker', 'tick'),
    ('worker', 'run_task'),
    ('worker', 'run_steps'),
    ('worker', 'signal_step'),
    ('worker', 'read_events'),
    ('worker', 'claim_events'),
    ('worker', 'ack_events'),
    ('operator', 'pause_queue'),
    ('operator', 'resume_queue'),
    ('operator', 'set_queue_limit'),
    ('operator', 'reset_step'),
    ('operator', 'resolve_step'),
    ('operator', 'cancel_step'),
    ('operator', 'cancel_task'),
    ('operator', 'retry_task'),
    ('operator', 'set_backoff'),
    ('operator', 'release_backoff'),
    ('operator', 'purge_tasks'),
    ('operator', 'create_subscription'),
    ('operator', 'drop_subscription'),
    ('operator', 'set_namespace_private'),
    ('author', 'register_template'),
    ('owner', 'grant_access'),
    ('owner', 'revoke_access'),
    ('owner', 'find_violations'),
    ('owner', 'separate_namespaces'),
    ('owner', 'wake_queue'),
    ('owner', 'inject_failure'),
    ('owner', 'advance_clock'),
    ('owner', 'queues_after_update'),
    ('owner', 'keep_rows'),
    ('owner', 'tell_backends'),
    ('owner', 'steps_before_update'),
    ('owner', 'steps_after_update'),
    ('owner', 'tasks_before_update'),
    ('owner', 'tasks_after_update');

-- Policies, so that what a role reads or changes in the tables by itself keeps to its namespaces. They are made with the
-- first grant of a namespace: a database that separates nothing has the plans it always had. By a trigger, as a dump carries
-- the grants, but not the policies of an extension's tables. The owner, as whom commands run, is under none of them.
CREATE FUNCTION stepwise.separate_namespaces() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    policy record;
BEGIN
    IF NOT EXISTS (SELECT FROM stepwise.access AS a WHERE a.namespace IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    FOR policy IN
        SELECT p.name, p.test FROM (VALUES
            ('namespaces', $$stepwise.may_use_namespace('%1$s', name)$$),
            ('queues', $$stepwise.may_use_queue('%1$s', queue_id)$$),
            ('templates', $$stepwise.may_use_template('%1$s', template_id)$$),
            ('template_steps', $$stepwise.may_use_template('%1$s', template_id)$$),
            ('tasks', $$stepwise.may_use_template('%1$s', template_id)$$),
            ('steps', $$stepwise.may_use_template('%1$s', template_id)$$),
            ('transitions', $$stepwise.may_use_task('%1$s', task_id)$$),
            -- Places of a task, and those that one's own steps hold.
            ('slots', $$CASE kind WHEN 'task' THEN stepwise.may_use_task('%1$s', owner_id)
                ELSE task_id IS NOT NULL AND stepwise.may_use_task('%1$s', task_id) END$$),
            ('injected_failures', $$stepwise.may_use_task('%1$s', task_id)$$),
            ('subscriptions', $$false$$)
        ) AS p (name, test)
        WHERE NOT (SELECT c.relrowsecurity FROM pg_class AS c
            WHERE c.relname = p.name AND c.relnamespace = 'stepwise'::regnamespace)
    LOOP
        -- The first part is asked once for each statement.
        EXECUTE format($$CREATE POLICY read_namespaces ON stepwise.%1$I FOR SELECT
            USING ((SELECT stepwise.may_use_all('reader')) OR %2$s)$$, policy.name, format(policy.test, 'reader'));
        EXECUTE format($$CREATE POLICY change_namespaces ON stepwise.%1$I FOR UPDATE
            USING ((SELECT stepwise.may_use_all('operator')) OR %2$s)
            WITH CHECK ((SELECT stepwise.may_use_all('operator')) OR %2$s)$$, policy.name,
            format(policy.test, 'operator'));
        EXECUTE format($$CREATE POLICY add_namespaces ON stepwise.%1$I FOR INSERT
            WITH CHECK ((SELECT stepwise.may_use_all('operator')) OR %2$s)$$, policy.name,
            format(policy.test, 'operator'));
        EXECUTE format($$CREATE POLICY remove_namespaces ON stepwise.%1$I FOR DELETE
            USING ((SELECT stepwise.may_use_all('operator')) OR %2$s)$$, policy.name,
            format(policy.test, 'operator'));
        EXECUTE format('ALTER TABLE stepwise.%I ENABLE ROW LEVEL SECURITY', policy.name);
    END LOOP;
    RETURN NULL;
END
$function$;

CREATE TRIGGER access_separates AFTER INSERT OR UPDATE ON stepwise.access
    FOR EACH STATEMENT EXECUTE FUNCTION stepwise.separate_namespaces();

-- SECURITY INVOKER: GRANT, REVOKE and the rights on stepwise.access decide whether the caller may.
CREATE FUNCTION stepwise.grant_access(role name, level text, namespaces text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    levels text[] := CASE level
        WHEN 'reader' THEN '{reader}'
        WHEN 'worker' THEN '{worker}'
        WHEN 'operator' THEN '{reader,worker,operator}'
        WHEN 'author' THEN '{reader,worker,operator,author}'
    END;
    granted regprocedure;
BEGIN
    IF role IS NULL OR level IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'arguments "role" and "level" must not be NULL';
    END IF;
    IF levels IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'unknown access level',
            DETAIL = format('The level is "%s".', level),
            HINT = 'The levels are reader, worker, operator and author.';
    END IF;
    IF array_position(namespaces, NULL) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'elements of argument "namespaces" must not be NULL';
    END IF;
    IF cardinality(namespaces) = 0 OR EXISTS (
        SELECT FROM unnest(namespaces) AS n (name) WHERE n.name = '' OR char_length(n.name) > 255)
    THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'argument "namespaces" names no namespace',
            HINT = 'Pass names of 1 to 255 characters, or NULL for all namespaces.';
    END IF;
    -- Rows that a role of the same name has left behind give the new one nothing.
    DELETE FROM stepwise.access AS a
    WHERE a.role = grant_access.role AND NOT EXISTS (
        SELECT FROM pg_namespace AS n CROSS JOIN LATERAL aclexplode(n.nspacl) AS x
        WHERE n.nspname = 'stepwise' AND x.grantee = (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = a.role));
    -- Grants add up: one that would restrict nothing is a mistake.
    IF namespaces IS NOT NULL AND EXISTS (
        SELECT FROM stepwise.access AS a
        WHERE a.role = grant_access.role AND a.namespace IS NULL AND (a.level = grant_access.level OR a.level = 'author'
            OR a.level = 'operator' AND grant_access.level <> 'author'))
    THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'role has this level in all namespaces',
            DETAIL = format('The role is "%s", the level "%s".', role, level),
            HINT = 'SELECT stepwise.revoke_access(role) first.';
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA stepwise TO %I', role);
    FOR granted IN
        SELECT DISTINCT p.oid::regprocedure
        FROM stepwise.access_matrix AS m
        JOIN pg_proc AS p ON p.proname = m.function_name AND p.pronamespace = 'stepwise'::regnamespace
        WHERE m.level = ANY (levels)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', granted, role);
    END LOOP;
    IF 'reader' = ANY (levels) THEN
        EXECUTE format(
            'GRANT SELECT ON stepwise.namespaces, stepwise.queues, stepwise.templates, stepwise.template_steps, '
            'stepwise.tasks, stepwise.transitions, stepwise.slots, stepwise.subscriptions, stepwise.task_transitions, '
            'stepwise.step_transitions, stepwise.step_readiness TO %I', role);
        EXECUTE format(
            'GRANT SELECT ON stepwise.live_steps, stepwise.open_tasks, stepwise.queue_depths, stepwise.failed_steps, '
            'stepwise.failed_tasks TO %I', role);
        -- How many ids were drawn, in all namespaces: the counters of metrics_prometheus.
        IF namespaces IS NULL THEN
            EXECUTE format(
                'GRANT SELECT ON SEQUENCE stepwise.tasks_task_id_seq, stepwise.transitions_event_id_seq TO %I', role);
        END IF;
        -- All of a step but claim_token: whoever knows it can report for the worker that holds the step.
        EXECUTE format(
            'GRANT SELECT (task_id, template_id, queue_id, visible_at, last_attempted_at, last_failure_at, '
            'finished_at, step_id, remaining_parents, attempts, backoff_request_seconds, priority, retryable, state, '
            'limited, worker, inputs, results, error, signal) ON stepwise.steps TO %I', role);
    END IF;
    INSERT INTO stepwise.access (role, level, namespace)
    SELECT DISTINCT grant_access.role, grant_access.level, n.name FROM unnest(namespaces) AS n (name)
    UNION ALL
    SELECT grant_access.role, grant_access.level, NULL WHERE namespaces IS NULL
    ON CONFLICT DO NOTHING;
END
$function$;

CREATE FUNCTION stepwise.revoke_access(role name, namespaces text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF role IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'argument "role" must not be NULL';
    END IF;
    IF array_position(namespaces, NULL) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'elements of argument "namespaces" must not be NULL';
    END IF;
    IF namespaces IS NOT NULL THEN
        IF EXISTS (SELECT FROM stepwise.access AS a WHERE a.role = revoke_access.role AND a.namespace IS NULL) THEN
            RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'role has a level in all namespaces',
                DETAIL = format('The role is "%s".', role),
                HINT = 'Revoke without namespaces, then grant those that the role is to keep.';
        END IF;
        DELETE FROM stepwise.access AS a
        WHERE a.role = revoke_access.role AND a.namespace = ANY (revoke_access.namespaces);
        -- With the last namespace goes everything.
        IF EXISTS (SELECT FROM stepwise.access AS a WHERE a.role = revoke_access.role) THEN
            RETURN;
        END IF;
    END IF;
    EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA stepwise FROM %I', role);
    -- Of a table, this takes the grants on its columns too.
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA stepwise FROM %I', role);
    EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA stepwise FROM %I', role);
    EXECUTE format('REVOKE USAGE ON SCHEMA stepwise FROM %I', role);
    DELETE FROM stepwise.access AS a WHERE a.role = revoke_access.role;
END
$function$;

-- What has happened since a time: from the history alone, by its index of times. A row of the history carries what is
-- needed to measure it (ready_at, claimed_at), so no claim has to be found for its end.
--
-- plpgsql with plans made for the time that is asked: a plan for any time would have to read all of the history.
-- LATERAL with OFFSET 0 looks each task up by its key: the cost follows the rows of the window whatever the planner
-- expects.

CREATE FUNCTION stepwise.window_start(since timestamptz, otherwise interval, argument text DEFAULT 'since') RETURNS timestamptz
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF NOT isfinite(since) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'time to begin at must be finite',
            DETAIL = format('%s is %s.', argument, since),
            HINT = 'Pass NULL for the default, or a time such as stepwise.now() - interval ''1 day''.';
    END IF;
    RETURN coalesce(since, stepwise.now_sql() - otherwise);
END
$function$;

CREATE FUNCTION stepwise.get_step_durations(since timestamptz DEFAULT NULL, namespace_filter text DEFAULT NULL,
    template_filter text DEFAULT NULL, version_filter text DEFAULT NULL)
RETURNS TABLE (namespace text, template text, version text, step text, claims bigint, completed bigint, failed bigint,
    wait_p50 interval, wait_p90 interval, wait_p95 interval, wait_p99 interval,
    run_p50 interval, run_p90 interval, run_p95 interval, run_p99 interval)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $function$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := stepwise.window_start(since, '1 hour');
BEGIN
    RETURN QUERY
    SELECT n.name, t.name, t.version, e.name, d.claims, d.completed, d.failed,
           d.wait[1], d.wait[2], d.wait[3], d.wait[4], d.run[1], d.run[2], d.run[3], d.run[4]
    FROM (
        SELECT k.template_id, h.step_id,
               count(*) FILTER (WHERE h.to_state = 'in_progress') AS claims,
               count(*) FILTER (WHERE h.to_state = 'complete') AS completed,
               count(*) FILTER (WHERE h.to_state = 'error') AS failed,
               -- A start that was asked for may lie before the task was made.
               percentile_cont(ARRAY[0.5, 0.9, 0.95, 0.99])
                   WITHIN GROUP (ORDER BY h.at - greatest(h.ready_at, k.created_at))
                   FILTER (WHERE h.to_state = 'in_progress' AND h.ready_at IS NOT NULL) AS wait,
               -- The end of a lease does not tell how long the work took.
               percentile_cont(ARRAY[0.5, 0.9, 0.95, 0.99]) WITHIN GROUP (ORDER BY h.at - h.claimed_at)
                   FILTER (WHERE h.to_state IN ('complete', 'error')
                       AND h.metadata ->> 'reason' IS DISTINCT FROM 'lease_expired') AS run
        FROM stepwise.transitions AS h
        CROSS JOIN LATERAL (SELECT x.* FROM stepwise.tasks AS x WHERE x.task_id = h.task_id OFFSET 0) AS k
        WHERE h.at >= begins AND h.step_id IS NOT NULL
            AND (h.to_state = 'in_progress' AND h.from_state <> 'in_progress' OR h.claimed_at IS NOT NULL)
        GROUP BY k.template_id, h.step_id
    ) AS d
    JOIN stepwise.template_steps AS e ON e.template_id = d.template_id AND e.step_id = d.step_id AND e.kind = 'work'
    JOIN stepwise.templates AS t ON t.template_id = d.template_id
    JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
    WHERE (namespace_filter IS NULL OR n.name = namespace_filter)
        AND (template_filter IS NULL OR t.name = template_filter)
        AND (version_filter IS NULL OR t.version = version_filter)
    ORDER BY n.name, t.name, t.version_order, d.step_id;
END
$function$;

CREATE FUNCTION stepwise.get_failures(since timestamptz DEFAULT NULL)
RETURNS TABLE (namespace text, template text, version text, step text, failures bigint, lease_expired bigint,
    tasks bigint, last_failure_at timestamptz, last_task_id bigint, last_error jsonb)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $function$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := stepwise.window_start(since, '1 hour');
BEGIN
    RETURN QUERY
    SELECT n.name, t.name, t.version, e.name, d.failures, d.lease_expired, d.tasks, d.last_failure_at,
           d.last_task_id, d.last_error
    FROM (
        SELECT k.template_id, h.step_id, count(*) AS failures,
               count(*) FILTER (WHERE h.metadata ->> 'reason' = 'lease_expired') AS lease_expired,
               count(DISTINCT h.task_id) AS tasks,
               max(h.at) AS last_failure_at,
               (array_agg(h.task_id ORDER BY h.event_id DESC))[1] AS last_task_id,
               (array_agg(coalesce(h.metadata -> 'error', h.metadata -> 'reason') ORDER BY h.event_id DESC))[1]
                   AS last_error
        FROM stepwise.transitions AS h
        CROSS JOIN LATERAL (SELECT x.* FROM stepwise.tasks AS x WHERE x.task_id = h.task_id OFFSET 0) AS k
        WHERE h.at >= begins AND h.step_id IS NOT NULL AND h.to_state = 'error' AND h.from_state <> 'error'
        GROUP BY k.template_id, h.step_id
    ) AS d
    JOIN stepwise.template_steps AS e ON e.template_id = d.template_id AND e.step_id = d.step_id
    JOIN stepwise.templates AS t ON t.template_id = d.template_id
    JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
    ORDER BY d.failures DESC, d.last_failure_at DESC, n.name, t.name, t.version_order, d.step_id;
END
$function$;

CREATE FUNCTION stepwise.get_throughput(since timestamptz DEFAULT NULL)
RETURNS TABLE (minute timestamptz, tasks_created bigint, tasks_completed bigint, tasks_failed bigint,
    tasks_cancelled bigint, steps_claimed bigint, steps_completed bigint, steps_failed bigint)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $function$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := date_trunc('minute', stepwise.window_start(since, '1 hour'));
BEGIN
    RETURN QUERY
    SELECT m.minute, coalesce(d.created, 0), coalesce(d.completed, 0), coalesce(d.failed, 0), coalesce(d.cancelled, 0),
           coalesce(d.steps_claimed, 0), coalesce(d.steps_completed, 0), coalesce(d.steps_failed, 0)
    FROM generate_series(begins, stepwise.now_sql(), '1 minute') AS m (minute)
    LEFT JOIN (
        SELECT date_trunc('minute', h.at) AS minute,
               count(*) FILTER (WHERE h.step_id IS NULL AND h.from_state IS NULL) AS created,
               count(*) FILTER (WHERE h.step_id IS NULL AND h.to_state = 'complete') AS completed,
               count(*) FILTER (WHERE h.step_id IS NULL AND h.to_state = 'error') AS failed,
               count(*) FILTER (WHERE h.step_id IS NULL AND h.to_state = 'cancelled') AS cancelled,
               -- A signal takes its step too, as nobody.
               count(*) FILTER (WHERE h.step_id IS NOT NULL AND h.to_state = 'in_progress' AND h.worker IS NOT NULL)
                   AS steps_claimed,
               count(*) FILTER (WHERE h.step_id IS NOT NULL AND h.to_state = 'complete') AS steps_completed,
               count(*) FILTER (WHERE h.step_id IS NOT NULL AND h.to_state = 'error' AND h.from_state <> 'error')
                   AS steps_failed
        FROM stepwise.transitions AS h
        WHERE h.at >= begins
        GROUP BY 1
    ) AS d ON d.minute = m.minute
    ORDER BY m.minute;
END
$function$;

-- Who has claimed or reported since then, and whoever holds a step now.
CREATE FUNCTION stepwise.get_workers(since timestamptz DEFAULT NULL)
RETURNS TABLE (worker text, last_seen timestamptz, claims bigint, completed bigint, failed bigint,
    lost_leases bigint, in_flight bigint, expired_leases bigint, longest_in_flight interval, holds text[])
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $function$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := stepwise.window_start(since, '1 hour');
BEGIN
    RETURN QUERY
    SELECT worker, greatest(d.last_seen, l.last_claim), coalesce(d.claims, 0), coalesce(d.completed, 0),
           coalesce(d.failed, 0), coalesce(d.lost, 0), coalesce(l.in_flight, 0), coalesce(l.expired, 0), l.longest,
           coalesce(l.holds, '{}')
    FROM (
        SELECT h.worker,
               -- What ends a lease, or cancels a task, is not the worker.
               max(h.at) FILTER (WHERE h.actor IS NULL AND coalesce(h.metadata, '{}') -> 'reason' IS NULL) AS last_seen,
               count(*) FILTER (WHERE h.to_state = 'in_progress') AS claims,
               count(*) FILTER (WHERE h.to_state = 'complete') AS completed,
               count(*) FILTER (WHERE h.to_state = 'error' AND h.metadata ->> 'reason' IS DISTINCT FROM 'lease_expired')
                   AS failed,
               count(*) FILTER (WHERE h.to_state = 'error' AND h.metadata ->> 'reason' = 'lease_expired') AS lost
        FROM stepwise.transitions AS h
        WHERE h.at >= begins AND h.worker IS NOT NULL AND h.step_id IS NOT NULL
            AND (h.to_state = 'in_progress' OR h.from_state = 'in_progress')
        GROUP BY h.worker
    ) AS d
    FULL JOIN (
        SELECT s.worker, max(s.last_attempted_at) AS last_claim,
               count(*) FILTER (WHERE s.condition = 'in_flight') AS in_flight,
               count(*) FILTER (WHERE s.condition = 'lease_expired') AS expired,
               max(s.age) FILTER (WHERE s.condition = 'in_flight') AS longest,
               (array_agg(s.task_id || '/' || s.step ORDER BY s.last_attempted_at, s.task_id, s.step_id))[1:10] AS holds
        FROM stepwise.live_steps AS s
        WHERE s.worker IS NOT NULL
        GROUP BY s.worker
    ) AS l USING (worker)
    ORDER BY 2 DESC NULLS LAST, 1;
END
$function$;

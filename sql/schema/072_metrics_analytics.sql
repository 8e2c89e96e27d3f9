-- The state of the whole in one row, and what has taken longest.
--
-- Totals of what has ended are nowhere kept: a counter that every task changes would make tasks wait for each other.
-- They are counted from at most some 2000 pages of stepwise.tasks: all of it where it is no larger, so that they are
-- exact; else always the same pages, as a share of the whole. What is open or has failed is counted exactly, whatever the size.

CREATE FUNCTION stepwise.get_system_health_counts()
RETURNS TABLE (total_tasks bigint, pending_tasks bigint, in_progress_tasks bigint, complete_tasks bigint,
    error_tasks bigint, cancelled_tasks bigint, resolved_manually_tasks bigint, total_steps bigint, pending_steps bigint,
    in_progress_steps bigint, complete_steps bigint, error_steps bigint, cancelled_steps bigint,
    retryable_error_steps bigint, exhausted_retry_steps bigint, in_backoff_steps bigint, active_connections bigint,
    max_connections bigint, totals_estimated boolean)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $function$
#variable_conflict use_column
DECLARE
    pages CONSTANT bigint :=
        greatest(pg_relation_size('stepwise.tasks') / current_setting('block_size')::integer, 1);
    share CONSTANT double precision := least(100, 100.0 * 2000 / pages);
    scale CONSTANT numeric := 100 / share::numeric;
BEGIN
    RETURN QUERY
    SELECT greatest(e.tasks, o.pending + o.in_progress + f.tasks), o.pending, o.in_progress, e.complete, f.tasks,
           e.cancelled, e.resolved, greatest(e.steps, o.steps), o.open_steps + f.open_steps - l.in_progress - l.error,
           l.in_progress, e.complete_steps, l.error + o.failed_steps + f.failed_steps, e.cancelled_steps, l.error,
           o.failed_steps + f.failed_steps, l.backoff,
           (SELECT pg_stat_get_db_numbackends(d.oid)::bigint FROM pg_database AS d WHERE d.datname = current_database()),
           current_setting('max_connections')::bigint, share < 100
    FROM (
        SELECT round(scale * count(*))::bigint,
               round(scale * count(*) FILTER (WHERE t.state = 'complete'))::bigint,
               round(scale * count(*) FILTER (WHERE t.state = 'cancelled'))::bigint,
               round(scale * count(*) FILTER (WHERE t.state = 'resolved_manually'))::bigint,
               round(scale * coalesce(sum(t.total_steps), 0))::bigint,
               round(scale * coalesce(sum(t.completed_steps), 0))::bigint,
               round(scale * coalesce(sum(t.cancelled_steps), 0))::bigint
        FROM stepwise.tasks AS t TABLESAMPLE SYSTEM (share) REPEATABLE (0)
    ) AS e (tasks, complete, cancelled, resolved, steps, complete_steps, cancelled_steps)
    CROSS JOIN (
        SELECT count(*) FILTER (WHERE t.state = 'pending'),
               count(*) FILTER (WHERE t.state = 'in_progress'),
               coalesce(sum(t.total_steps), 0),
               coalesce(sum(t.total_steps - t.completed_steps - t.cancelled_steps - t.failed_steps), 0),
               coalesce(sum(t.failed_steps), 0)
        FROM stepwise.open_tasks AS t
    ) AS o (pending, in_progress, steps, open_steps, failed_steps)
    CROSS JOIN (
        SELECT count(*),
               coalesce(sum(t.total_steps - t.completed_steps - t.cancelled_steps - t.failed_steps), 0),
               coalesce(sum(t.failed_steps), 0)
        FROM stepwise.tasks AS t
        WHERE (t.failed_steps > 0 OR t.timed_out) AND t.state = 'error'
    ) AS f (tasks, open_steps, failed_steps)
    CROSS JOIN (
        SELECT count(*) FILTER (WHERE s.state = 'in_progress'), count(*) FILTER (WHERE s.state = 'error'),
               count(*) FILTER (WHERE s.condition = 'backoff')
        FROM stepwise.live_steps AS s
    ) AS l (in_progress, error, backoff);
END
$function$;

CREATE FUNCTION stepwise.get_analytics_metrics(since_timestamp timestamptz DEFAULT NULL)
RETURNS TABLE (active_tasks_count bigint, total_namespaces_count bigint, unique_task_types_count bigint,
    system_health_score numeric, task_throughput bigint, completion_count bigint, error_count bigint,
    completion_rate numeric, error_rate numeric, avg_task_duration numeric, avg_step_duration numeric,
    step_throughput bigint, analysis_period_start timestamptz, calculated_at timestamptz)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $function$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := stepwise.window_start(since_timestamp, '1 hour', 'since_timestamp');
BEGIN
    RETURN QUERY
    SELECT (SELECT count(*) FROM stepwise.open_tasks AS t WHERE t.state IN ('pending', 'in_progress')),
           (SELECT count(*) FROM stepwise.namespaces),
           (SELECT count(DISTINCT (t.namespace_id, t.name)) FROM stepwise.templates AS t),
           coalesce(round(t.completed::numeric / nullif(t.completed + t.failed, 0), 3), 1.0),
           t.created, t.completed, t.failed,
           coalesce(round(100.0 * t.completed / nullif(t.created, 0), 2), 0.0),
           coalesce(round(100.0 * t.failed / nullif(t.created, 0), 2), 0.0),
           coalesce(round(t.seconds, 3), 0.0), coalesce(round(s.seconds, 3), 0.0), s.completed, begins,
           stepwise.now_sql()
    FROM (
        -- Tasks created in the period, each once, as they are now.
        SELECT count(*), count(*) FILTER (WHERE k.state = 'complete'), count(*) FILTER (WHERE k.state = 'error'),
               avg(extract(epoch FROM k.finished_at - k.created_at)) FILTER (WHERE k.state = 'complete')
        FROM stepwise.transitions AS h
        CROSS JOIN LATERAL (SELECT x.* FROM stepwise.tasks AS x WHERE x.task_id = h.task_id OFFSET 0) AS k
        WHERE h.at >= begins AND h.step_id IS NULL AND h.from_state IS NULL
    ) AS t (created, completed, failed, seconds)
    CROSS JOIN (
        -- Attempts that completed in the period: a step is completed once.
        SELECT count(*), avg(extract(epoch FROM h.at - h.claimed_at))
        FROM stepwise.transitions AS h
        WHERE h.at >= begins AND h.step_id IS NOT NULL AND h.to_state = 'complete'
    ) AS s (completed, seconds);
END
$function$;

CREATE FUNCTION stepwise.get_slowest_tasks(since_timestamp timestamptz DEFAULT NULL, limit_count integer DEFAULT 10,
    namespace_filter text DEFAULT NULL, task_name_filter text DEFAULT NULL, version_filter text DEFAULT NULL)
RETURNS TABLE (task_id bigint, task_name text, namespace_name text, version text, duration_seconds numeric,
    step_count bigint, completed_steps bigint, error_steps bigint, created_at timestamptz, completed_at timestamptz,
    initiator text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $function$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := stepwise.window_start(since_timestamp, '24 hours', 'since_timestamp');
BEGIN
    IF limit_count < 0 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'number of rows must not be negative',
            DETAIL = format('limit_count is %s.', limit_count), HINT = 'Pass 0 or more; NULL is 10.';
    END IF;
    RETURN QUERY
    SELECT k.task_id, t.name, n.name, t.version, round(extract(epoch FROM k.finished_at - k.created_at), 3),
           k.total_steps::bigint, k.completed_steps::bigint, k.failed_steps::bigint, k.created_at, k.finished_at,
           k.requested_by
    FROM stepwise.transitions AS h
    CROSS JOIN LATERAL (SELECT x.* FROM stepwise.tasks AS x WHERE x.task_id = h.task_id OFFSET 0) AS k
    JOIN stepwise.templates AS t ON t.template_id = k.template_id
    JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
    -- A task that was taken back to work has ended more than once; its last end has the time of its row.
    WHERE h.at >= begins AND h.step_id IS NULL AND h.to_state IN ('complete', 'error')
        AND h.to_state = k.state AND h.at = k.finished_at
        AND (namespace_filter IS NULL OR n.name = namespace_filter)
        AND (task_name_filter IS NULL OR t.name = task_name_filter)
        AND (version_filter IS NULL OR t.version = version_filter)
    ORDER BY k.finished_at - k.created_at DESC, k.task_id
    LIMIT coalesce(limit_count, 10);
END
$function$;

CREATE FUNCTION stepwise.get_slowest_steps(since_timestamp timestamptz DEFAULT NULL, limit_count integer DEFAULT 10,
    namespace_filter text DEFAULT NULL, task_name_filter text DEFAULT NULL, version_filter text DEFAULT NULL)
RETURNS TABLE (task_id bigint, step_id integer, step_name text, task_name text, namespace_name text, version text,
    duration_seconds numeric, attempts integer, created_at timestamptz, completed_at timestamptz, retryable boolean,
    step_status text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $function$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := stepwise.window_start(since_timestamp, '24 hours', 'since_timestamp');
BEGIN
    IF limit_count < 0 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'number of rows must not be negative',
            DETAIL = format('limit_count is %s.', limit_count), HINT = 'Pass 0 or more; NULL is 10.';
    END IF;
    RETURN QUERY
    SELECT h.task_id, h.step_id, e.name, t.name, n.name, t.version, round(extract(epoch FROM h.at - h.claimed_at), 3),
           h.attempt, k.created_at, h.at, e.retryable, h.to_state
    FROM stepwise.transitions AS h
    CROSS JOIN LATERAL (SELECT x.* FROM stepwise.tasks AS x WHERE x.task_id = h.task_id OFFSET 0) AS k
    JOIN stepwise.template_steps AS e
        ON e.template_id = k.template_id AND e.step_id = h.step_id AND e.kind = 'work'
    JOIN stepwise.templates AS t ON t.template_id = k.template_id
    JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
    WHERE h.at >= begins AND h.step_id IS NOT NULL AND h.to_state = 'complete' AND h.claimed_at IS NOT NULL
        AND (namespace_filter IS NULL OR n.name = namespace_filter)
        AND (task_name_filter IS NULL OR t.name = task_name_filter)
        AND (version_filter IS NULL OR t.version = version_filter)
    ORDER BY h.at - h.claimed_at DESC, h.task_id, h.step_id
    LIMIT coalesce(limit_count, 10);
END
$function$;

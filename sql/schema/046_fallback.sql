-- Readiness without the library: the same answer as get_step_readiness_status from the parents' states and the
-- history alone. It needs no counter and no native code, so it goes on where the library cannot be loaded, and it is
-- what the native answer is compared with (047).

-- The clock of the engine. A day of the offset is 24 hours, in whatever time zone.
CREATE FUNCTION stepwise.now_sql() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL SAFE
BEGIN ATOMIC
    SELECT clock_timestamp() + (o.clock_offset - make_interval(days => extract(day FROM o.clock_offset)::integer))
        + make_interval(hours => 24 * extract(day FROM o.clock_offset)::integer)
    FROM (SELECT coalesce(nullif(btrim(current_setting('stepwise.clock_offset', true)), ''), '0')::interval)
        AS o (clock_offset);
END;

-- A number in [0, 1) that depends on nothing but its arguments: three rounds of SplitMix64. Unsigned 64-bit arithmetic
-- that wraps is done in numeric; z holds the bits as a bigint. A shift to the right brings the sign along, a mask takes
-- it away.
CREATE FUNCTION stepwise.jitter_sql(task_id bigint, step_id integer, attempts integer) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    half CONSTANT numeric := 9223372036854775808;
    whole CONSTANT numeric := 18446744073709551616;
    part bigint;
    z bigint := 0;
BEGIN
    FOREACH part IN ARRAY ARRAY[task_id, step_id::bigint & 4294967295, attempts::bigint & 4294967295] LOOP
        z := mod((z # part)::numeric + 11400714819323198485 + half, whole) - half;
        z := z # ((z >> 30) & 17179869183);
        z := mod(mod(z::numeric * 13787848793156543929 + half, whole) + whole, whole) - half;
        z := z # ((z >> 27) & 137438953471);
        z := mod(mod(z::numeric * 10723151780598845931 + half, whole) + whole, whole) - half;
        z := z # ((z >> 31) & 8589934591);
    END LOOP;
    RETURN ((z >> 11) & 9007199254740991)::double precision / 9007199254740992;
END
$function$;

-- calculate_backoff to the microsecond: the same steps in the same types. The jitter, which takes long, is asked only
-- where there is one. Between float and numeric stands bigint: the direct cast keeps 15 digits only.
CREATE FUNCTION stepwise.calculate_backoff_sql(attempts integer, base interval DEFAULT '1 second',
    cap interval DEFAULT '30 seconds', jitter double precision DEFAULT 0, task_id bigint DEFAULT 0,
    step_id integer DEFAULT 0) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
BEGIN ATOMIC
    SELECT least(greatest((date_part('epoch', cap) * 1e6)::bigint, 0), CASE
            WHEN jitter > 0 THEN trunc(least(
                p.plain::double precision * (1 + least(jitter, 1) * stepwise.jitter_sql(task_id, step_id, attempts)),
                -- The last float before 2^63, which is beyond every cap.
                9223372036854774784))::bigint
            ELSE p.plain
        END)::bigint * interval '1 microsecond'
    FROM (SELECT greatest((date_part('epoch', base) * 1e6)::bigint, 0) * 2::numeric ^ least(greatest(attempts, 0), 63))
        AS p (plain);
END;

-- The readiness of the steps of a range of tasks.
CREATE FUNCTION stepwise.derive_readiness(first_task bigint, last_task bigint)
RETURNS TABLE (task_id bigint, step_id integer, name text, current_state text, dependencies_satisfied boolean,
    retry_eligible boolean, ready_for_execution boolean, last_failure_at timestamptz, next_retry_at timestamptz,
    total_parents integer, completed_parents integer, attempts integer, retry_limit integer,
    backoff_request_seconds integer, last_attempted_at timestamptz, processed boolean, in_process boolean)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- One reading of the clock for all rows and all of their columns.
    WITH clock AS MATERIALIZED (SELECT stepwise.now_sql() AS now)
    SELECT f.task_id, f.step_id, f.name, f.state,
           f.settled_parents = f.total_parents,
           d.retry_eligible,
           f.state IN ('pending', 'error')
               AND f.settled_parents = f.total_parents
               AND d.retry_eligible
               -- A later time without a backoff is a start that was asked for.
               AND NOT (f.state = 'pending' AND f.backoff_seconds IS NULL AND coalesce(f.visible_at > clock.now, false))
               AND f.task_state IN ('pending', 'in_progress')
               AND f.kind = 'work'
               AND NOT f.paused,
           CASE WHEN f.state = 'error' THEN f.last_failure_at END,
           d.next_retry_at,
           f.total_parents, f.settled_parents, f.attempts, f.retry_limit,
           f.backoff_seconds, f.last_attempted_at,
           f.state IN ('complete', 'resolved_manually', 'skipped'),
           f.state = 'in_progress'
    FROM (
        SELECT b.task_id, b.step_id, b.state, b.visible_at, t.state AS task_state, e.kind,
               coalesce((SELECT q.paused FROM stepwise.queues AS q WHERE q.queue_id = b.queue_id), false) AS paused,
               e.name, e.retry_limit, e.backoff_base, e.backoff_cap, e.backoff_jitter,
               cardinality(e.parents) AS total_parents, p.settled AS settled_parents,
               coalesce(b.attempts, 0) AS attempts, b.last_attempted_at, b.last_failure_at, b.changed_at,
               CASE WHEN b.state IN ('pending', 'error') THEN b.backoff_seconds END AS backoff_seconds,
               e.retryable AND b.retryable IS NOT FALSE AS may_repeat
        FROM (
            SELECT task_id, step_id, s.state, s.visible_at, s.queue_id, h.attempts, h.last_attempted_at,
                   h.last_failure_at, h.changed_at, h.backoff_seconds, h.retryable
            FROM (
                SELECT x.task_id, x.step_id, x.state, x.visible_at, x.queue_id
                FROM stepwise.steps AS x WHERE x.task_id BETWEEN first_task AND last_task
            ) AS s
            FULL JOIN (
                SELECT x.* FROM stepwise.fold_history(first_task, last_task) AS x WHERE x.step_id IS NOT NULL
            ) AS h USING (task_id, step_id)
            WHERE coalesce(s.state, '') <> ''
        ) AS b
        JOIN stepwise.tasks AS t ON t.task_id = b.task_id AND t.task_id BETWEEN first_task AND last_task
        JOIN stepwise.template_steps AS e ON e.template_id = t.template_id AND e.step_id = b.step_id
        -- One look-up for each edge, however the planner sees the task.
        CROSS JOIN LATERAL (
            SELECT count(*)::integer AS settled FROM unnest(e.parents) AS parent
            WHERE (SELECT x.state FROM stepwise.steps AS x WHERE x.task_id = b.task_id AND x.step_id = parent)
                IN ('complete', 'resolved_manually', 'skipped')
        ) AS p
    ) AS f
    CROSS JOIN clock
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN f.state = 'error' AND NOT (f.attempts < f.retry_limit AND f.may_repeat) THEN NULL
            -- A step that was never attempted counts from its failure or, pending, from when its backoff was set.
            WHEN f.backoff_seconds IS NOT NULL
                THEN coalesce(f.last_attempted_at, CASE f.state WHEN 'error' THEN f.last_failure_at ELSE f.changed_at END)
                    + make_interval(secs => f.backoff_seconds)
            WHEN f.state = 'error' THEN (
                -- Beyond the last timestamp is infinity.
                SELECT CASE
                    WHEN isfinite(f.last_failure_at)
                        AND x.rest > timestamptz '294276-12-31 23:59:59.999999+00' - f.last_failure_at THEN 'infinity'
                    ELSE f.last_failure_at + x.rest
                END
                FROM (SELECT stepwise.calculate_backoff_sql(
                    f.attempts, f.backoff_base, f.backoff_cap, f.backoff_jitter, f.task_id, f.step_id)) AS x (rest))
        END AS next_retry_at
        OFFSET 0
    ) AS b
    CROSS JOIN LATERAL (
        SELECT b.next_retry_at,
               f.attempts < f.retry_limit AND (f.attempts <= 0 OR f.may_repeat)
                   AND coalesce(b.next_retry_at <= clock.now, true)
                   AND NOT (f.state = 'error' AND NOT (f.attempts < f.retry_limit AND f.may_repeat)) AS retry_eligible
    ) AS d;
END;

CREATE FUNCTION stepwise.get_step_readiness_status_sql(task_id bigint)
RETURNS TABLE (task_id bigint, step_id integer, name text, current_state text, dependencies_satisfied boolean,
    retry_eligible boolean, ready_for_execution boolean, last_failure_at timestamptz, next_retry_at timestamptz,
    total_parents integer, completed_parents integer, attempts integer, retry_limit integer,
    backoff_request_seconds integer, last_attempted_at timestamptz, processed boolean, in_process boolean)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT r.*
    FROM stepwise.derive_readiness(get_step_readiness_status_sql.task_id, get_step_readiness_status_sql.task_id) AS r
    WHERE r.task_id = get_step_readiness_status_sql.task_id
    ORDER BY r.step_id;
END;

CREATE VIEW stepwise.step_readiness WITH (security_invoker = true) AS
SELECT r.* FROM stepwise.derive_readiness('-9223372036854775808', '9223372036854775807') AS r;

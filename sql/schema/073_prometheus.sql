-- The numbers of 070 and 071 as Prometheus wants them: text exposition format 0.0.4.

CREATE FUNCTION stepwise.prometheus_labels(names text[], label_values text[]) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT coalesce('{' || string_agg(
        n.name || '="' || replace(replace(replace(n.value, '\', '\\'), '"', '\"'), chr(10), '\n') || '"', ','
        ORDER BY n.place) || '}', '')
    FROM unnest(names, label_values) WITH ORDINALITY AS n (name, value, place);
END;

-- How many ids a sequence has given out; NULL for whoever may not know, such as a role that is kept to namespaces.
CREATE FUNCTION stepwise.count_drawn(sequence regclass) RETURNS numeric
LANGUAGE sql STABLE PARALLEL SAFE STRICT
SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN has_sequence_privilege(sequence, 'SELECT') THEN coalesce(pg_sequence_last_value(sequence), 0) END;

-- Counters are what only grows: ids that were drawn. All else are gauges: what is there now, or was in the last minute.
-- Series with a "recent" in their names exist only for what has happened in that minute.
CREATE FUNCTION stepwise.prometheus_samples()
RETURNS TABLE (family text, labels text, value numeric)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $function$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := stepwise.window_start(NULL, '1 minute');
BEGIN
    RETURN QUERY
    SELECT 'stepwise_info', stepwise.prometheus_labels('{version}', ARRAY[x.extversion]), 1::numeric
    FROM pg_extension AS x WHERE x.extname = 'pg_stepwise';

    RETURN QUERY
    SELECT v.family, stepwise.prometheus_labels('{queue}', ARRAY[q.queue]), v.value
    FROM stepwise.queue_depths AS q
    CROSS JOIN LATERAL (VALUES
        ('stepwise_queue_ready_steps', q.ready::numeric),
        ('stepwise_queue_due_retries', q.retries_due),
        ('stepwise_queue_delayed_steps', q.delayed),
        ('stepwise_queue_backoff_steps', q.in_backoff),
        ('stepwise_queue_signal_steps', q.waiting_for_signal),
        ('stepwise_queue_operator_steps', q.for_operator),
        ('stepwise_queue_in_flight_steps', q.in_flight),
        ('stepwise_queue_expired_leases', q.expired_leases),
        ('stepwise_queue_oldest_ready_seconds', coalesce(extract(epoch FROM q.oldest_ready_age), 0)),
        ('stepwise_queue_longest_in_flight_seconds', coalesce(extract(epoch FROM q.longest_in_flight), 0)),
        ('stepwise_queue_paused', q.paused::integer),
        ('stepwise_queue_max_in_flight_steps', q.max_in_flight)
    ) AS v (family, value);

    RETURN QUERY
    SELECT 'stepwise_tasks', stepwise.prometheus_labels('{namespace,template,version,state}',
               ARRAY[n.name, t.name, t.version, k.state]), count(*)::numeric
    FROM (
        SELECT x.template_id, x.state
        FROM (SELECT DISTINCT s.task_id FROM stepwise.steps AS s WHERE s.visible_at IS NOT NULL) AS l
        CROSS JOIN LATERAL (SELECT y.* FROM stepwise.tasks AS y WHERE y.task_id = l.task_id OFFSET 0) AS x
        UNION ALL
        SELECT x.template_id, x.state FROM stepwise.tasks AS x
        WHERE (x.failed_steps > 0 OR x.timed_out) AND x.state = 'error'
    ) AS k
    JOIN stepwise.templates AS t ON t.template_id = k.template_id
    JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
    GROUP BY n.name, t.name, t.version, k.state;

    RETURN QUERY
    SELECT v.family, '', v.value
    FROM (SELECT count(DISTINCT s.worker) AS busy FROM stepwise.live_steps AS s WHERE s.condition = 'in_flight') AS w
    CROSS JOIN (
        SELECT coalesce(sum(t.waiting_steps), 0) AS waiting FROM stepwise.open_tasks AS t
    ) AS o
    CROSS JOIN LATERAL (VALUES
        ('stepwise_busy_workers', w.busy::numeric),
        ('stepwise_waiting_steps', o.waiting),
        ('stepwise_tasks_created_total', stepwise.count_drawn('stepwise.tasks_task_id_seq')),
        ('stepwise_transitions_total', stepwise.count_drawn('stepwise.transitions_event_id_seq'))
    ) AS v (family, value)
    WHERE v.value IS NOT NULL;

    RETURN QUERY
    SELECT 'stepwise_failed_steps', stepwise.prometheus_labels('{namespace,template,version}',
               ARRAY[n.name, t.name, t.version]), sum(k.failed_steps)::numeric
    FROM stepwise.tasks AS k
    JOIN stepwise.templates AS t ON t.template_id = k.template_id
    JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
    WHERE k.failed_steps > 0 AND k.state IN ('pending', 'in_progress', 'error')
    GROUP BY n.name, t.name, t.version;

    RETURN QUERY
    SELECT 'stepwise_table_bytes', stepwise.prometheus_labels('{table}', ARRAY[c.relname::text]),
           pg_total_relation_size(c.oid)::numeric
    FROM pg_class AS c
    WHERE c.oid IN ('stepwise.tasks'::regclass, 'stepwise.steps'::regclass, 'stepwise.transitions'::regclass);

    RETURN QUERY
    SELECT v.family, stepwise.prometheus_labels('{namespace,template,version,step}'::text[] || v.label,
               ARRAY[d.namespace, d.template, d.version, d.step] || v.label_value), v.value
    FROM stepwise.get_step_durations(begins) AS d
    CROSS JOIN LATERAL (VALUES
        ('stepwise_recent_claims', NULL, NULL, d.claims::numeric),
        ('stepwise_recent_ended_attempts', 'outcome', 'complete', d.completed),
        ('stepwise_recent_ended_attempts', 'outcome', 'error', d.failed),
        ('stepwise_recent_wait_seconds', 'percentile', '50', extract(epoch FROM d.wait_p50)),
        ('stepwise_recent_wait_seconds', 'percentile', '90', extract(epoch FROM d.wait_p90)),
        ('stepwise_recent_wait_seconds', 'percentile', '95', extract(epoch FROM d.wait_p95)),
        ('stepwise_recent_wait_seconds', 'percentile', '99', extract(epoch FROM d.wait_p99)),
        ('stepwise_recent_run_seconds', 'percentile', '50', extract(epoch FROM d.run_p50)),
        ('stepwise_recent_run_seconds', 'percentile', '90', extract(epoch FROM d.run_p90)),
        ('stepwise_recent_run_seconds', 'percentile', '95', extract(epoch FROM d.run_p95)),
        ('stepwise_recent_run_seconds', 'percentile', '99', extract(epoch FROM d.run_p99))
    ) AS v (family, label, label_value, value)
    WHERE v.value IS NOT NULL;

    RETURN QUERY
    SELECT 'stepwise_recent_task_changes', stepwise.prometheus_labels('{namespace,template,version,outcome}',
               ARRAY[n.name, t.name, t.version, d.outcome]), d.tasks::numeric
    FROM (
        SELECT k.template_id, CASE WHEN h.from_state IS NULL THEN 'created' ELSE h.to_state END, count(*)
        FROM stepwise.transitions AS h
        CROSS JOIN LATERAL (SELECT x.* FROM stepwise.tasks AS x WHERE x.task_id = h.task_id OFFSET 0) AS k
        WHERE h.at >= begins AND h.step_id IS NULL
            AND (h.from_state IS NULL OR h.to_state IN ('complete', 'error', 'cancelled', 'resolved_manually'))
        GROUP BY 1, 2
    ) AS d (template_id, outcome, tasks)
    JOIN stepwise.templates AS t ON t.template_id = d.template_id
    JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id;
END
$function$;

CREATE FUNCTION stepwise.metrics_prometheus() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT coalesce(string_agg(f.text, '' ORDER BY f.place), '')
    FROM (
        SELECT m.place, format(E'# HELP %s %s\n# TYPE %s %s\n', m.family, m.help, m.family, m.type)
                   || string_agg(format(E'%s%s %s\n', s.family, s.labels,
                          CASE s.value WHEN 'Infinity' THEN '+Inf' ELSE s.value::text END), '' ORDER BY s.labels)
        FROM stepwise.prometheus_samples() AS s
        JOIN (VALUES
            (1, 'stepwise_info', 'gauge', 'Version of the extension.'),
            (2, 'stepwise_queue_ready_steps', 'gauge', 'Steps that could be claimed now, due retries included.'),
            (3, 'stepwise_queue_due_retries', 'gauge', 'Failed steps whose next attempt is due.'),
            (4, 'stepwise_queue_delayed_steps', 'gauge', 'Steps that were asked to start later.'),
            (5, 'stepwise_queue_backoff_steps', 'gauge', 'Failed steps that rest before their next attempt.'),
            (6, 'stepwise_queue_signal_steps', 'gauge', 'Steps that wait for a signal.'),
            (7, 'stepwise_queue_operator_steps', 'gauge', 'Steps that no worker gets: an operator resolves them.'),
            (8, 'stepwise_queue_in_flight_steps', 'gauge', 'Steps that a worker holds.'),
            (9, 'stepwise_queue_expired_leases', 'gauge', 'Steps whose lease is over and that nobody has claimed again.'),
            (10, 'stepwise_queue_oldest_ready_seconds', 'gauge', 'How long the oldest ready step has been ready.'),
            (11, 'stepwise_queue_longest_in_flight_seconds', 'gauge', 'How long the oldest claim has been held.'),
            (12, 'stepwise_queue_paused', 'gauge', 'Whether the queue is paused.'),
            (13, 'stepwise_queue_max_in_flight_steps', 'gauge', 'Limit of steps in flight, 0 for none.'),
            (14, 'stepwise_tasks', 'gauge', 'Tasks that have not ended, and those in error.'),
            (15, 'stepwise_waiting_steps', 'gauge', 'Steps of open tasks that wait for other steps.'),
            (16, 'stepwise_failed_steps', 'gauge', 'Steps that have failed for good and want an operator.'),
            (17, 'stepwise_busy_workers', 'gauge', 'Workers that hold a step.'),
            (18, 'stepwise_recent_task_changes', 'gauge', 'Tasks created or ended in the last 60 seconds.'),
            (19, 'stepwise_recent_claims', 'gauge', 'Claims in the last 60 seconds.'),
            (20, 'stepwise_recent_ended_attempts', 'gauge', 'Attempts that ended in the last 60 seconds.'),
            (21, 'stepwise_recent_wait_seconds', 'gauge',
                'From ready to claimed, percentile of the claims of the last 60 seconds.'),
            (22, 'stepwise_recent_run_seconds', 'gauge',
                'From claimed to its end, percentile of the attempts that ended in the last 60 seconds.'),
            (23, 'stepwise_table_bytes', 'gauge', 'Size of a table with its indexes.'),
            (24, 'stepwise_tasks_created_total', 'counter', 'Ids given to tasks.'),
            (25, 'stepwise_transitions_total', 'counter', 'Ids given to changes of state.')
        ) AS m (place, family, type, help) ON m.family = s.family
        GROUP BY m.place, m.family, m.type, m.help
    ) AS f (place, text);
END;

-- The invariants: what holds in every database at every moment, each as one query that returns what breaks it.

-- All of them in one statement, that is in one snapshot, for a range of tasks that reaches every index. The plan is
-- made for the range at hand: one task, or all of them.
CREATE FUNCTION stepwise.find_violations(first_task bigint, last_task bigint)
RETURNS TABLE (invariant text, task_id bigint, step_id integer, detail text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
-- Compiling a statement of this size takes longer than it saves.
SET jit = off
AS $function$
#variable_conflict use_column
DECLARE
    started CONSTANT timestamptz := stepwise.now_sql();
BEGIN
    RETURN QUERY
    WITH past AS MATERIALIZED (
        SELECT h.* FROM stepwise.fold_history(first_task, last_task) AS h
    ), step AS MATERIALIZED (
        -- Steps beside their history, task and template, where there are such; a history without its step too.
        SELECT b.*,
               t.state AS task_state, t.template_id AS task_template_id, t.priority AS task_priority,
               e.parents, e.retry_limit, e.retryable AS may_repeat,
               (SELECT count(*) FROM unnest(e.parents) AS parent
                WHERE (SELECT x.state FROM stepwise.steps AS x WHERE x.task_id = b.task_id AND x.step_id = parent)
                    NOT IN ('complete', 'resolved_manually', 'skipped')) AS open_parents,
               b.state = 'error' AND NOT (b.attempts < e.retry_limit AND e.retryable AND b.retryable IS NOT FALSE)
                   AS failed_for_good
        FROM (
            SELECT task_id, step_id, s.template_id, s.queue_id, s.priority, s.visible_at, s.claim_token, s.state,
                   s.remaining_parents, s.attempts, s.retryable, s.last_attempted_at, s.last_failure_at, s.finished_at,
                   s.has_results, h.state AS past_state, coalesce(h.attempts, 0) AS past_attempts, h.first_claim,
                   h.completions, coalesce(h.reported, false) AS reported
            FROM (
                SELECT x.task_id, x.step_id, x.template_id, x.queue_id, x.priority, x.visible_at, x.claim_token,
                       x.state, x.remaining_parents, x.attempts, x.retryable, x.last_attempted_at, x.last_failure_at,
                       x.finished_at, x.results IS NOT NULL AS has_results
                FROM stepwise.steps AS x WHERE x.task_id BETWEEN first_task AND last_task
            ) AS s
            FULL JOIN (SELECT x.* FROM past AS x WHERE x.step_id IS NOT NULL) AS h USING (task_id, step_id)
        ) AS b
        LEFT JOIN stepwise.tasks AS t ON t.task_id = b.task_id AND t.task_id BETWEEN first_task AND last_task
        LEFT JOIN stepwise.template_steps AS e
            ON e.template_id = coalesce(t.template_id, b.template_id) AND e.step_id = b.step_id
    ), task AS MATERIALIZED (
        -- Tasks beside a recount of their steps and their history.
        SELECT t.task_id, t.template_id, t.state, t.started_at, t.finished_at, t.timed_out,
               t.total_steps, t.live_steps, t.completed_steps, t.failed_steps, t.cancelled_steps,
               coalesce(c.total, 0) AS total, coalesce(c.live, 0) AS live, coalesce(c.completed, 0) AS completed,
               coalesce(c.failed, 0) AS failed, coalesce(c.cancelled, 0) AS cancelled,
               h.state AS past_state
        FROM stepwise.tasks AS t
        LEFT JOIN (
            SELECT s.task_id, count(*) AS total, count(s.visible_at) AS live,
                   count(*) FILTER (WHERE s.state IN ('complete', 'resolved_manually', 'skipped')) AS completed,
                   count(*) FILTER (WHERE s.failed_for_good) AS failed,
                   count(*) FILTER (WHERE s.state = 'cancelled') AS cancelled
            FROM step AS s WHERE s.state IS NOT NULL GROUP BY s.task_id
        ) AS c ON c.task_id = t.task_id
        LEFT JOIN past AS h ON h.task_id = t.task_id AND h.step_id IS NULL
        WHERE t.task_id BETWEEN first_task AND last_task
    )

    -- 1. A step that was claimed has every parent satisfied or skipped, since before its first claim.
    SELECT 'parents_first', task_id, c.child,
           format('claimed, but parent %s was %s', step_id,
               CASE WHEN p.settled IS NULL THEN 'never settled' ELSE 'settled later' END)
    FROM (
        SELECT s.task_id, parent, s.step_id, s.first_claim
        FROM step AS s CROSS JOIN LATERAL unnest(s.parents) AS parent
        WHERE s.first_claim IS NOT NULL OR s.attempts > 0
    ) AS c (task_id, step_id, child, first_claim)
    FULL JOIN past AS p USING (task_id, step_id)
    WHERE coalesce(c.child, 0) > 0 AND (p.settled IS NULL OR p.settled > c.first_claim)

    -- 2. remaining_parents counts the parents that are neither satisfied nor skipped.
    UNION ALL
    SELECT 'remaining_parents', s.task_id, s.step_id,
           format('remaining_parents is %s, open parents are %s', s.remaining_parents, s.open_parents)
    FROM step AS s
    WHERE s.remaining_parents <> s.open_parents

    -- 3. A step is visible exactly where it can make progress by itself.
    UNION ALL
    SELECT 'visibility', s.task_id, s.step_id,
           format('%s with %s parents to wait for, but visible_at is %s', s.state, s.remaining_parents,
               CASE WHEN s.visible_at IS NULL THEN 'not set' ELSE 'set' END)
    FROM step AS s
    WHERE CASE
        WHEN s.state IN ('complete', 'cancelled', 'resolved_manually', 'skipped') OR s.remaining_parents > 0
            OR s.failed_for_good THEN s.visible_at IS NOT NULL
        WHEN s.state = 'in_progress' OR (s.state = 'pending' AND s.task_state IN ('pending', 'in_progress', 'error'))
            THEN s.visible_at IS NULL
        END

    -- 4. Whoever holds a step has a token; whoever ended it keeps the token that did it; nobody else has one.
    UNION ALL
    SELECT 'claim_token', s.task_id, s.step_id,
           format('%s %s claim_token', s.state,
               CASE
                   WHEN s.claim_token IS NULL THEN 'without a'
                   WHEN s.claim_token BETWEEN 0 AND 549755813887 THEN 'with a'
                   ELSE 'with an impossible'
               END)
    FROM step AS s
    WHERE (s.claim_token IS NOT NULL) <> (s.state IN ('in_progress', 'complete') OR (s.state = 'error' AND s.reported))
        OR s.claim_token NOT BETWEEN 0 AND 549755813887

    -- 5. A task's counters are the recount of its steps.
    UNION ALL
    SELECT 'counters', t.task_id, NULL,
           format('(total, live, completed, failed, cancelled) is %s, the steps say %s',
               (t.total_steps, t.live_steps, t.completed_steps, t.failed_steps, t.cancelled_steps),
               (t.total, t.live, t.completed, t.failed, t.cancelled))
    FROM task AS t
    WHERE (t.total_steps, t.live_steps, t.completed_steps, t.failed_steps, t.cancelled_steps)
        <> (t.total, t.live, t.completed, t.failed, t.cancelled)

    -- 6. A task has live steps until it has ended, and none afterwards.
    UNION ALL
    SELECT 'liveness', t.task_id, NULL, format('%s with %s live steps', t.state, t.live)
    FROM task AS t
    WHERE (t.state IN ('pending', 'in_progress')) <> (t.live > 0)

    -- 7. A task ends as its steps say, unless it was resolved by hand. One that ran out of time may be cancelled by hand, too.
    UNION ALL
    SELECT 'outcome', t.task_id, NULL, format('%s, the steps say %s', t.state, coalesce(o.state, 'nothing'))
    FROM task AS t
    CROSS JOIN LATERAL (
        SELECT CASE WHEN t.failed > 0 THEN 'error' WHEN t.completed = t.total THEN 'complete'
            WHEN t.timed_out AND t.state <> 'cancelled' THEN 'error' WHEN t.cancelled > 0 THEN 'cancelled' END
    ) AS o (state)
    WHERE t.live = 0 AND t.state NOT IN ('resolved_manually', 'pending', 'in_progress')
        AND t.state IS DISTINCT FROM o.state

    -- 8. Attempts are the claims since the last reset less the releases, never more than the limit; a step that is
    -- given up has used them all, or must not use another.
    UNION ALL
    SELECT 'attempts', s.task_id, s.step_id,
           format('%s after %s of %s attempts, ', s.state, s.attempts, s.retry_limit)
               || CASE
                   WHEN s.attempts <> s.past_attempts THEN format('the history says %s', s.past_attempts)
                   WHEN s.attempts > s.retry_limit THEN 'too many'
                   ELSE 'given up too early'
               END
    FROM step AS s
    WHERE s.attempts <> s.past_attempts OR s.attempts > s.retry_limit
        OR (s.state = 'error' AND s.visible_at IS NULL AND s.remaining_parents = 0 AND NOT s.failed_for_good)

    -- 9. History starts at the initial state, each change where the one before it has ended, by the rules, and ends at
    -- the state of the row. A change of nothing is a backoff that was set on a waiting step.
    UNION ALL
    SELECT 'history', h.task_id, h.step_id,
           format('event %s goes from %s to %s, ', h.event_id, coalesce(h.from_state, 'nothing'), h.to_state)
               || CASE
                   WHEN h.from_state IS NOT DISTINCT FROM h.state_before THEN 'against the rules'
                   ELSE format('the state was %s', coalesce(h.state_before, 'nothing'))
               END
    FROM (
        SELECT r.task_id, r.step_id, r.event_id, r.from_state, r.to_state, r.metadata,
               coalesce(lag(r.to_state) OVER (PARTITION BY r.task_id, r.step_id ORDER BY r.event_id),
                   CASE WHEN r.step_id IS NOT NULL THEN 'pending' END) AS state_before
        FROM stepwise.transitions AS r
        WHERE r.task_id BETWEEN first_task AND last_task
    ) AS h
    WHERE h.from_state IS DISTINCT FROM h.state_before
        OR CASE
            WHEN h.from_state IS NULL THEN h.to_state <> 'pending'
            WHEN h.from_state = h.to_state THEN h.step_id IS NULL OR h.from_state NOT IN ('pending', 'error')
                OR jsonb_typeof(h.metadata -> 'backoff_seconds') IS DISTINCT FROM 'number'
            WHEN h.step_id IS NULL THEN (h.from_state, h.to_state) NOT IN (
                ('pending', 'in_progress'), ('pending', 'complete'), ('pending', 'error'), ('pending', 'cancelled'),
                ('pending', 'resolved_manually'), ('in_progress', 'complete'), ('in_progress', 'error'),
                ('in_progress', 'cancelled'), ('in_progress', 'resolved_manually'), ('error', 'pending'),
                ('error', 'in_progress'), ('error', 'cancelled'), ('error', 'resolved_manually'))
            ELSE (h.from_state, h.to_state) NOT IN (
                ('pending', 'in_progress'), ('pending', 'error'), ('pending', 'cancelled'),
                ('pending', 'resolved_manually'), ('pending', 'skipped'), ('in_progress', 'pending'),
                ('in_progress', 'complete'), ('in_progress', 'error'), ('in_progress', 'cancelled'),
                ('in_progress', 'resolved_manually'), ('error', 'pending'), ('error', 'in_progress'),
                ('error', 'cancelled'), ('error', 'resolved_manually'))
        END
    UNION ALL
    SELECT 'history', r.task_id, r.step_id,
           format('the state is %s, the history ends at %s', r.state, coalesce(r.past_state, 'nothing'))
    FROM (
        SELECT s.task_id, s.step_id, s.state, coalesce(s.past_state, 'pending') FROM step AS s
        WHERE s.state IS NOT NULL
        UNION ALL
        SELECT t.task_id, NULL, t.state, t.past_state FROM task AS t
    ) AS r (task_id, step_id, state, past_state)
    WHERE r.state IS DISTINCT FROM r.past_state

    -- 10. A step is completed at most once; results belong to a step that is complete, or was resolved with them.
    UNION ALL
    SELECT 'results', s.task_id, s.step_id,
           CASE WHEN s.completions > 1 THEN format('completed %s times', s.completions)
               ELSE format('%s with results', s.state) END
    FROM step AS s
    WHERE s.completions > 1 OR (s.has_results AND s.state NOT IN ('complete', 'resolved_manually'))

    -- 11. A task has the steps of its template, all of them and no others, in their queues and with their priorities.
    UNION ALL
    SELECT 'template', coalesce(s.task_id, e.task_id), coalesce(s.step_id, e.step_id),
           CASE
               WHEN s.step_id IS NULL THEN 'the step is missing'
               WHEN e.step_id IS NULL THEN 'the template has no such step'
               WHEN s.template_id <> e.template_id
                   THEN format('template %s, the task has %s', s.template_id, e.template_id)
               ELSE format('queue %s and priority %s, template and task say %s and %s', s.queue_id, s.priority,
                   e.queue_id, e.priority)
           END
    FROM (
        SELECT t.task_id, t.template_id, x.step_id, x.queue_id, x.priority + t.priority AS priority
        FROM stepwise.tasks AS t JOIN stepwise.template_steps AS x ON x.template_id = t.template_id
        WHERE t.task_id BETWEEN first_task AND last_task
    ) AS e
    FULL JOIN (SELECT x.* FROM step AS x WHERE x.state IS NOT NULL AND x.task_state IS NOT NULL) AS s
        ON s.task_id = e.task_id AND s.step_id = e.step_id
    WHERE (s.template_id, s.queue_id, s.priority) IS DISTINCT FROM (e.template_id, e.queue_id, e.priority)

    -- 12. Limits hold: a place is held by a step that is in progress, by as many as there may be, and every step that is
    -- under a limit of its task or key holds one.
    UNION ALL
    SELECT 'limits', b.task_id, b.step_id, format('place %s of %s %s is held by a step that is %s',
        b.number, b.kind, coalesce(nullif(b.key, ''), b.owner_id::text), coalesce(s.state, 'not there'))
    FROM stepwise.slots AS b
    LEFT JOIN stepwise.steps AS s ON s.task_id = b.task_id AND s.step_id = b.step_id
    WHERE b.task_id BETWEEN first_task AND last_task AND s.state IS DISTINCT FROM 'in_progress'
    UNION ALL
    SELECT 'limits', s.task_id, s.step_id, format('in progress without a place under the limit of its %s', o.kind)
    FROM step AS s
    JOIN stepwise.tasks AS t ON t.task_id = s.task_id
    JOIN stepwise.templates AS x ON x.template_id = t.template_id
    JOIN stepwise.template_steps AS e ON e.template_id = t.template_id AND e.step_id = s.step_id AND e.kind = 'work'
    JOIN stepwise.queues AS q ON q.queue_id = s.queue_id
    CROSS JOIN LATERAL (VALUES
        ('queue', CASE WHEN q.max_in_flight > 0 THEN q.queue_id END, ''),
        ('task', CASE WHEN x.max_parallel_steps > 0 THEN t.task_id END, ''),
        ('key', CASE WHEN x.max_per_key > 0 THEN 0 END, t.concurrency_key)
    ) AS o (kind, owner_id, key)
    WHERE s.state = 'in_progress' AND o.owner_id IS NOT NULL AND o.key IS NOT NULL
        AND NOT EXISTS (SELECT FROM stepwise.slots AS b WHERE b.kind = o.kind AND b.owner_id = o.owner_id
            AND b.key = o.key AND b.task_id = s.task_id AND b.step_id = s.step_id)

    -- What foreign keys would say.
    UNION ALL
    SELECT 'references', r.task_id, r.step_id, r.detail
    FROM (
        SELECT s.task_id, s.step_id,
               CASE
                   WHEN s.state IS NOT NULL THEN 'step without a task'
                   WHEN s.task_state IS NULL THEN 'history without a task'
                   ELSE 'history without a step'
               END
        FROM step AS s
        WHERE s.state IS NULL OR s.task_state IS NULL
        UNION ALL
        SELECT h.task_id, NULL, 'history without a task' FROM past AS h
        WHERE h.step_id IS NULL AND NOT EXISTS (SELECT FROM task AS t WHERE t.task_id = h.task_id)
        UNION ALL
        SELECT s.task_id, s.step_id, format('no queue %s', s.queue_id) FROM step AS s
        WHERE NOT EXISTS (SELECT FROM stepwise.queues AS q WHERE q.queue_id = s.queue_id) AND s.state IS NOT NULL
        UNION ALL
        SELECT t.task_id, NULL, format('no template %s', t.template_id) FROM task AS t
        WHERE NOT EXISTS (SELECT FROM stepwise.templates AS x WHERE x.template_id = t.template_id)
        UNION ALL
        SELECT t.task_id, NULL, format('no namespace %s', x.namespace_id)
        FROM task AS t JOIN stepwise.templates AS x ON x.template_id = t.template_id
        WHERE NOT EXISTS (SELECT FROM stepwise.namespaces AS n WHERE n.namespace_id = x.namespace_id)
    ) AS r (task_id, step_id, detail)

    -- The rows say what the history amounts to.
    UNION ALL
    SELECT 'rebuild', task_id, nullif(subject, 0),
           format('the row says %s, the history %s',
               ROW(r.state, r.attempts, r.last_attempted_at, r.last_failure_at, r.started_at, r.finished_at),
               ROW(h.state, h.attempts, h.last_attempted_at, h.last_failure_at, h.started_at, h.finished_at))
    FROM (
        SELECT s.task_id, s.step_id, s.state, s.attempts, s.last_attempted_at, s.last_failure_at,
               NULL::timestamptz, s.finished_at FROM step AS s
        UNION ALL
        SELECT t.task_id, 0, t.state, NULL, NULL, NULL, t.started_at, t.finished_at FROM task AS t
    ) AS r (task_id, subject, state, attempts, last_attempted_at, last_failure_at, started_at, finished_at)
    FULL JOIN (
        SELECT x.*, coalesce(x.step_id, 0) AS subject, true AS known
        FROM stepwise.rebuild_states(first_task, last_task) AS x
    ) AS h USING (task_id, subject)
    -- Where one side is missing, others have reported it.
    WHERE coalesce(r.state, '') <> '' AND coalesce(h.known, false)
        AND (r.state, r.attempts, r.last_attempted_at, r.last_failure_at, r.started_at, r.finished_at)
            IS DISTINCT FROM (h.state, h.attempts, h.last_attempted_at, h.last_failure_at, h.started_at, h.finished_at)

    -- Two ways to the readiness of a step have one answer. They read the clock one after the other: what depends on the
    -- time is compared unless a time of the step lies between the start of this check and now.
    UNION ALL
    SELECT 'readiness', coalesce(n.task_id, d.task_id), coalesce(n.step_id, d.step_id),
           format('native says %s, the history %s',
               CASE WHEN n.step_id IS NULL THEN 'nothing' ELSE n::text END,
               CASE WHEN d.step_id IS NULL THEN 'nothing' ELSE d::text END)
    FROM (
        SELECT r.*
        FROM (
            -- In parts, so that no answer has to hold all steps at once. A task without a template has none.
            SELECT array_agg(t.task_id) AS task_ids FROM task AS t
            WHERE EXISTS (SELECT FROM stepwise.templates AS x WHERE x.template_id = t.template_id)
            GROUP BY t.task_id / 100
        ) AS part
        CROSS JOIN LATERAL stepwise.get_step_readiness_status_batch(part.task_ids) AS r
    ) AS n
    FULL JOIN stepwise.derive_readiness(first_task, last_task) AS d ON d.task_id = n.task_id AND d.step_id = n.step_id
    WHERE (n.step_id, n.name, n.current_state, n.dependencies_satisfied, n.last_failure_at, n.next_retry_at,
           n.total_parents, n.completed_parents, n.attempts, n.retry_limit, n.backoff_request_seconds,
           n.last_attempted_at, n.processed, n.in_process)
        IS DISTINCT FROM
          (d.step_id, d.name, d.current_state, d.dependencies_satisfied, d.last_failure_at, d.next_retry_at,
           d.total_parents, d.completed_parents, d.attempts, d.retry_limit, d.backoff_request_seconds,
           d.last_attempted_at, d.processed, d.in_process)
        OR ((n.retry_eligible, n.ready_for_execution) IS DISTINCT FROM (d.retry_eligible, d.ready_for_execution)
            AND (d.next_retry_at BETWEEN started AND stepwise.now_sql()) IS NOT TRUE
            AND ((SELECT s.visible_at FROM stepwise.steps AS s WHERE s.task_id = n.task_id AND s.step_id = n.step_id)
                BETWEEN started AND stepwise.now_sql()) IS NOT TRUE)
    ORDER BY 2, 3 NULLS FIRST, 1, 4;
END
$function$;

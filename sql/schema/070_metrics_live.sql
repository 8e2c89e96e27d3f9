-- What happens now: views over the steps that can still move and the tasks that they belong to. Nothing here looks at
-- what has ended: a live step is in steps_queue_idx, an open task has one, and a task that wants an operator is in
-- tasks_failed_idx. So none of it grows with the history. LATERAL with OFFSET 0 is one look-up by key for each row
-- before it, whatever the planner believes about the number of rows.

-- Tasks that want an operator. These columns change when a step fails for good or a task runs out of time, never on the
-- way of a task that goes well, whose updates stay HOT.
CREATE INDEX tasks_failed_idx ON stepwise.tasks (task_id) WHERE failed_steps > 0 OR timed_out;

CREATE VIEW stepwise.live_steps WITH (security_invoker = true) AS
SELECT s.task_id, s.step_id, n.name AS namespace, t.name AS template, t.version, e.name AS step, q.name AS queue,
       CASE
           WHEN s.state = 'in_progress' AND s.visible_at > c.now THEN 'in_flight'
           WHEN s.state = 'in_progress' THEN 'lease_expired'
           WHEN e.kind = 'wait' THEN 'waits_for_signal'
           WHEN s.attempts >= e.retry_limit THEN 'never_by_worker'
           WHEN s.state = 'error' AND s.visible_at <= c.now THEN 'retry_due'
           WHEN s.state = 'error' THEN 'backoff'
           WHEN s.visible_at <= c.now THEN 'ready'
           ELSE 'delayed'
       END AS condition,
       s.state, s.priority, s.attempts, e.retry_limit, CASE WHEN s.state = 'in_progress' THEN s.worker END AS worker,
       s.visible_at, s.last_attempted_at, s.last_failure_at,
       CASE
           WHEN s.state = 'in_progress' THEN c.now - s.last_attempted_at
           -- A pause that was asked for counts from the attempt, so it may have been over before the failure.
           WHEN s.state = 'error' AND s.visible_at < s.last_failure_at
               AND (s.backoff_request_seconds > 0 OR s.visible_at = s.last_attempted_at)
               AND isfinite(s.last_failure_at) THEN c.now - s.last_failure_at
           WHEN isfinite(s.visible_at) THEN c.now - s.visible_at
       END AS age
FROM stepwise.steps AS s
-- One reading of the clock for all rows.
CROSS JOIN (SELECT stepwise.now_sql() AS now) AS c
JOIN stepwise.template_steps AS e ON e.template_id = s.template_id AND e.step_id = s.step_id
JOIN stepwise.templates AS t ON t.template_id = s.template_id
JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
JOIN stepwise.queues AS q ON q.queue_id = s.queue_id
WHERE s.visible_at IS NOT NULL;

CREATE VIEW stepwise.open_tasks WITH (security_invoker = true) AS
SELECT k.task_id, n.name AS namespace, t.name AS template, t.version, k.state, k.priority, k.created_at, k.started_at,
       k.deadline, k.total_steps, k.live_steps, k.completed_steps, k.failed_steps, k.cancelled_steps,
       k.total_steps - k.completed_steps - k.cancelled_steps - k.failed_steps - k.live_steps AS waiting_steps
FROM (SELECT DISTINCT s.task_id FROM stepwise.steps AS s WHERE s.visible_at IS NOT NULL) AS l
CROSS JOIN LATERAL (SELECT x.* FROM stepwise.tasks AS x WHERE x.task_id = l.task_id OFFSET 0) AS k
JOIN stepwise.templates AS t ON t.template_id = k.template_id
JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id;

-- A query that does not name "waiting" does not look for it: the planner drops that join.
CREATE VIEW stepwise.queue_depths WITH (security_invoker = true) AS
SELECT q.name AS queue, q.paused, q.max_in_flight,
       coalesce(l.ready, 0) AS ready,
       coalesce(l.retries_due, 0) AS retries_due,
       coalesce(l.delayed, 0) AS delayed,
       coalesce(l.in_backoff, 0) AS in_backoff,
       coalesce(w.waiting, 0) AS waiting,
       coalesce(l.waiting_for_signal, 0) AS waiting_for_signal,
       coalesce(l.for_operator, 0) AS for_operator,
       coalesce(l.in_flight, 0) AS in_flight,
       coalesce(l.expired_leases, 0) AS expired_leases,
       l.oldest_ready_age, l.longest_in_flight
FROM stepwise.queues AS q
LEFT JOIN (
    SELECT s.queue,
           count(*) FILTER (WHERE s.condition IN ('ready', 'retry_due')) AS ready,
           count(*) FILTER (WHERE s.condition = 'retry_due') AS retries_due,
           count(*) FILTER (WHERE s.condition = 'delayed') AS delayed,
           count(*) FILTER (WHERE s.condition = 'backoff') AS in_backoff,
           count(*) FILTER (WHERE s.condition = 'waits_for_signal') AS waiting_for_signal,
           count(*) FILTER (WHERE s.condition = 'never_by_worker') AS for_operator,
           count(*) FILTER (WHERE s.condition = 'in_flight') AS in_flight,
           count(*) FILTER (WHERE s.condition = 'lease_expired') AS expired_leases,
           max(s.age) FILTER (WHERE s.condition IN ('ready', 'retry_due')) AS oldest_ready_age,
           max(s.age) FILTER (WHERE s.condition = 'in_flight') AS longest_in_flight
    FROM stepwise.live_steps AS s GROUP BY s.queue
) AS l ON l.queue = q.name
LEFT JOIN (
    SELECT s.queue_id, count(*) AS waiting
    FROM (SELECT DISTINCT x.task_id FROM stepwise.steps AS x WHERE x.visible_at IS NOT NULL) AS o
    CROSS JOIN LATERAL (
        SELECT x.queue_id FROM stepwise.steps AS x
        WHERE x.task_id = o.task_id AND x.visible_at IS NULL AND x.remaining_parents > 0
            AND x.state IN ('pending', 'error')
        OFFSET 0
    ) AS s
    GROUP BY s.queue_id
) AS w ON w.queue_id = q.queue_id;

-- What only an operator can move on: steps that have failed for good, of tasks that can be taken back to work.
CREATE VIEW stepwise.failed_steps WITH (security_invoker = true) AS
SELECT k.task_id, s.step_id, n.name AS namespace, t.name AS template, t.version, e.name AS step, q.name AS queue,
       k.state AS task_state, s.attempts, e.retry_limit, s.worker, s.last_failure_at, s.error
FROM stepwise.tasks AS k
CROSS JOIN LATERAL (
    SELECT x.step_id, x.queue_id, x.attempts, x.worker, x.last_failure_at, x.error FROM stepwise.steps AS x
    WHERE x.task_id = k.task_id AND x.state = 'error' AND x.visible_at IS NULL AND x.remaining_parents = 0
    OFFSET 0
) AS s
JOIN stepwise.template_steps AS e ON e.template_id = k.template_id AND e.step_id = s.step_id
JOIN stepwise.templates AS t ON t.template_id = k.template_id
JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
JOIN stepwise.queues AS q ON q.queue_id = s.queue_id
WHERE k.failed_steps > 0 AND k.state IN ('pending', 'in_progress', 'error');

-- A task whose time was over has no failed step: what was open of it is cancelled.
CREATE VIEW stepwise.failed_tasks WITH (security_invoker = true) AS
SELECT k.task_id, n.name AS namespace, t.name AS template, t.version, k.timed_out, k.total_steps, k.completed_steps,
       k.failed_steps, k.cancelled_steps, k.created_at, k.finished_at
FROM stepwise.tasks AS k
JOIN stepwise.templates AS t ON t.template_id = k.template_id
JOIN stepwise.namespaces AS n ON n.namespace_id = t.namespace_id
WHERE (k.failed_steps > 0 OR k.timed_out) AND k.state = 'error';

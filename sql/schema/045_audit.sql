-- The history, read: as a list, and folded into the states that it amounts to. Bodies between BEGIN ATOMIC and END are
-- bound to their tables and operators when they are created, so no search_path reaches them, and the planner can merge
-- them into the query that calls them.

CREATE FUNCTION stepwise.task_history(task_id bigint)
RETURNS TABLE (event_id bigint, at timestamptz, step_id integer, subject text, from_state text, to_state text,
    attempt integer, worker text, actor text, metadata jsonb)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- Shown as it is, also where the rows it speaks of are damaged.
    SELECT h.event_id, h.at, h.step_id,
           CASE WHEN h.step_id IS NULL THEN 'task' ELSE (
               SELECT e.name FROM stepwise.template_steps AS e
               WHERE e.template_id = t.template_id AND e.step_id = h.step_id) END,
           h.from_state, h.to_state, h.attempt, h.worker, h.actor, h.metadata
    FROM stepwise.transitions AS h
    LEFT JOIN stepwise.tasks AS t ON t.task_id = h.task_id
    WHERE h.task_id = task_history.task_id
    ORDER BY h.event_id;
END;

-- One row per task (step_id NULL) and step that has a history, for a range of tasks: the range reaches the index
-- wherever this is merged into another query. An event's place is its event_id, never its time: a clock may go back.
CREATE FUNCTION stepwise.fold_history(first_task bigint, last_task bigint)
RETURNS TABLE (task_id bigint, step_id integer, state text, changed_at timestamptz, attempts integer,
    started_at timestamptz, last_attempted_at timestamptz, last_failure_at timestamptz, retryable boolean,
    backoff_seconds integer, first_claim bigint, settled bigint, completions integer, reported boolean)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT h.task_id, h.step_id,
           min(h.to_state) FILTER (WHERE h.event_id = h.last_event),
           min(h.at) FILTER (WHERE h.event_id = h.last_event),
           (count(*) FILTER (WHERE h.to_state = 'in_progress' AND h.event_id > h.last_reset)
               - count(*) FILTER (WHERE h.from_state = 'in_progress' AND h.to_state = 'pending'
                                      AND h.event_id > h.last_reset))::integer,
           min(h.at) FILTER (WHERE h.event_id = h.first_claim),
           min(h.at) FILTER (WHERE h.event_id = h.last_claim),
           min(h.at) FILTER (WHERE h.event_id = h.last_failure),
           -- What the failure said holds until the step may be tried again.
           bool_and((h.metadata -> 'retryable')::boolean) FILTER (
               WHERE h.event_id = h.last_failure AND h.last_failure > h.last_opened
                   AND jsonb_typeof(h.metadata -> 'retryable') = 'boolean'),
           -- A row that leaves the state as it is says that an operator has set the backoff.
           min(CASE
                   WHEN jsonb_typeof(h.metadata -> 'backoff_seconds') = 'number'
                       THEN (h.metadata -> 'backoff_seconds')::integer
                   WHEN h.metadata ->> 'reason' = 'lease_expired' AND h.from_state <> h.to_state THEN 0
               END) FILTER (WHERE h.event_id = h.last_event AND (h.to_state = 'error' OR h.from_state = h.to_state)),
           min(h.first_claim),
           min(h.event_id) FILTER (WHERE h.to_state IN ('complete', 'resolved_manually', 'skipped')),
           count(*) FILTER (WHERE h.to_state = 'complete' AND h.from_state IS DISTINCT FROM 'complete')::integer,
           -- The step's worker ended its last attempt, not its lease and not an operator.
           coalesce(bool_or(h.from_state = 'in_progress' AND h.metadata ->> 'reason' IS DISTINCT FROM 'lease_expired')
               FILTER (WHERE h.event_id = h.last_failure), false)
    FROM (
        SELECT r.task_id, r.step_id, r.event_id, r.at, r.from_state, r.to_state, r.metadata,
               max(r.event_id) OVER subject AS last_event,
               min(r.event_id) FILTER (WHERE r.to_state = 'in_progress') OVER subject AS first_claim,
               max(r.event_id) FILTER (WHERE r.to_state = 'in_progress') OVER subject AS last_claim,
               max(r.event_id) FILTER (WHERE r.to_state = 'error' AND r.from_state <> 'error') OVER subject
                   AS last_failure,
               coalesce(max(r.event_id) FILTER (WHERE r.from_state = 'error' AND r.to_state = 'pending') OVER subject,
                   -1) AS last_reset,
               coalesce(max(r.event_id) FILTER (WHERE r.to_state IN ('pending', 'in_progress')
                   AND r.from_state <> r.to_state) OVER subject, -1) AS last_opened
        FROM stepwise.transitions AS r
        WHERE r.task_id BETWEEN first_task AND last_task
        WINDOW subject AS (PARTITION BY r.task_id, r.step_id)
    ) AS h
    GROUP BY h.task_id, h.step_id;
END;

-- What the rows of tasks and steps must say, from the history and the template. Of a task's row only its template is
-- asked, which never changes. FULL JOIN here and in what follows: it cannot be run as a nested loop, whose time grows
-- with the square of a task's steps when the planner takes a large task for one of the usual size.
CREATE FUNCTION stepwise.rebuild_states(first_task bigint, last_task bigint)
RETURNS TABLE (task_id bigint, step_id integer, state text, attempts integer, last_attempted_at timestamptz,
    last_failure_at timestamptz, started_at timestamptz, finished_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT task_id, nullif(subject, 0),
           CASE WHEN subject = 0 THEN h.state ELSE coalesce(h.state, 'pending') END,
           CASE WHEN subject > 0 THEN coalesce(h.attempts, 0) END,
           CASE WHEN subject > 0 THEN h.last_attempted_at END,
           CASE WHEN subject > 0 THEN h.last_failure_at END,
           CASE WHEN subject = 0 THEN h.started_at END,
           -- A task in error has ended, a step in error has not.
           CASE WHEN h.state IN ('complete', 'cancelled', 'resolved_manually', 'skipped')
                    OR (subject = 0 AND h.state = 'error') THEN h.changed_at END
    FROM (
        SELECT t.task_id, e.subject, true
        FROM stepwise.tasks AS t
        CROSS JOIN LATERAL (
            SELECT s.step_id FROM stepwise.template_steps AS s WHERE s.template_id = t.template_id
            UNION ALL
            SELECT 0
        ) AS e (subject)
        WHERE t.task_id BETWEEN first_task AND last_task
    ) AS k (task_id, subject, known)
    FULL JOIN (
        SELECT f.task_id, coalesce(f.step_id, 0), f.state, f.changed_at, f.attempts, f.started_at, f.last_attempted_at,
               f.last_failure_at
        FROM stepwise.fold_history(first_task, last_task) AS f
    ) AS h (task_id, subject, state, changed_at, attempts, started_at, last_attempted_at, last_failure_at)
        USING (task_id, subject)
    WHERE coalesce(k.known, false);
END;

CREATE FUNCTION stepwise.rebuild_task_state(task_id bigint)
RETURNS TABLE (step_id integer, state text, attempts integer, last_attempted_at timestamptz,
    last_failure_at timestamptz, started_at timestamptz, finished_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT r.step_id, r.state, r.attempts, r.last_attempted_at, r.last_failure_at, r.started_at, r.finished_at
    FROM stepwise.rebuild_states(rebuild_task_state.task_id, rebuild_task_state.task_id) AS r
    WHERE r.task_id = rebuild_task_state.task_id
    ORDER BY r.step_id NULLS FIRST;
END;

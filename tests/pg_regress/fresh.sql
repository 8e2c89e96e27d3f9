-- What every test begins with: a new extension, so that ids start at 1 and no test depends on another, and helpers.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS test CASCADE;
DROP SCHEMA IF EXISTS app CASCADE;
DROP EXTENSION IF EXISTS pg_stepwise CASCADE;
CREATE EXTENSION pg_stepwise;
CREATE SCHEMA test;

-- Runs a statement that must fail, in a subtransaction; shows all that the client would see of the error.
CREATE FUNCTION test.refused(statement text, OUT code text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'NOT REFUSED';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT;
END
$$;

-- Receipts are random: claims keep them here, by the name of the step; the latest counts.
CREATE TABLE test.held (
    claim integer GENERATED ALWAYS AS IDENTITY, task_id bigint, step_name text, attempt integer, receipt uuid);

CREATE FUNCTION test.claim(queues text[] DEFAULT NULL, max_steps integer DEFAULT 1, lease interval DEFAULT NULL,
    worker text DEFAULT 'w1') RETURNS TABLE (task_id bigint, step_name text, attempt integer, dependencies jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    claimed record;
BEGIN
    FOR claimed IN SELECT * FROM stepwise.claim_steps(worker, queues, max_steps, lease) LOOP
        INSERT INTO test.held (task_id, step_name, attempt, receipt)
        VALUES (claimed.task_id, claimed.step_name, claimed.attempt, claimed.receipt);
        RETURN QUERY SELECT claimed.task_id, claimed.step_name, claimed.attempt, claimed.dependencies;
    END LOOP;
END
$$;

-- A worker that completes what it claims.
CREATE FUNCTION test.work(max_steps integer DEFAULT 1, queues text[] DEFAULT NULL)
RETURNS TABLE (task_id bigint, step_name text) LANGUAGE plpgsql AS $$
DECLARE
    claimed record;
BEGIN
    FOR claimed IN SELECT * FROM stepwise.claim_steps('w1', queues, max_steps) LOOP
        PERFORM stepwise.complete_step(claimed.receipt, '{}');
        RETURN QUERY SELECT claimed.task_id, claimed.step_name;
    END LOOP;
END
$$;

CREATE FUNCTION test.receipt(step text, task bigint DEFAULT NULL) RETURNS uuid
LANGUAGE sql STABLE AS $$
    SELECT h.receipt FROM test.held h WHERE h.step_name = step AND (task IS NULL OR h.task_id = task)
    ORDER BY h.claim DESC LIMIT 1
$$;

-- Steps and tasks without what differs from run to run.
CREATE VIEW test.steps AS
SELECT s.task_id, t.name, s.state, s.attempts AS att, s.remaining_parents AS waits,
       CASE WHEN s.visible_at IS NULL THEN '-' WHEN s.visible_at = 'infinity' THEN 'never'
            WHEN s.visible_at <= stepwise.now() THEN 'now' ELSE 'later' END AS visible,
       s.claim_token IS NOT NULL AS token, s.finished_at IS NOT NULL AS fin, s.worker, s.results, s.error
FROM stepwise.steps s JOIN stepwise.template_steps t USING (template_id, step_id)
ORDER BY s.task_id, s.step_id;

CREATE VIEW test.tasks AS
SELECT task_id, state, total_steps AS total, live_steps AS live, completed_steps AS completed, failed_steps AS failed,
       cancelled_steps AS cancelled, started_at IS NOT NULL AS started, finished_at IS NOT NULL AS fin
FROM stepwise.tasks ORDER BY task_id;

CREATE VIEW test.history AS
SELECT r.task_id, coalesce(t.name, '(task)') AS subject, r.from_state, r.to_state, r.attempt AS att, r.worker, r.actor,
       r.metadata
FROM stepwise.transitions r
JOIN stepwise.tasks k USING (task_id)
LEFT JOIN stepwise.template_steps t ON t.template_id = k.template_id AND t.step_id = r.step_id
ORDER BY r.event_id;

-- A template of one namespace and queue from edges such as 'a > b, a > c'.
CREATE FUNCTION test.template(name text, edges text, extra jsonb DEFAULT '{}') RETURNS bigint
LANGUAGE sql AS $$
    WITH edge AS (
        SELECT ordinality, trim(split_part(e, '>', 1)) AS parent, nullif(trim(split_part(e, '>', 2)), '') AS child
        FROM string_to_table(edges, ',') WITH ORDINALITY AS e
    ), step AS (
        SELECT n, min(ordinality * 2 + place) AS at,
               jsonb_agg(edge.parent) FILTER (WHERE place = 1) AS parents
        FROM edge, LATERAL (VALUES (0, parent), (1, child)) AS v (place, n)
        WHERE n IS NOT NULL GROUP BY n
    )
    SELECT stepwise.register_template(jsonb_build_object('namespace', 'n', 'name', template.name, 'steps',
        jsonb_agg(jsonb_build_object('name', n, 'depends_on', coalesce(parents, '[]')) ORDER BY at)) || extra)
    FROM step
$$;
ALTER FUNCTION test.template(text, text, jsonb) SET search_path = pg_catalog, test;
RESET client_min_messages;

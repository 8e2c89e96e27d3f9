-- The state machine by plain UPDATE: every pair of states of a step and of a task.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all

-- Every pair of states of a step. To reach the first state without the rules, the triggers are off for a moment.
SELECT test.template('one', 'a');
CREATE FUNCTION test.step_pair(from_state text, to_state text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    task bigint := stepwise.create_task('one');
    code text; said text;
BEGIN
    SET LOCAL session_replication_role = replica;
    UPDATE stepwise.steps SET state = from_state, attempts = 1,
        visible_at = CASE WHEN from_state IN ('pending', 'error') THEN stepwise.now()
                          WHEN from_state = 'in_progress' THEN stepwise.now() + interval '1 h' END,
        claim_token = CASE WHEN from_state = 'in_progress' THEN 1 END
    WHERE task_id = task;
    UPDATE stepwise.tasks SET live_steps = (from_state IN ('pending', 'error', 'in_progress'))::integer,
        completed_steps = (from_state IN ('complete', 'resolved_manually', 'skipped'))::integer,
        cancelled_steps = (from_state = 'cancelled')::integer
    WHERE task_id = task;
    SET LOCAL session_replication_role = origin;
    BEGIN
        UPDATE stepwise.steps SET state = to_state WHERE task_id = task;
        RETURN 'ok';
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, said = MESSAGE_TEXT;
        RETURN CASE WHEN said = format('step cannot go from %s to %s', from_state, to_state) THEN code ELSE code || ' ' || said END;
    END;
END
$$;
CREATE TABLE test.state (n serial, name text);
INSERT INTO test.state (name) VALUES ('pending'), ('in_progress'), ('complete'), ('error'), ('cancelled'),
    ('resolved_manually'), ('skipped');
CREATE TABLE test.pairs AS
SELECT f.n, f.name AS from_state, t.name AS to_state, test.step_pair(f.name, t.name) AS said
FROM test.state f, test.state t;
SELECT from_state,
       max(said) FILTER (WHERE to_state = 'pending') AS pending, max(said) FILTER (WHERE to_state = 'in_progress') AS in_progress,
       max(said) FILTER (WHERE to_state = 'complete') AS complete, max(said) FILTER (WHERE to_state = 'error') AS error,
       max(said) FILTER (WHERE to_state = 'cancelled') AS cancelled,
       max(said) FILTER (WHERE to_state = 'resolved_manually') AS resolved_manually,
       max(said) FILTER (WHERE to_state = 'skipped') AS skipped
FROM test.pairs GROUP BY from_state, n ORDER BY n;
SELECT code, message FROM test.refused($$UPDATE stepwise.steps SET state = 'done' WHERE task_id = 1$$);
-- The same state again changes and logs nothing.
SELECT count(*) AS rows_before FROM stepwise.transitions \gset
UPDATE stepwise.steps SET state = state;
SELECT count(*) - :rows_before AS more FROM stepwise.transitions;

-- Every pair of states of a task, with counters that allow the outcome where there is one.
CREATE FUNCTION test.task_pair(from_state text, to_state text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    task bigint := stepwise.create_task('one');
    code text; said text; now_state text;
BEGIN
    SET LOCAL session_replication_role = replica;
    UPDATE stepwise.tasks SET state = from_state,
        live_steps = (from_state IN ('pending', 'in_progress'))::integer,
        failed_steps = (from_state = 'error')::integer, completed_steps = (from_state = 'complete')::integer,
        cancelled_steps = (from_state = 'cancelled')::integer,
        finished_at = CASE WHEN from_state NOT IN ('pending', 'in_progress') THEN stepwise.now() END
    WHERE task_id = task;
    UPDATE stepwise.steps SET attempts = 3, visible_at = CASE WHEN from_state IN ('pending', 'in_progress') THEN visible_at END,
        state = CASE from_state WHEN 'in_progress' THEN 'pending' ELSE from_state END
    WHERE task_id = task;
    SET LOCAL session_replication_role = origin;
    BEGIN
        UPDATE stepwise.tasks SET state = to_state WHERE task_id = task RETURNING state INTO now_state;
        RETURN CASE WHEN now_state = to_state THEN 'ok' ELSE 'ok, ' || now_state END;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, said = MESSAGE_TEXT;
        RETURN code || replace(replace(said, format('task cannot go from %s to %s', from_state, to_state), ''), ': ', ' ');
    END;
END
$$;
CREATE TABLE test.task_pairs AS
SELECT f.n, f.name AS from_state, t.name AS to_state, test.task_pair(f.name, t.name) AS said
FROM test.state f, test.state t WHERE 'skipped' NOT IN (f.name, t.name);
SELECT from_state,
       max(said) FILTER (WHERE to_state = 'pending') AS pending, max(said) FILTER (WHERE to_state = 'in_progress') AS in_progress,
       max(said) FILTER (WHERE to_state = 'complete') AS complete, max(said) FILTER (WHERE to_state = 'error') AS error,
       max(said) FILTER (WHERE to_state = 'cancelled') AS cancelled,
       max(said) FILTER (WHERE to_state = 'resolved_manually') AS resolved_manually
FROM test.task_pairs GROUP BY from_state, n ORDER BY n;

-- simulate_template: a dry run, and that a real run goes the same way.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all
SELECT * FROM stepwise.simulate_template('{"name": "t", "steps": [{"name": "a"}, {"name": "b", "depends_on": "a", "delay": "1h"}]}', '{"a": 1}');
SELECT subject, to_state, after FROM stepwise.simulate_template('{"name": "t", "timeout": "1d", "steps": [
    {"name": "ask"}, {"name": "approve", "kind": "wait", "timeout": "2h", "depends_on": "ask"},
    {"name": "ship", "depends_on": "approve"}]}', '{"approve": "error"}');
SELECT * FROM test.refused($$SELECT stepwise.simulate_template('{"name": "t", "steps": []}')$$);
SELECT * FROM test.refused($$SELECT stepwise.simulate_template('{"name": "t", "steps": [{"name": "a"}]}', '{"b": 1}')$$);
SELECT * FROM test.refused($$SELECT stepwise.simulate_template('{"name": "t", "steps": [{"name": "a"}]}', '{"a": "done"}')$$);
SELECT * FROM test.refused($$SELECT stepwise.simulate_template('{"name": "t", "steps": [{"name": "a"}]}', '[]')$$);
SELECT code, message FROM test.refused($$SELECT stepwise.simulate_template(NULL)$$);
SELECT count(*) FROM stepwise.templates;

-- A real task, whose worker claims one step at a time and passes the time by the clock, has the same history.
CREATE FUNCTION test.compare(definition jsonb, failures jsonb) RETURNS TABLE (simulated text, happened text)
LANGUAGE plpgsql AS $$
DECLARE
    template text := definition ->> 'name';
    task bigint;
    claimed record;
BEGIN
    PERFORM stepwise.register_template(definition);
    task := stepwise.create_task(template);
    PERFORM set_config('stepwise.testing', 'on', false);
    PERFORM stepwise.inject_failure(task, key, value::integer) FROM jsonb_each_text(failures);
    LOOP
        SELECT * INTO claimed FROM stepwise.claim_steps('w');
        IF FOUND THEN
            PERFORM stepwise.complete_step(claimed.receipt);
        ELSIF NOT EXISTS (SELECT FROM stepwise.steps WHERE task_id = task AND visible_at <= stepwise.now()) THEN
            EXIT WHEN NOT EXISTS (SELECT FROM stepwise.steps WHERE task_id = task AND visible_at IS NOT NULL);
            PERFORM stepwise.advance_clock(stepwise.next_visible_at() - stepwise.now() + '1 ms');
        END IF;
    END LOOP;
    PERFORM set_config('stepwise.testing', 'off', false);
    -- Of each subject; two subjects whose times are the same may come in either order.
    RETURN QUERY
    SELECT s.line, r.line
    FROM (SELECT subject, string_agg(concat(from_state, '>', to_state, ':', attempt), ' ' ORDER BY position) AS line
          FROM stepwise.simulate_template(definition, failures) GROUP BY subject) s
    FULL JOIN (SELECT subject, string_agg(concat(from_state, '>', to_state, ':', attempt), ' ' ORDER BY event_id) AS line
          FROM stepwise.task_history(task) GROUP BY subject) r USING (subject)
    WHERE s.line IS DISTINCT FROM r.line;
END
$$;
SELECT * FROM test.compare('{"name": "diamond", "steps": [{"name": "a"}, {"name": "b", "depends_on": "a"},
    {"name": "c", "depends_on": "a", "delay": "5s"}, {"name": "d", "depends_on": ["b", "c"]}]}', '{"b": 2, "d": 1}');
SELECT * FROM test.compare('{"name": "fails", "steps": [{"name": "a"}, {"name": "b"}, {"name": "c", "depends_on": ["a", "b"]}]}', '{"b": 3}');
SELECT * FROM test.compare('{"name": "given_up", "steps": [{"name": "a", "retryable": false}, {"name": "b", "priority": 5}]}', '{"a": 1}');

-- The shapes of shapes.csv in a database, each as a template and a task that has come some way, with the clock moved: a
-- state of every kind is among them. For psql as a superuser, with the extension and a schema test; set the variable
-- conformance to this folder.
CREATE TABLE test.shape (shape text PRIMARY KEY, edges text, levels text, failures text, claims_to_finish integer);
\setenv CONFORMANCE :conformance
\copy test.shape FROM PROGRAM 'cat "$CONFORMANCE/shapes.csv"' WITH (FORMAT csv, HEADER)

CREATE FUNCTION test.shape_steps(edges text) RETURNS jsonb LANGUAGE sql AS $$
    WITH mention AS (
        SELECT row_number() OVER (ORDER BY chain.n, link.n, word.n) AS at, chain.n AS chain, link.n AS link, word.text AS name
        FROM string_to_table(edges, ';') WITH ORDINALITY AS chain (text, n),
            string_to_table(chain.text, '>') WITH ORDINALITY AS link (text, n),
            string_to_table(trim(link.text), ' ') WITH ORDINALITY AS word (text, n)
    )
    SELECT jsonb_agg(jsonb_build_object('name', step.name, 'depends_on', (
            SELECT coalesce(jsonb_agg(DISTINCT parent.name), '[]') FROM mention AS child
            JOIN mention AS parent ON parent.chain = child.chain AND parent.link = child.link - 1 WHERE child.name = step.name)
        ) ORDER BY step.at)
    FROM (SELECT name, min(at) AS at FROM mention GROUP BY name) AS step
$$;

-- The clock: seconds after noon. It goes on from there, so what follows at once is almost exactly then.
CREATE FUNCTION test.clock(seconds numeric) RETURNS void LANGUAGE sql AS $$
    SELECT set_config('stepwise.clock_offset', round(extract(epoch FROM timestamptz '2026-01-01 12:00 UTC' - clock_timestamp()) + seconds, 6)
        || ' seconds', false)
$$;

-- So many rounds, each of claiming and reporting all that is ready in a queue: 15 seconds of waiting, 25 and more of
-- running. What is to fail according to failures, such as 'charge:1', fails so often. Seconds after noon at the end.
CREATE FUNCTION test.work(queue text, failures text, rounds integer, since numeric DEFAULT 0) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    clock numeric := since;
    step record;
BEGIN
    FOR round IN 1..rounds LOOP
        clock := clock + 15;
        PERFORM test.clock(clock);
        FOR step IN
            SELECT c.*, coalesce((SELECT split_part(f, ':', 2)::integer FROM string_to_table(failures, ' ') AS f WHERE split_part(f, ':', 1) = c.step_name), 0) AS fails
            FROM stepwise.claim_steps('worker-' || round % 3 + 1, ARRAY[queue], 100, '10 minutes') AS c
        LOOP
            clock := clock + 25 + step.step_id;
            PERFORM test.clock(clock);
            IF step.attempt <= step.fails THEN
                PERFORM stepwise.fail_step(step.receipt, '{"message": "connection refused"}');
            ELSE
                PERFORM stepwise.complete_step(step.receipt, '{}');
            END IF;
        END LOOP;
    END LOOP;
    RETURN clock;
END
$$;

-- How far each has come. The task's number is that of its shape in the file.
CREATE FUNCTION test.shape_task(shape text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    s test.shape := (SELECT s FROM test.shape AS s WHERE s.shape = shape_task.shape);
    clock numeric;
    task bigint;
    rounds integer := CASE shape WHEN 'linear' THEN 20 WHEN 'diamond' THEN 2 WHEN 'parallel_merge' THEN 1 WHEN 'tree' THEN 2
        WHEN 'mixed' THEN 3 WHEN 'two_roots' THEN 0 WHEN 'customer_analytics' THEN 2 ELSE 1 END;
BEGIN
    PERFORM test.clock(0);
    PERFORM stepwise.register_template(jsonb_build_object('namespace', 'shapes', 'name', shape, 'version', '1.0.0',
        'defaults', jsonb_build_object('queue', shape), 'steps', test.shape_steps(s.edges)));
    task := stepwise.create_task(shape);
    clock := test.work(shape, s.failures, rounds);
    PERFORM test.clock(clock + 5);
    CASE shape
        WHEN 'parallel_merge' THEN
            clock := test.work(shape, 'fetch_order_data:3 fetch_inventory_data:1', 4, clock);
        WHEN 'diamond', 'customer_analytics' THEN
            PERFORM stepwise.claim_steps('worker-1', ARRAY[shape], 1, '90 seconds');
            clock := clock + 40;
        WHEN 'tree' THEN
            PERFORM stepwise.cancel_step(task, 'branch_a_task_one', 'not needed');
        WHEN 'mixed' THEN
            PERFORM stepwise.resolve_step(task, 'begin_processing', '{}', 'done by hand', 'ann');
        WHEN 'order_transitive' THEN
            PERFORM stepwise.resolve_step(task, 'reserve_inventory', '{}', 'by phone', 'ann');
            PERFORM stepwise.set_backoff(task, 'process_payment', '10 minutes', 'the gateway is down', 'ann');
        WHEN 'skip_level' THEN
            UPDATE stepwise.steps SET state = 'skipped' WHERE task_id = task AND step_id = 2;
        ELSE NULL;
    END CASE;
    INSERT INTO test.reached VALUES (task, shape, clock + 10);
    RETURN task;
END
$$;
-- When each is to be looked at: seconds after noon.
CREATE TABLE test.reached (task_id bigint PRIMARY KEY, shape text, seconds numeric);
CREATE FUNCTION test.picture(task bigint, format text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM test.clock(seconds) FROM test.reached WHERE task_id = task;
    RETURN stepwise.render_task(task, format);
END
$$;
SELECT count(test.shape_task(s.shape)) AS shapes FROM (SELECT shape FROM test.shape ORDER BY array_position(
    '{linear,diamond,parallel_merge,tree,mixed,two_roots,customer_analytics,order_transitive,skip_level}', shape)) AS s;

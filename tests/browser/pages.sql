-- The pages that the browser looks at, as test.pages(name): the nine shapes, names that want to be code, wide and deep
-- graphs of 60 to 200 steps, and a template. For psql; the variable conformance is the folder tests/conformance.
SET client_min_messages = warning;
CREATE EXTENSION pg_stepwise;
CREATE SCHEMA test;
\i :conformance/shapes.sql

SELECT stepwise.register_template('{"namespace": "shapes", "name": "<script>evil(''template'')</script>", "defaults": {"queue": "evil", "retry_limit": 2}, "steps": [
    {"name": "<script>evil(''step'')</script>"},
    {"name": "\"]; evil", "depends_on": "<script>evil(''step'')</script>"},
    {"name": "<img src=x onerror=evil(1)>", "depends_on": "<script>evil(''step'')</script>"},
    {"name": "</title></svg><script>evil(2)</script>", "depends_on": ["\"]; evil", "<img src=x onerror=evil(1)>"]},
    {"name": "&lt;b&gt; &amp; \u0001\u001f\u007f\u202eabc\ufffe", "depends_on": "\"]; evil"},
    {"name": "a name that goes on and on and on and on and on and on and on and on and on", "depends_on": "\"]; evil"},
    {"name": "出荷準備を開始してから請求書を発行する処理の名前", "depends_on": "\"]; evil"},
    {"name": "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW", "depends_on": "\"]; evil"}]}') > 0 AS ok;
CREATE FUNCTION test.evil() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    task bigint;
    evil text := '</style></td><script>evil(3)</script>';
BEGIN
    PERFORM test.clock(0);
    task := stepwise.create_task('<script>evil(''template'')</script>');
    PERFORM test.clock(10);
    PERFORM stepwise.fail_step(receipt, jsonb_build_object('message', evil)) FROM stepwise.claim_steps(evil, '{evil}');
    PERFORM test.clock(20);
    PERFORM stepwise.complete_step(receipt) FROM stepwise.claim_steps(evil, '{evil}');
    PERFORM stepwise.cancel_step(task, 5, evil, evil);
    INSERT INTO test.reached VALUES (task, 'evil', 30);
END
$$;
SELECT test.evil();

-- Of so many steps on so many levels: each waits for one to three of the levels before.
CREATE FUNCTION test.graph(name text, steps integer, levels integer, rounds integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    task bigint;
    seconds numeric;
BEGIN
    PERFORM test.clock(0);
    PERFORM stepwise.register_template(jsonb_build_object('name', graph.name, 'defaults', jsonb_build_object('queue', graph.name), 'steps', (
        SELECT jsonb_agg(jsonb_build_object('name', 'step_' || n, 'depends_on', CASE WHEN n < per THEN '[]' ELSE (
            SELECT jsonb_agg(DISTINCT 'step_' || parent) FROM (VALUES (n - per), (n - per - 1 - n * 7 % 3),
                (CASE WHEN n % 9 = 0 THEN n - per * 2 - n % 5 END)) AS v (parent) WHERE parent BETWEEN 0 AND n - 1) END) ORDER BY n)
        FROM (VALUES (steps / levels)) AS width (per), generate_series(0, steps - 1) AS n)));
    task := stepwise.create_task(graph.name);
    seconds := test.work(graph.name, 'step_3:1 step_11:1', rounds);
    INSERT INTO test.reached VALUES (task, graph.name, seconds + 5);
END
$$;
SELECT test.graph('steps_60', 60, 10, 5), test.graph('wide_60', 60, 3, 1), test.graph('chain_60', 60, 60, 20), test.graph('steps_200', 200, 16, 6);

-- Rails side by side below one step, beyond any screen: that one is to be in sight.
SELECT stepwise.register_template(jsonb_build_object('name', 'rails_200', 'steps', '[{"name": "first"}]' || (
    SELECT jsonb_agg(jsonb_build_object('name', 'rail_' || n, 'depends_on', CASE WHEN n <= 50 THEN 'first' ELSE 'rail_' || n - 50 END))
    FROM generate_series(1, 200) AS n))) > 0 AS ok;
SELECT test.clock(0);
INSERT INTO test.reached SELECT stepwise.create_task('rails_200'), 'rails_200', 5;

CREATE FUNCTION test.page(name text) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce((SELECT test.picture(task_id, 'html') FROM test.reached WHERE shape = page.name),
        CASE name WHEN 'template' THEN stepwise.render_template('mixed', 'html') END)
$$;
CREATE VIEW test.pages AS SELECT shape AS name FROM test.reached UNION ALL SELECT 'template';

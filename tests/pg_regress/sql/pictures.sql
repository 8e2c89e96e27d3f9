-- Pictures of tasks and templates: the nine shapes with states of every kind, what is refused, and who may see.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set conformance :srcdir /../conformance
\set shapes :srcdir /../conformance/shapes.sql
\i :shapes
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_sees, regress_works;
RESET client_min_messages;
CREATE ROLE regress_sees; CREATE ROLE regress_works;
GRANT USAGE ON SCHEMA test TO regress_sees, regress_works;
-- Lengths of time without their digits: a slow machine makes them longer.
CREATE FUNCTION test.timeless(picture text) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(picture, '\d(?=\d* (ms|s|min|h)\M)', '#', 'g')
$$;
\set ECHO all
\pset format unaligned
\pset tuples_only on

SELECT test.timeless(test.picture(task_id, 'text')) FROM test.reached ORDER BY task_id;
SELECT test.picture(task_id, 'mermaid') FROM test.reached ORDER BY task_id;
SELECT test.picture(task_id, 'dot') FROM test.reached ORDER BY task_id;
SELECT stepwise.render_template(name, format, 'shapes', '1.0.0') FROM (VALUES ('diamond'), ('skip_level')) AS t (name), (VALUES ('text'), ('mermaid'), ('dot')) AS f (format);

-- The default is text. A drawing has a box and a title for each step, a page a row for each change.
SELECT stepwise.render_task(1) LIKE 'task 1 of shapes/linear@1.0.0: complete, 6 of 6 steps done%' AS text,
    stepwise.render_template('linear') LIKE 'template shapes/linear@1.0.0: 6 steps on 6 levels%' AS of_template;
SELECT r.shape, r.total_steps = regexp_count(svg, '<rect class="box"') AS boxes, r.total_steps + 1 = regexp_count(svg, '</title>') AS titles,
    (SELECT count(*) FROM stepwise.transitions h WHERE h.task_id = r.task_id) + 1 = regexp_count(html, '<tr>') AS changes, position('<script' IN html) AS scripts
FROM (SELECT task_id, shape, total_steps, test.picture(task_id, 'svg') AS svg, test.picture(task_id, 'html') AS html FROM test.reached JOIN stepwise.tasks USING (task_id)) AS r ORDER BY task_id;
-- The picture in the README is this one. (The line feed at its end is psql's to remove.)
\set image `cat "$PG_ABS_SRCDIR/../../docs/images/diamond.svg"`
SELECT test.timeless(rtrim(test.picture(2, 'svg'), E'\n')) = test.timeless(:'image') AS image;

-- Names that want to be more than names.
SELECT stepwise.register_template('{"name": "<script>alert(1)</script>", "steps": [{"name": "\"]; evil"}, {"name": "a\\\"b\n%%{c}`#quot;", "depends_on": "\"]; evil"}]}') > 0 AS ok;
SELECT stepwise.render_template('<script>alert(1)</script>', format) FROM (VALUES ('text'), ('mermaid'), ('dot')) AS f (format);
SELECT position('<script' IN picture) AS scripts, position('&lt;script&gt;alert(1)&lt;/script&gt;' IN picture) > 0 AS escaped
FROM (VALUES ('svg'), ('html')) AS f (format), stepwise.render_template('<script>alert(1)</script>', format) AS picture;

-- What a step waits for, where it is not a parent.
SELECT stepwise.register_template('{"name": "waits", "steps": [{"name": "by_hand", "retry_limit": 0}, {"name": "paused", "queue": "paused"}, {"name": "held"}]}') > 0 AS ok;
SELECT test.clock(0);
SELECT stepwise.create_task('waits') AS task \gset
UPDATE stepwise.queues SET paused = true WHERE name = 'paused';
SELECT step_name FROM stepwise.claim_steps('ann', '{default}', 1, '10 s');
SELECT test.clock(5);
SELECT test.timeless(stepwise.render_task(:task));
SELECT test.clock(20);
SELECT test.timeless(stepwise.render_task(:task));
SELECT stepwise.create_task('waits', run_at => stepwise.now() + interval '40 minutes 500 ms') AS task \gset
SELECT regexp_replace(test.timeless(stepwise.render_task(:task)), '# m?s\n', E'# s\n');
\pset format aligned
\pset tuples_only off

-- Refused.
SELECT r.* FROM (VALUES ('SELECT stepwise.render_task(1, ''png'')'), ('SELECT stepwise.render_task(1, NULL)'), ('SELECT stepwise.render_task(NULL)'), ('SELECT stepwise.render_task(-1)'),
    ('SELECT stepwise.render_template(''linear'', ''PNG'')'), ('SELECT stepwise.render_template(NULL)'), ('SELECT stepwise.render_template(''none'', namespace => ''n'', version => ''1.0.0'')')
    ) AS v (statement), LATERAL test.refused(statement) r;
SELECT test.template('linear', 'a > b') > 0 AS ok;
SELECT * FROM test.refused('SELECT stepwise.render_template(''linear'')');
-- Too large to be drawn, not to be written.
SELECT stepwise.register_template(jsonb_build_object('name', 'large', 'steps', (SELECT jsonb_agg(jsonb_build_object('name', 'step ' || n)) FROM generate_series(1, 2001) AS n))) > 0 AS ok;
SELECT r.* FROM (VALUES ('svg'), ('html')) AS f (format), LATERAL test.refused(format('SELECT stepwise.render_template(''large'', %L)', format)) r;
SELECT regexp_count(stepwise.render_template('large'), E'\n') AS lines;

-- A reader sees, without a transaction id, in a transaction that only reads; others do not.
RESET stepwise.clock_offset;
SELECT stepwise.grant_access('regress_sees', 'reader'), stepwise.grant_access('regress_works', 'worker');
SET ROLE regress_sees;
BEGIN READ ONLY;
SELECT format, length(stepwise.render_task(2, format)) > 100 AS task, length(stepwise.render_template('diamond', format)) > 100 AS template
FROM (VALUES ('text'), ('mermaid'), ('dot'), ('svg'), ('html')) AS f (format);
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_transaction_id;
COMMIT;
RESET ROLE;
SET ROLE regress_works;
SELECT r.code, r.message FROM (VALUES ('SELECT stepwise.render_task(1)'), ('SELECT stepwise.render_template(''diamond'')')) AS v (statement), LATERAL test.refused(statement) r;
RESET ROLE;
-- The rights are the caller's: a role that may call, and not read, is refused.
GRANT EXECUTE ON FUNCTION stepwise.render_task, stepwise.render_template TO regress_works;
SET ROLE regress_works;
SELECT r.code, r.message FROM (VALUES ('SELECT stepwise.render_task(1)'), ('SELECT stepwise.render_template(''diamond'')')) AS v (statement), LATERAL test.refused(statement) r;
RESET ROLE;
SELECT proname, provolatile, proparallel, prosecdef, proconfig FROM pg_proc WHERE pronamespace = 'stepwise'::regnamespace AND proname LIKE 'render%' ORDER BY 1;
SELECT stepwise.revoke_access('regress_sees'), stepwise.revoke_access('regress_works');
DROP OWNED BY regress_sees, regress_works;
DROP ROLE regress_sees, regress_works;

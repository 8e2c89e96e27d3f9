-- traceparent: what is accepted, what is kept, and whom it reaches.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all
\set trace '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
SELECT test.template('line', 'a > b');

-- Kept as it came; none is NULL; a later version goes on as version 00, with what that knows.
SELECT stepwise.create_task('line', traceparent => :'trace') AS traced \gset
SELECT stepwise.create_task('line') AS plain \gset
SELECT stepwise.create_task('line', traceparent => 'cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff-what-the-future-will-be')
    AS later \gset
SELECT stepwise.create_tasks('line', '{"{}","{}"}', traceparent => :'trace', identity_keys => '{k,NULL}');
SELECT task_id, traceparent FROM stepwise.tasks ORDER BY task_id;
-- The first task with a key keeps its trace.
SELECT stepwise.create_task('line', identity_key => 'k', traceparent => '00-11111111111111111111111111111111-2222222222222222-00') AS again \gset
SELECT traceparent = :'trace' AS as_it_was FROM stepwise.tasks WHERE task_id = :again;

-- Refused, and nothing stored.
SELECT count(*) AS tasks FROM stepwise.tasks \gset
SELECT v.text, r.code, r.message, r.detail, r.hint FROM (VALUES
    (''),
    ('00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331'),
    ('00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more'),
    ('cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more'),
    ('ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'),
    ('00-00000000000000000000000000000000-b7ad6b7169203331-01'),
    ('00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01'),
    ('00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01'),
    ('00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x'),
    ('00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01')
) AS v (text), LATERAL test.refused(format('SELECT stepwise.create_task(''line'', traceparent => %L)', v.text)) r;
SELECT code, length(detail) FROM test.refused('SELECT stepwise.create_tasks(''line'', ''{"{}"}'', traceparent => repeat(''ä'', 1000000))');
SELECT count(*) = :tasks AS nothing_stored FROM stepwise.tasks;
SELECT code, message FROM test.refused('UPDATE stepwise.tasks SET traceparent = ''x''');

-- Whoever claims gets it, one way or the other, at every attempt.
SELECT task_id, step_name, traceparent FROM stepwise.claim_steps('w', '{n}', 3);
SELECT outcome, task_id, step_name, traceparent FROM stepwise.report_and_claim('w', queues => '{n}', max_steps => 2);
SET stepwise.clock_offset = '1 hour';
SELECT task_id, attempt, traceparent FROM stepwise.claim_steps('w', '{n}', 1);
SELECT outcome, task_id, attempt, traceparent FROM stepwise.report_and_claim('w', queues => '{n}', max_steps => 1);
RESET stepwise.clock_offset;

-- A SQL handler, in the caller's session.
CREATE SCHEMA app;
CREATE FUNCTION app.trace(step stepwise.step_context) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(step.traceparent) $$;
SELECT stepwise.register_template('{"namespace": "sql", "name": "handled", "steps": [{"name": "a", "handler": {"sql": "app.trace"}}]}');
SELECT stepwise.create_task('handled', traceparent => :'trace') AS handled \gset
SELECT status FROM stepwise.run_task(:handled);
SELECT stepwise.create_task('handled', traceparent => :'trace') AS stepped \gset
SELECT executed FROM stepwise.run_steps('sql:sql');
SELECT task_id IN (:handled, :stepped) AS ours, results FROM test.steps WHERE name = 'a' AND results IS NOT NULL;
-- In events, as long as the task is there.
SELECT stepwise.create_subscription('traced', '{"event": "task.initialize_requested"}', 'start') AS position;
SELECT task_id, traceparent IS NOT NULL AS traced FROM stepwise.read_events('traced', 20);
SELECT * FROM stepwise.verify();

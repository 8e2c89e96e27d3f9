-- SQL handlers: registration, run_task, run_steps, errors, rights; injected failures and the clock of tests.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all
CREATE SCHEMA app;
CREATE TABLE app.orders (step text, task_id bigint, attempt integer, CONSTRAINT orders_once UNIQUE (task_id, step));
CREATE FUNCTION app.noop(given stepwise.step_context) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"ok": true}'::jsonb $$;
CREATE FUNCTION app.work(given stepwise.step_context) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.orders VALUES (given.step_name, given.task_id, given.attempt);
    IF given.context ->> 'fail' = given.step_name AND given.attempt <= (given.context ->> 'times')::integer THEN
        EXECUTE given.context ->> 'with';
    END IF;
    RETURN jsonb_build_object('was', given.step_name, 'after', given.dependencies);
END
$$;
CREATE FUNCTION app."Odd name"(given stepwise.step_context) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(given) $$;
CREATE FUNCTION app.text_only(given stepwise.step_context) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$;
CREATE FUNCTION test.sql_template(name text, handler text, extra jsonb DEFAULT '{}') RETURNS bigint LANGUAGE sql AS $$
    SELECT stepwise.register_template(jsonb_build_object('namespace', 'n', 'name', name, 'steps', jsonb_build_array(
        jsonb_build_object('name', 'first', 'handler', jsonb_build_object('sql', handler)),
        jsonb_build_object('name', 'second', 'depends_on', 'first', 'handler', jsonb_build_object('sql', handler)))) || extra)
$$;

-- Registration.
SELECT code, message, detail, hint FROM test.refused('SELECT test.sql_template(''x'', ''noop'')');
SELECT code, message, detail, hint FROM test.refused('SELECT test.sql_template(''x'', ''app.missing'')');
SELECT code, message, detail FROM test.refused('SELECT test.sql_template(''x'', ''app.text_only'')');
SELECT code, message FROM test.refused('SELECT test.sql_template(''x'', ''app.noop(); drop table app.orders'')');
SELECT test.sql_template('odd', 'app."Odd name"');
SELECT s.name, handler, in_database, q.name FROM stepwise.template_steps s JOIN stepwise.queues q USING (queue_id);

-- A handler runs with the settings of whoever calls, from the first call in a session on.
CREATE FUNCTION app.settings(given stepwise.step_context) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_object_agg(name, current_setting(name)) FROM unnest('{enable_seqscan,search_path}'::text[]) AS name
$$;
SELECT test.sql_template('settings', 'app.settings');
SELECT stepwise.create_task('settings') AS settings \gset
SELECT status FROM stepwise.run_task(:settings);
SELECT name, results FROM test.steps WHERE task_id = :settings;

-- The whole way, in one call; what a handler is given.
SELECT stepwise.create_task('odd', '{"k": 1}') AS odd \gset
SELECT template_name, status, total_steps, completed_steps, execution_status FROM stepwise.run_task(:odd);
SELECT name, state, att, worker, results FROM test.steps;
SELECT status, completed_steps FROM stepwise.run_task(:odd);
SELECT * FROM stepwise.verify();

-- What a handler raises is in the error, whatever it is; what it wrote is gone, what others wrote stays.
SELECT test.sql_template('work', 'app.work', '{"defaults": {"retry_limit": 2, "backoff": {"base": "0s"}}}');
CREATE FUNCTION test.failing(statement text, times integer DEFAULT 9) RETURNS TABLE (status text, failed integer, error jsonb, known boolean)
LANGUAGE plpgsql AS $$
DECLARE
    task bigint := stepwise.create_task('work', jsonb_build_object('fail', 'second', 'times', times, 'with', statement));
BEGIN
    SELECT r.status, r.failed_steps INTO status, failed FROM stepwise.run_task(task) AS r;
    SELECT s.error - 'context', s.error ->> 'context' LIKE '%app.work(stepwise.step_context)%' INTO error, known FROM stepwise.steps s WHERE task_id = task AND step_id = 2;
    RETURN NEXT;
END
$$;
SELECT * FROM test.failing($$ DO 'BEGIN RAISE ''my own''; END' $$);
SELECT * FROM test.failing($$ DO 'BEGIN RAISE ''my own'' USING ERRCODE = ''JQ007'', DETAIL = ''d'', HINT = ''h'', CONSTRAINT = ''c'', TABLE = ''t''; END' $$);
SELECT * FROM test.failing($$ INSERT INTO app.orders SELECT * FROM app.orders $$);
SELECT * FROM test.failing($$ SELECT 1 / 0 $$);
SELECT * FROM test.failing($$ DO 'BEGIN ASSERT false, ''no''; END' $$);
SELECT step_id, attempts, retryable FROM stepwise.steps WHERE state = 'error' ORDER BY task_id;
SELECT step, count(*) FROM app.orders GROUP BY step;
-- Its own pair of SQLSTATEs: do not retry, and retry after.
SELECT * FROM test.failing($$ DO 'BEGIN RAISE ''hopeless'' USING ERRCODE = ''SW001''; END' $$);
SELECT * FROM test.failing($$ DO 'BEGIN RAISE ''busy'' USING ERRCODE = ''SW002'', DETAIL = ''90 seconds''; END' $$);
SELECT attempts, retryable, backoff_request_seconds FROM stepwise.steps WHERE error ? 'sqlstate' ORDER BY task_id DESC LIMIT 2;
-- Once, then it works.
SELECT * FROM test.failing($$ DO 'BEGIN RAISE ''once''; END' $$, 1);
SELECT name, state, att FROM test.steps WHERE task_id = (SELECT max(task_id) FROM stepwise.tasks);
SELECT * FROM stepwise.verify();

-- Time: none left, and waiting for a backoff.
SELECT stepwise.create_task('odd') AS later \gset
SELECT status, completed_steps, pending_steps FROM stepwise.run_task(:later, max_seconds => 0);
SELECT name, state, att FROM test.steps WHERE task_id = :later;
SELECT status FROM stepwise.run_task(:later);
SELECT test.sql_template('slow', 'app.work', '{"defaults": {"backoff": {"base": "0.1s"}}}');
SELECT stepwise.create_task('slow', '{"fail": "first", "times": 2, "with": "SELECT 1 / 0"}') AS slow \gset
SELECT status, failed_steps FROM stepwise.run_task(:slow);
SELECT stepwise.create_task('slow', jsonb_build_object('fail', 'first', 'times', 2, 'with', $$ DO 'BEGIN RAISE ''twice''; END' $$)) AS slow \gset
SELECT status, failed_steps, execution_status FROM stepwise.run_task(:slow);
SELECT status, failed_steps, execution_status FROM stepwise.run_task(:slow, wait_for_backoff => true);

-- A wait that is over fails here too; nothing is waited for in vain.
SELECT stepwise.register_template('{"namespace": "n", "name": "waits", "steps": [{"name": "w", "kind": "wait", "timeout": "0.05s"}]}');
SELECT stepwise.create_task('waits') AS waits \gset
SELECT status, failed_steps FROM stepwise.run_task(:waits, wait_for_backoff => true);
-- As whom handlers run in the background is not for anybody to say.
SELECT code, message FROM test.refused('UPDATE stepwise.tasks SET created_by = ''somebody''');

-- Steps of other workers are left to them.
SELECT stepwise.register_template('{"namespace": "n", "name": "both", "steps": [{"name": "sql", "handler": {"sql": "app.noop"}},
    {"name": "outside", "depends_on": ["sql"]}, {"name": "last", "depends_on": ["outside"], "handler": {"sql": "app.noop"}}]}');
SELECT stepwise.create_task('both') AS both \gset
SELECT status, completed_steps, ready_steps, execution_status FROM stepwise.run_task(:both);
SELECT step_name FROM test.work(1, '{n}');
SELECT status FROM stepwise.run_task(:both);

-- A queue.
SELECT stepwise.create_tasks('odd', array_agg('{}'::jsonb)) IS NOT NULL AS made FROM generate_series(1, 3) \g /dev/null
SELECT stepwise.create_tasks('odd', ARRAY['{}', '{}', '{}']::jsonb[]);
SELECT * FROM stepwise.run_steps('n:sql', 4);
SELECT * FROM stepwise.run_steps('n');
SELECT * FROM stepwise.run_steps();
SELECT * FROM stepwise.run_steps();
SELECT code, message, detail FROM test.refused('SELECT stepwise.run_steps(max_steps => 0)');
SELECT code, message FROM test.refused('SELECT stepwise.run_task(NULL)');
SELECT code, message, detail FROM test.refused('SELECT stepwise.run_task(123456)');
SELECT code, message, detail FROM test.refused('SELECT stepwise.run_task(1, -1)');

-- Handlers that decide steps themselves: what was decided before its turn is not run, and its work is not there.
CREATE TABLE app.log (step text);
CREATE FUNCTION app.meddle(given stepwise.step_context) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.log VALUES (given.step_name);
    IF given.context ? given.step_name THEN
        EXECUTE given.context ->> given.step_name USING given.task_id;
    END IF;
    RETURN '"returned"';
END
$$;
SELECT stepwise.register_template('{"namespace": "n", "name": "meddling", "steps": [
    {"name": "a", "handler": {"sql": "app.meddle"}}, {"name": "b", "handler": {"sql": "app.meddle"}, "depends_on": "a"},
    {"name": "c", "handler": {"sql": "app.meddle"}}]}');
CREATE FUNCTION test.logged() RETURNS text LANGUAGE sql AS $$
    WITH gone AS (SELECT string_agg(step, ' ' ORDER BY step) AS steps FROM app.log) SELECT steps FROM gone
$$;
-- Its own task, cancelled: the word of the handler counts, and what it wrote stays with it.
SELECT stepwise.create_task('meddling', '{"a": "SELECT stepwise.cancel_task($1)"}') AS meddled \gset
SELECT status, completed_steps FROM stepwise.run_task(:meddled);
SELECT name, state, att, results FROM test.steps WHERE task_id = :meddled;
SELECT test.logged();
TRUNCATE app.log;
SELECT stepwise.create_task('meddling', '{"a": "SELECT stepwise.cancel_task($1)"}') AS meddled \gset
SELECT * FROM stepwise.run_steps('n:sql');
SELECT test.logged();
-- Another step, resolved: it is neither executed nor completed by this call.
TRUNCATE app.log;
SELECT stepwise.create_task('meddling', '{"a": "SELECT stepwise.resolve_step($1, ''c'', ''\"by hand\"'')"}') AS meddled \gset
SELECT * FROM stepwise.run_steps('n:sql');
SELECT name, state, att, results FROM test.steps WHERE task_id = :meddled;
SELECT test.logged();
-- A step that has returned counts before what another handler then says of it, which is said once.
TRUNCATE app.log;
SELECT stepwise.create_task('meddling', '{"c": "SELECT stepwise.cancel_task($1)"}') AS meddled \gset
SELECT * FROM stepwise.run_steps('n:sql');
SELECT name, state, att, results FROM test.steps WHERE task_id = :meddled;
SELECT state FROM stepwise.tasks WHERE task_id = :meddled;
SELECT test.logged();
-- One that fails after that has decided nothing.
TRUNCATE app.log;
SELECT stepwise.create_task('meddling', '{"a": "DO ''BEGIN PERFORM stepwise.cancel_task(max(task_id)) FROM stepwise.tasks; ASSERT false; END''"}') AS meddled \gset
SELECT * FROM stepwise.run_steps('n:sql');
SELECT name, state, att, results FROM test.steps WHERE task_id = :meddled;
SELECT test.logged();
SELECT stepwise.cancel_task(:meddled);
-- Given back by itself, or reset: no call runs it twice, and all others run; waiting does not run it either.
TRUNCATE app.log;
SELECT stepwise.create_task('meddling', '{"a": "UPDATE stepwise.steps SET state = ''pending'' WHERE task_id = $1 AND step_id = 1"}') AS meddled \gset
SELECT status, completed_steps, ready_steps FROM stepwise.run_task(:meddled, max_seconds => 20);
SELECT name, state, att, results FROM test.steps WHERE task_id = :meddled;
SELECT status, completed_steps, ready_steps FROM stepwise.run_task(:meddled, max_seconds => 20, wait_for_backoff => true);
SELECT * FROM stepwise.run_steps('n:sql');
SELECT name, state, att, results FROM test.steps WHERE task_id = :meddled;
SELECT test.logged();
SELECT stepwise.resolve_step(:meddled, 'a');
SELECT status FROM stepwise.run_task(:meddled);
-- Cancelled and purged: there is no task to tell of.
TRUNCATE app.log;
SELECT stepwise.create_task('meddling', '{"a": "WITH x AS MATERIALIZED (SELECT stepwise.cancel_task($1) AS n) SELECT stepwise.purge_tasks(''0 s'', states => ''{cancelled}'') FROM x WHERE n > 0"}') AS meddled \gset
SELECT count(*) FROM stepwise.run_task(:meddled);
SELECT count(*) FROM stepwise.tasks WHERE task_id = :meddled;
SELECT test.logged();
SELECT * FROM stepwise.run_steps();
SELECT * FROM stepwise.verify();

-- Rights: a handler runs as its caller, and is looked up as its author.
CREATE ROLE regress_runner;
SELECT stepwise.grant_access('regress_runner', 'worker');
GRANT USAGE ON SCHEMA app TO regress_runner;
CREATE FUNCTION app.who(given stepwise.step_context) RETURNS jsonb LANGUAGE sql
    AS $$ SELECT jsonb_build_object('user', current_user, 'path', current_setting('search_path')) $$;
SELECT test.sql_template('who', 'app.who');
SELECT test.sql_template('denied', 'app.work', '{"defaults": {"retry_limit": 1}}');
SELECT stepwise.create_task('who') AS who, stepwise.create_task('denied', '{"fail": "none"}') AS denied \gset
SET ROLE regress_runner;
SET search_path = app;
SELECT status FROM stepwise.run_task(:who);
SELECT status FROM stepwise.run_task(:denied);
RESET search_path;
RESET ROLE;
SELECT name, results, error - 'context' AS error FROM test.steps WHERE task_id IN (:who, :denied);
-- What a session has called as one role it may not call as another for that.
REVOKE EXECUTE ON FUNCTION app.who FROM PUBLIC;
SELECT stepwise.create_task('who') AS mine, stepwise.create_task('who') AS theirs \gset
SELECT status FROM stepwise.run_task(:mine);
SET ROLE regress_runner;
SELECT status FROM stepwise.run_task(:theirs);
RESET ROLE;
SELECT name, state, error - 'context' AS error FROM test.steps WHERE task_id = :theirs;
REVOKE EXECUTE ON FUNCTION app.work FROM PUBLIC;
CREATE ROLE regress_author;
SELECT stepwise.grant_access('regress_author', 'author');
GRANT USAGE ON SCHEMA app, test TO regress_author;
SET ROLE regress_author;
SELECT code, message, detail, hint FROM test.refused('SELECT test.sql_template(''mine'', ''app.work'')');
RESET ROLE;

-- Injected failures, in sessions that ask for them.
SELECT stepwise.create_task('odd') AS injected \gset
SELECT stepwise.inject_failure(:injected, 'second', 2, '"broken"');
SET stepwise.testing = on;
SELECT status, failed_steps FROM stepwise.run_task(:injected);
SELECT stepwise.release_backoff(:injected);
SELECT * FROM stepwise.run_steps();
SELECT name, state, att, error FROM test.steps WHERE task_id = :injected;
SELECT stepwise.release_backoff(:injected);
SELECT status FROM stepwise.run_task(:injected);
SELECT subject, from_state, to_state, att, metadata FROM test.history WHERE task_id = :injected AND subject = 'second';
SELECT test.template('outside', 'x');
SELECT stepwise.create_task('outside') AS outside \gset
SELECT stepwise.inject_failure(:outside, 'x');
SELECT count(*) FROM test.claim('{n}');
SELECT name, state, att, error FROM test.steps WHERE task_id = :outside;
RESET stepwise.testing;
SELECT count(*) FROM stepwise.injected_failures;
SELECT stepwise.inject_failure(:outside, 'x'), stepwise.inject_failure(:outside, 'x', 0);
SELECT count(*) FROM stepwise.injected_failures;
SELECT code, message, detail FROM test.refused(format('SELECT stepwise.inject_failure(%s, ''nope'')', :outside));
SELECT code FROM test.refused('SET ROLE regress_runner; SET stepwise.testing = on');
RESET ROLE;

-- The clock.
SELECT round(extract(epoch FROM stepwise.advance_clock('1 hour') - clock_timestamp()) / 60) AS minutes;
SELECT round(extract(epoch FROM stepwise.advance_clock('1 day 1.5 seconds') - clock_timestamp()) / 60) AS minutes;
SHOW stepwise.clock_offset;
SELECT round(extract(epoch FROM stepwise.advance_clock('-25 hours') - clock_timestamp())) AS seconds;
RESET stepwise.clock_offset;
SELECT * FROM stepwise.verify();
SET client_min_messages = warning;
DROP OWNED BY regress_runner, regress_author;
DROP SCHEMA app CASCADE;
DROP ROLE regress_runner, regress_author;

-- Roles that are kept to namespaces: what belongs to another one is, in every answer and every error, what does not exist.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_ns_author, regress_ns_reader, regress_ns_worker, regress_ns_mixed, regress_ns_group, regress_ns_member, regress_ns_all, regress_ns_late;
RESET client_min_messages;
CREATE ROLE regress_ns_author; CREATE ROLE regress_ns_reader; CREATE ROLE regress_ns_worker; CREATE ROLE regress_ns_mixed;
CREATE ROLE regress_ns_group; CREATE ROLE regress_ns_member IN ROLE regress_ns_group; CREATE ROLE regress_ns_all;
GRANT USAGE, CREATE ON SCHEMA test TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA test TO PUBLIC;
\set ECHO all

-- Two tenants that share a queue, and each with one of its own.
CREATE FUNCTION test.handle(step stepwise.step_context) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(current_user::text) $$;
CREATE FUNCTION test.tenant(namespace text) RETURNS bigint LANGUAGE sql AS $$
    SELECT stepwise.register_template(format('{"namespace": "%1$s", "name": "flow", "defaults": {"queue": "%1$s", "retry_limit": 3}, "steps": [
        {"name": "%1$s_open", "queue": "shared", "config": {"of": "%1$s"}}, {"name": "%1$s_wait", "kind": "wait"},
        {"name": "%1$s_sql", "handler": {"sql": "test.handle"}},
        {"name": "%1$s_end", "depends_on": ["%1$s_open"], "skippable": true}]}', namespace)::jsonb) $$;
SELECT test.tenant('alpha'), test.tenant('beta');
SELECT count(stepwise.grant_access('regress_ns_' || role, level, namespaces)) AS granted FROM (VALUES
    ('author', 'author', '{alpha}'::text[]), ('reader', 'reader', '{alpha}'), ('worker', 'worker', '{alpha}'),
    ('mixed', 'reader', NULL), ('mixed', 'worker', '{alpha}'), ('group', 'worker', '{alpha}'), ('all', 'operator', NULL)) AS g (role, level, namespaces);
SELECT * FROM stepwise.access ORDER BY role, level, namespace;
-- alpha: tasks 1 and 2; beta: 3 and 4. Of the first, one step is held, of the last one, too; the second and fourth have ended.
SELECT stepwise.create_task('flow', '{"of": "alpha"}', 'alpha', identity_key => 'k'), stepwise.create_task('flow', '{"of": "alpha"}', 'alpha'),
       stepwise.create_task('flow', '{"of": "beta"}', 'beta', identity_key => 'k'), stepwise.create_task('flow', '{"of": "beta"}', 'beta');
SELECT stepwise.cancel_task(2), stepwise.cancel_task(4);
SELECT task_id, step_name FROM test.claim('{shared}', 10, '1 hour') ORDER BY 1;
SELECT count(stepwise.create_subscription(name, filter, 'start')) AS subscriptions
FROM (VALUES ('alpha', '{"namespace": "alpha"}'::jsonb), ('beta', '{"namespace": "beta"}'), ('all', NULL)) AS s (name, filter);

-- Calls as a role, about an object of one's own, a foreign one and one that does not exist. Each is taken back.
CREATE FUNCTION test.ask(role name, call text, OUT answer text) LANGUAGE plpgsql AS $$
DECLARE
    code text; message text; detail text; hint text;
BEGIN
    PERFORM set_config('role', role, true);
    EXECUTE format('SELECT coalesce(jsonb_agg(to_jsonb(x)), ''[]'')::text FROM (%s) AS x', call) INTO answer;
    RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    IF code <> 'ZZ000' THEN answer := concat_ws(' | ', code, message, detail, hint); END IF;
END
$$;
-- A call of every function about an object (whole: about everything).
\set ECHO none
\set calls :srcdir /calls.sql
\i :calls
\set ECHO all
-- A granted function without a call: none.
SELECT DISTINCT function_name FROM stepwise.access_matrix WHERE level <> 'owner'
EXCEPT SELECT function FROM test.call EXCEPT SELECT function FROM test.pure;

CREATE FUNCTION test.filled(call text, owner text) RETURNS text LANGUAGE sql AS $$
    SELECT format(call, o.task_id, o.namespace || '_open', o.namespace,
        coalesce((SELECT receipt FROM test.held AS h WHERE h.task_id = o.task_id ORDER BY claim DESC LIMIT 1), '00000000-0000-8000-8000-000000000000'),
        o.namespace, coalesce((SELECT t.template_id FROM stepwise.templates AS t JOIN stepwise.namespaces AS n USING (namespace_id) WHERE n.name = o.namespace), 999),
        coalesce((SELECT q.queue_id FROM stepwise.queues AS q WHERE q.name = o.namespace), 999))
    FROM (VALUES ('own', 1, 'alpha'), ('foreign', 3, 'beta'), ('none', 999, 'gamma')) AS o (owner, task_id, namespace) WHERE o.owner = filled.owner $$;
-- The names and ids that a caller has passed are no news.
CREATE FUNCTION test.without_own_words(answer text, owner text) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(replace(replace(regexp_replace(answer, '[0-9a-f]{8}-[0-9a-f-]{27}', 'RECEIPT'), 'beta', 'gamma'), 'task 3', 'task 999'), 'is 3\.', 'is 999.') $$;
CREATE TABLE test.answer AS
SELECT c.function, c.call, test.ask('regress_ns_author', test.filled(c.call, 'own')) AS own,
       test.without_own_words(test.ask('regress_ns_author', test.filled(c.call, 'foreign')), 'foreign') AS foreign,
       test.without_own_words(test.ask('regress_ns_author', test.filled(c.call, 'none')), 'none') AS nothing,
       test.ask('regress_ns_all', test.filled(c.call, 'foreign')) AS as_one_with_all
FROM test.call AS c WHERE NOT c.whole;
-- A foreign object that is not what does not exist: none.
SELECT call, "foreign", nothing FROM test.answer WHERE "foreign" IS DISTINCT FROM nothing;
-- A call that tells nothing of one's own either, so that it proves nothing: verify finds nothing wrong, and what is said of
-- a step by reset_step and retry_task is an error in its own right.
SELECT call, own FROM test.answer WHERE own = nothing ORDER BY call COLLATE "C";
-- A call that finds nothing for one who has all: what creates and registers takes more than an operator.
SELECT call, as_one_with_all FROM test.answer WHERE as_one_with_all = nothing ORDER BY call COLLATE "C";
SELECT count(*) AS foreign_calls FROM test.answer;
SELECT DISTINCT "foreign" AS refusals FROM test.answer WHERE "foreign" ~ '^[0-9A-Z]{5} ' ORDER BY 1;
SELECT function, test.ask('regress_ns_author', call) AS answer FROM test.call WHERE whole ORDER BY call COLLATE "C";
SELECT count(*) AS whole_calls FROM test.call WHERE whole;

-- Whatever it did to its own, a role has changed nothing of others.
CREATE FUNCTION test.beta() RETURNS text LANGUAGE sql AS $$
    SELECT md5(jsonb_build_array((SELECT jsonb_agg(t ORDER BY t.task_id) FROM stepwise.tasks t WHERE t.task_id IN (3, 4)),
        (SELECT jsonb_agg(s ORDER BY s.task_id, s.step_id) FROM stepwise.steps s WHERE s.task_id IN (3, 4)),
        (SELECT jsonb_agg(h ORDER BY h.event_id) FROM stepwise.transitions h WHERE h.task_id IN (3, 4)),
        (SELECT jsonb_agg(q ORDER BY q.queue_id) FROM stepwise.queues q WHERE q.name = 'beta'))::text) $$;
SELECT count(stepwise.drop_subscription(name)) AS dropped FROM stepwise.subscriptions;
SELECT test.beta() AS before \gset
SET ROLE regress_ns_author;
SELECT stepwise.pause_queue('shared') AS shared;
SELECT stepwise.set_queue_limit('shared', 1) AS shared;
SELECT stepwise.pause_queue('alpha'), stepwise.resume_queue('alpha');
SELECT * FROM stepwise.run_steps();
SELECT stepwise.purge_tasks('0');
SELECT expired_leases, failed_waits, ended_tasks, ready_queues FROM stepwise.tick();
RESET ROLE;
SET stepwise.clock_offset = '2 hours';
SET ROLE regress_ns_worker;
-- The leases of both are over, the own one is ended.
SELECT expired_leases, failed_waits, ended_tasks, ready_queues FROM stepwise.tick();
SELECT task_id, step_name, attempt, namespace FROM stepwise.claim_steps('w', '{shared,beta}', 100, '1 hour');
SELECT stepwise.next_visible_at('{beta}'), stepwise.next_visible_at() IS NOT NULL AS own;
SELECT r.code, r.message FROM test.refused('SELECT * FROM stepwise.tasks') AS r;
RESET ROLE;
RESET stepwise.clock_offset;
SELECT test.beta() = :'before' AS unchanged;

-- Levels by themselves: sees all, works in one.
SET ROLE regress_ns_mixed;
SELECT count(DISTINCT namespace_id) AS namespaces, (SELECT count(*) FROM stepwise.tasks) AS tasks FROM stepwise.templates;
SELECT count(*) AS steps FROM stepwise.get_step_readiness_status(3);
SELECT code, message FROM test.refused('SELECT stepwise.create_task(''flow'', namespace => ''beta'')');
SELECT stepwise.may_use_all('reader') AS reader, stepwise.may_use_all('worker') AS worker, stepwise.may_use_namespace('worker', 'alpha') AS alpha, stepwise.may_use_all('author') AS author;
-- Through a group.
SET ROLE regress_ns_member;
SELECT stepwise.create_task('flow') > 0 AS created;
SELECT code, message FROM test.refused('SELECT stepwise.create_task(''flow'', namespace => ''beta'')');
RESET ROLE;
REVOKE regress_ns_group FROM regress_ns_member;
SET ROLE regress_ns_member;
SELECT code, message FROM test.refused('SELECT stepwise.create_task(''flow'')');
RESET ROLE;
-- One who has all, sees and does all.
SET ROLE regress_ns_all;
SELECT count(*) AS tasks, stepwise.may_use_all('operator') AS all FROM stepwise.tasks WHERE task_id < 5;
RESET ROLE;
-- A right on a function alone gives none in a namespace any more.
GRANT USAGE ON SCHEMA stepwise TO regress_ns_member; GRANT EXECUTE ON FUNCTION stepwise.create_task TO regress_ns_member; GRANT SELECT ON stepwise.tasks TO regress_ns_member;
SET ROLE regress_ns_member;
SELECT code, message FROM test.refused('SELECT stepwise.create_task(''flow'', namespace => ''alpha'')');
SELECT count(*) FROM stepwise.tasks;
RESET ROLE;
REVOKE ALL ON stepwise.tasks FROM regress_ns_member; REVOKE ALL ON FUNCTION stepwise.create_task FROM regress_ns_member; REVOKE USAGE ON SCHEMA stepwise FROM regress_ns_member;

-- By UPDATE, too: a policy each for rows that one sees, and rows that one changes.
GRANT UPDATE (state) ON stepwise.steps, stepwise.tasks TO regress_ns_author; GRANT UPDATE (paused) ON stepwise.queues TO regress_ns_author;
SET ROLE regress_ns_author;
WITH u AS (UPDATE stepwise.steps SET state = 'cancelled' WHERE state IN ('pending', 'error') AND task_id < 5 RETURNING task_id) SELECT DISTINCT task_id FROM u;
WITH u AS (UPDATE stepwise.queues SET paused = true RETURNING name) SELECT name FROM u;
WITH u AS (UPDATE stepwise.queues SET paused = false RETURNING name) SELECT name FROM u;
RESET ROLE;
SELECT test.beta() = :'before' AS unchanged;

-- Inside a SECURITY DEFINER function its owner counts, not who called it, nor who that is said to be.
CREATE FUNCTION test.create_as_worker(namespace text) RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT stepwise.create_task('flow', namespace => namespace) $$;
ALTER FUNCTION test.create_as_worker OWNER TO regress_ns_worker;
SELECT code, message FROM test.refused('SELECT test.create_as_worker(''beta'')');
SET ROLE regress_ns_member;
SELECT test.create_as_worker('alpha') AS task_id \gset
RESET ROLE;
SELECT created_by FROM stepwise.tasks WHERE task_id = :task_id;
-- A view shows what both may see: its owner's rights, its reader's namespaces.
CREATE VIEW test.seen AS SELECT task_id FROM stepwise.tasks WHERE task_id < 5;
ALTER VIEW test.seen OWNER TO regress_ns_reader; GRANT SELECT ON test.seen TO regress_ns_member;
SELECT count(*) AS as_superuser FROM test.seen;
SET ROLE regress_ns_member;
SELECT count(*) AS as_nobody FROM test.seen;
RESET ROLE;

-- Insight into what has ended.
SELECT count(stepwise.create_task('flow', '{}', namespace)) AS created FROM (VALUES ('alpha'), ('beta')) AS n (namespace);
UPDATE stepwise.steps SET state = 'in_progress' WHERE step_id = 1 AND task_id IN (SELECT task_id FROM stepwise.tasks ORDER BY task_id DESC LIMIT 2);
UPDATE stepwise.steps SET state = 'complete' WHERE step_id = 1 AND task_id IN (SELECT task_id FROM stepwise.tasks ORDER BY task_id DESC LIMIT 2);
UPDATE stepwise.steps SET state = 'resolved_manually' WHERE state = 'pending' AND task_id IN (SELECT task_id FROM stepwise.tasks ORDER BY task_id DESC LIMIT 2);
SET ROLE regress_ns_reader;
SELECT DISTINCT namespace_name FROM stepwise.get_slowest_tasks();
SELECT DISTINCT namespace_name FROM stepwise.get_slowest_steps();
SET ROLE regress_ns_all;
SELECT DISTINCT namespace_name FROM stepwise.get_slowest_tasks() ORDER BY 1;
SELECT DISTINCT namespace_name FROM stepwise.get_slowest_steps() ORDER BY 1;
RESET ROLE;

-- Templates: into a namespace of one's own, existing or not, on queues of one's own, or with a name that can only be one.
SELECT stepwise.grant_access('regress_ns_author', 'author', '{delta}');
SET ROLE regress_ns_author;
SELECT stepwise.register_template('{"namespace": "delta", "name": "d", "steps": [{"name": "a"}, {"name": "b", "queue": "delta/slow"}, {"name": "c", "queue": "shared"}]}') > 0 AS registered;
SELECT DISTINCT r.code, r.message, r.hint FROM (VALUES ('beta'), ('gamma'), ('beta/x'), ('alphabet'), ('')) AS q (queue), LATERAL test.refused(
    format('SELECT stepwise.register_template(''{"namespace": "alpha", "name": "n", "steps": [{"name": "a", "queue": "%s"}]}'')', queue)) AS r ORDER BY 2;
RESET ROLE;

-- Namespaces are taken one by one; with the last goes the rest.
SELECT stepwise.revoke_access('regress_ns_author', '{alpha}');
SET ROLE regress_ns_author;
SELECT name FROM stepwise.namespaces;
RESET ROLE;
SELECT stepwise.revoke_access('regress_ns_author', '{delta,gamma}');
SELECT count(*) FROM stepwise.access WHERE role = 'regress_ns_author';
SELECT has_schema_privilege('regress_ns_author', 'stepwise', 'USAGE') AS usage, has_function_privilege('regress_ns_author', 'stepwise.tick()', 'EXECUTE') AS tick;
-- What a dropped role leaves behind is not a new one's of its name.
CREATE ROLE regress_ns_late;
SELECT stepwise.grant_access('regress_ns_late', 'worker');
DROP OWNED BY regress_ns_late;
DROP ROLE regress_ns_late;
SELECT count(*) AS left_behind FROM stepwise.access WHERE role = 'regress_ns_late';
CREATE ROLE regress_ns_late IN ROLE regress_ns_worker;
SET ROLE regress_ns_late;
SELECT code, message FROM test.refused('SELECT stepwise.create_task(''flow'', namespace => ''beta'')');
RESET ROLE;
SELECT stepwise.grant_access('regress_ns_late', 'worker', '{alpha}');
SELECT * FROM stepwise.access WHERE role = 'regress_ns_late';
-- What cannot be meant.
SELECT r.* FROM (VALUES ('SELECT stepwise.grant_access(''regress_ns_all'', ''worker'', ''{alpha}'')'), ('SELECT stepwise.grant_access(''regress_ns_worker'', ''worker'', ''{}'')'),
    ('SELECT stepwise.grant_access(''regress_ns_worker'', ''worker'', ''{a,NULL}'')'), ('SELECT stepwise.grant_access(''regress_ns_worker'', ''worker'', ''{""}'')'),
    ('SELECT stepwise.revoke_access(''regress_ns_all'', ''{alpha}'')'), ('SELECT stepwise.revoke_access(''regress_ns_all'', ''{NULL}'')'),
    ('SELECT stepwise.may_use_all(''any'')'), ('SELECT stepwise.set_namespace_private(''none'')'), ('SELECT stepwise.set_namespace_private(NULL)')) AS v (statement),
    LATERAL test.refused(statement) AS r;
SELECT count(*) AS violations FROM stepwise.verify();

\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA test CASCADE;
DROP EXTENSION pg_stepwise;
DROP OWNED BY regress_ns_author, regress_ns_reader, regress_ns_worker, regress_ns_mixed, regress_ns_group, regress_ns_member, regress_ns_all, regress_ns_late;
DROP ROLE regress_ns_author, regress_ns_reader, regress_ns_worker, regress_ns_mixed, regress_ns_group, regress_ns_member, regress_ns_all, regress_ns_late;

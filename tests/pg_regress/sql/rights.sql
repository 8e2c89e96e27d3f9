-- Every level against every function, table, column and sequence, each tried as a role that has the level and nothing else.
-- What is granted is granted, and nothing beside it.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_rights_none, regress_rights_reader, regress_rights_worker, regress_rights_operator, regress_rights_author;
RESET client_min_messages;
CREATE ROLE regress_rights_none; CREATE ROLE regress_rights_reader; CREATE ROLE regress_rights_worker;
CREATE ROLE regress_rights_operator; CREATE ROLE regress_rights_author;
GRANT USAGE, CREATE ON SCHEMA test TO PUBLIC;
\set ECHO all

SELECT count(stepwise.grant_access('regress_rights_' || level, level)) AS granted
FROM (VALUES ('reader'), ('worker'), ('operator'), ('author')) AS l (level);
CREATE TABLE test.level AS
SELECT * FROM (VALUES ('none', '{}'::text[]), ('reader', '{reader}'), ('worker', '{worker}'), ('operator', '{reader,worker,operator}'),
    ('author', '{reader,worker,operator,author}')) AS l (level, includes);

-- Runs a statement as a role and takes it back; the error, ZZ000 for none.
CREATE FUNCTION test.tried(level text, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    code text; message text;
BEGIN
    PERFORM set_config('role', 'regress_rights_' || level, true);
    EXECUTE statement;
    RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
    RETURN CASE WHEN code = '42501' AND message LIKE 'permission denied for %' THEN 'denied' ELSE 'allowed ' || code || ' ' || message END;
END
$$;

-- Functions. NULL for every argument; a STRICT function is not called with it, so it gets values.
CREATE TABLE test.cell AS
SELECT l.level, 'EXECUTE' AS privilege, p.oid::regprocedure::text AS object,
       m.function_name IS NOT NULL AS granted,
       test.tried(l.level, format('SELECT %s stepwise.%I(%s)', CASE WHEN p.prorettype <> 'trigger'::regtype THEN 'FROM' END, p.proname, (
           SELECT string_agg(format('%s::%s', CASE WHEN NOT p.proisstrict THEN 'NULL' WHEN t = 'text'::regtype THEN '''reader''' ELSE '''0''' END, format_type(t, NULL)), ', ' ORDER BY ord)
           FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, ord)))) AS outcome
FROM pg_proc p CROSS JOIN test.level l
LEFT JOIN LATERAL (SELECT DISTINCT m.function_name FROM stepwise.access_matrix m WHERE m.function_name = p.proname AND m.level = ANY (l.includes)) AS m ON true
WHERE p.pronamespace = 'stepwise'::regnamespace;

-- Tables and views: what a reader may SELECT is listed here once more, on purpose.
CREATE TABLE test.readable AS
SELECT c.relname::text AS relation, a.attname::text AS "column" FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'stepwise'::regnamespace AND c.relname IN ('namespaces', 'queues', 'templates', 'template_steps', 'tasks', 'steps',
    'transitions', 'slots', 'subscriptions', 'task_transitions', 'step_transitions', 'step_readiness', 'live_steps', 'open_tasks', 'queue_depths', 'failed_steps', 'failed_tasks')
    AND (c.relname, a.attname) <> ('steps', 'claim_token');
INSERT INTO test.cell
SELECT l.level, p.privilege, format('%s.%s', c.relname, a.attname),
       p.privilege = 'SELECT' AND 'reader' = ANY (l.includes) AND (c.relname, a.attname) IN (SELECT * FROM test.readable),
       test.tried(l.level, format(p.statement, c.relname, a.attname, format_type(a.atttypid, a.atttypmod)))
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped CROSS JOIN test.level l
CROSS JOIN (VALUES ('SELECT', 'SELECT %2$I FROM stepwise.%1$I LIMIT 0'), ('INSERT', 'INSERT INTO stepwise.%1$I (%2$I) VALUES (DEFAULT)'),
    ('UPDATE', 'UPDATE stepwise.%1$I SET %2$I = DEFAULT WHERE false'),
    ('REFERENCES', 'CREATE TABLE test.refers (x %3$s REFERENCES stepwise.%1$I (%2$I))')) AS p (privilege, statement)
WHERE c.relnamespace = 'stepwise'::regnamespace AND (c.relkind = 'r' OR c.relkind = 'v' AND p.privilege = 'SELECT')
    -- To refer to a column, it must be a key: another error comes first.
    AND (p.privilege <> 'REFERENCES' OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL AND i.indkey::text = a.attnum::text));
INSERT INTO test.cell
SELECT l.level, p.privilege, c.relname, p.privilege = 'LOCK' AND c.relname IN ('namespaces', 'queues', 'templates', 'template_steps', 'tasks',
        'transitions', 'slots', 'subscriptions', 'task_transitions', 'step_transitions', 'step_readiness', 'failed_tasks') AND 'reader' = ANY (l.includes),
       test.tried(l.level, format(p.statement, c.relname))
FROM pg_class c CROSS JOIN test.level l
CROSS JOIN (VALUES ('LOCK', 'LOCK TABLE stepwise.%I IN ACCESS SHARE MODE'), ('DELETE', 'DELETE FROM stepwise.%I WHERE false'),
    ('TRUNCATE', 'TRUNCATE stepwise.%I CASCADE'), ('TRIGGER', 'CREATE TRIGGER x BEFORE UPDATE ON stepwise.%I EXECUTE FUNCTION suppress_redundant_updates_trigger()'))
    AS p (privilege, statement)
WHERE c.relnamespace = 'stepwise'::regnamespace AND (c.relkind = 'r' OR c.relkind = 'v' AND p.privilege = 'LOCK');
INSERT INTO test.cell
SELECT l.level, p.privilege, c.relname, p.privilege = 'SELECT' AND c.relname IN ('tasks_task_id_seq', 'transitions_event_id_seq') AND 'reader' = ANY (l.includes),
       test.tried(l.level, format(p.statement, c.relname))
FROM pg_class c CROSS JOIN test.level l
CROSS JOIN (VALUES ('USAGE', 'SELECT nextval(''stepwise.%I'')'), ('SELECT', 'SELECT last_value FROM stepwise.%I'),
    ('UPDATE', 'SELECT setval(''stepwise.%I'', 1)')) AS p (privilege, statement)
WHERE c.relnamespace = 'stepwise'::regnamespace AND c.relkind = 'S';

-- A cell that is not as it was granted: none.
SELECT level, privilege, object, granted, outcome FROM test.cell WHERE granted <> (outcome <> 'denied') ORDER BY level, privilege, object COLLATE "C";
-- Those that could not be tried: nobody has them.
SELECT count(*) AS may_refer FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 CROSS JOIN test.level l
WHERE c.relnamespace = 'stepwise'::regnamespace AND c.relkind = 'r' AND has_column_privilege('regress_rights_' || l.level, c.oid, a.attnum, 'REFERENCES');
-- Nothing can be added to the schema.
SELECT level, test.tried(level, 'CREATE TABLE stepwise.mine ()') AS outcome FROM test.level ORDER BY level;
SELECT privilege, count(*) AS cells, count(*) FILTER (WHERE granted) AS granted FROM test.cell GROUP BY privilege ORDER BY privilege;
SELECT count(*) AS cells, count(*) FILTER (WHERE granted) AS granted, count(DISTINCT object) AS objects FROM test.cell;
\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA test CASCADE;
SELECT count(stepwise.revoke_access('regress_rights_' || level)) FROM (VALUES ('reader'), ('worker'), ('operator'), ('author')) AS l (level) \g /dev/null
DROP ROLE regress_rights_none, regress_rights_reader, regress_rights_worker, regress_rights_operator, regress_rights_author;

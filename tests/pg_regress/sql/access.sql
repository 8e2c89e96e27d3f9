-- Privileges: nothing for PUBLIC; each level may do exactly what the matrix says, tried as a plain role.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_none, regress_reader, regress_worker, regress_operator, regress_author;
RESET client_min_messages;
CREATE ROLE regress_none; CREATE ROLE regress_reader; CREATE ROLE regress_worker; CREATE ROLE regress_operator; CREATE ROLE regress_author;
\set ECHO all

SELECT stepwise.grant_access('regress_reader', 'reader'), stepwise.grant_access('regress_worker', 'worker'),
       stepwise.grant_access('regress_operator', 'operator'), stepwise.grant_access('regress_author', 'author');
CREATE VIEW test.rights AS
SELECT role.level, p.proname AS function,
       has_schema_privilege(role.name, 'stepwise', 'USAGE') AND has_function_privilege(role.name, p.oid, 'EXECUTE') AS may
FROM (VALUES ('none', 'regress_none'), ('reader', 'regress_reader'), ('worker', 'regress_worker'),
             ('operator', 'regress_operator'), ('author', 'regress_author')) AS role (level, name),
     pg_proc p WHERE p.pronamespace = 'stepwise'::regnamespace;
SELECT function, string_agg(level, ' ' ORDER BY level) FILTER (WHERE may) AS may FROM test.rights GROUP BY function ORDER BY function COLLATE "C";
-- A function that is in no line of the matrix, or a line without a function.
SELECT p.proname AS not_in_matrix FROM pg_proc p
WHERE p.pronamespace = 'stepwise'::regnamespace AND p.proname NOT IN (SELECT function_name FROM stepwise.access_matrix);
SELECT function_name AS without_function FROM stepwise.access_matrix
EXCEPT SELECT proname FROM pg_proc WHERE pronamespace = 'stepwise'::regnamespace;
-- Tables, column by column where it is not the whole table.
SELECT c.relname, role.level, p.privilege
FROM pg_class c, (VALUES ('none', 'regress_none'), ('reader', 'regress_reader'), ('worker', 'regress_worker'),
    ('operator', 'regress_operator'), ('author', 'regress_author')) AS role (level, name),
    (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE'), ('REFERENCES'), ('TRIGGER')) AS p (privilege)
WHERE c.relnamespace = 'stepwise'::regnamespace AND c.relkind IN ('r', 'v') AND has_table_privilege(role.name, c.oid, p.privilege)
ORDER BY relname COLLATE "C", level, privilege;
SELECT attname AS hidden_from_readers FROM pg_attribute
WHERE attrelid = 'stepwise.steps'::regclass AND attnum > 0 AND NOT has_column_privilege('regress_reader', attrelid, attnum, 'SELECT');
SELECT count(*) AS sequences_for_anybody FROM pg_class c, (VALUES ('regress_none'), ('regress_author')) AS role (name)
WHERE c.relnamespace = 'stepwise'::regnamespace AND c.relkind = 'S'
    AND (has_sequence_privilege(role.name, c.oid, 'USAGE') OR has_sequence_privilege(role.name, c.oid, 'UPDATE'));

-- An author registers; a worker creates, claims and reports, without any right on a table; a reader sees.
GRANT USAGE, CREATE ON SCHEMA test TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA test TO PUBLIC;
SET ROLE regress_author;
SELECT stepwise.register_template('{"name": "t", "steps": [{"name": "a"}, {"name": "b", "depends_on": "a"}]}');
SET ROLE regress_worker;
SELECT stepwise.create_task('t');
SELECT * FROM test.claim();
SELECT stepwise.extend_lease(test.receipt('a'));
SELECT stepwise.complete_step(test.receipt('a'), '1');
SELECT outcome, step_name FROM stepwise.report_and_claim('w');
SELECT stepwise.next_visible_at() IS NOT NULL AS next;
SELECT r.code, r.message FROM (VALUES ('SELECT count(*) FROM stepwise.tasks'), ('SELECT count(*) FROM stepwise.steps'),
    ('UPDATE stepwise.steps SET state = ''complete'''), ('SELECT stepwise.register_template(''{}'')'),
    ('SELECT * FROM stepwise.get_task_execution_context(1)'), ('SET stepwise.clock_offset = ''1 h'''),
    ('SELECT stepwise.grant_access(''regress_worker'', ''author'')')) AS v (statement), LATERAL test.refused(statement) r;
SET ROLE regress_reader;
SELECT task_id, step_id, name, current_state FROM stepwise.get_step_readiness_status(1);
SELECT status FROM stepwise.get_task_execution_context(1);
SELECT count(*) FROM stepwise.step_transitions;
SELECT task_id, step_id, state FROM stepwise.steps ORDER BY 2;
SELECT r.code, r.message FROM (VALUES ('SELECT claim_token FROM stepwise.steps'), ('SELECT stepwise.create_task(''t'')'),
    ('SELECT * FROM stepwise.claim_steps(''w'')'), ('UPDATE stepwise.steps SET state = ''complete''')) AS v (statement),
    LATERAL test.refused(statement) r;
SET ROLE regress_none;
SELECT r.code, r.message FROM (VALUES ('SELECT stepwise.now()'), ('SELECT * FROM stepwise.tasks')) AS v (statement),
    LATERAL test.refused(statement) r;
RESET ROLE;
-- Who acted, not as whom the function runs.
SELECT requested_by FROM stepwise.tasks;

-- Granted twice, revoked, and another level.
SELECT stepwise.grant_access('regress_reader', 'reader');
SELECT stepwise.revoke_access('regress_author'), stepwise.revoke_access('regress_none');
SELECT count(*) FILTER (WHERE may) AS may FROM test.rights WHERE level = 'author';
SELECT has_table_privilege('regress_author', 'stepwise.tasks', 'SELECT') AS tasks,
       has_any_column_privilege('regress_author', 'stepwise.steps', 'SELECT') AS steps;
SELECT r.* FROM (VALUES ('SELECT stepwise.grant_access(''regress_none'', ''admin'')'),
    ('SELECT stepwise.grant_access(''no such role'', ''reader'')'), ('SELECT stepwise.grant_access(NULL, ''reader'')'),
    ('SELECT stepwise.grant_access(''regress_none'', NULL)'), ('SELECT stepwise.revoke_access(NULL)'),
    ('SELECT stepwise.revoke_access(''no such role'')')) AS v (statement), LATERAL test.refused(statement) r;

-- What runs with the owner's rights has a fixed search_path.
SELECT proname AS unsafe FROM pg_proc WHERE pronamespace = 'stepwise'::regnamespace AND prosecdef
    AND NOT coalesce(proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false);
-- What runs so, and why, stands in docs/security.md: no more and no less.
\set documented `sed -n '/^SECURITY DEFINER, each/,/^CREATE EXTENSION/{/Function/d;s/^| .\([a-z_]*\). | .*/\1/p}' "$PG_ABS_SRCDIR/../../docs/security.md" | paste -sd,`
SELECT coalesce(p.proname, d.name) AS definer, p.proname IS NOT NULL AS is_one, d.name IS NOT NULL AS documented
FROM (SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = 'stepwise'::regnamespace AND prosecdef) AS p
FULL JOIN string_to_table(:'documented', ',') AS d (name) ON d.name = p.proname ORDER BY 1;
-- A dump carries every table and sequence.
SELECT c.relname AS not_dumped FROM pg_class c
WHERE c.relnamespace = 'stepwise'::regnamespace AND c.relkind IN ('r', 'S')
    AND c.oid NOT IN (SELECT unnest(extconfig) FROM pg_extension WHERE extname = 'pg_stepwise');

SET client_min_messages = warning;
DROP SCHEMA test CASCADE;
DROP EXTENSION pg_stepwise;
DROP SCHEMA stepwise;
DROP ROLE regress_none, regress_reader, regress_worker, regress_operator, regress_author;
-- A schema that somebody else has prepared is refused.
\set SHOW_CONTEXT never
CREATE SCHEMA stepwise;
CREATE TABLE stepwise.trap ();
CREATE EXTENSION pg_stepwise;
DROP TABLE stepwise.trap;
-- An operator there that the check itself would use, as it fits better than pg_catalog's, is not called.
CREATE FUNCTION public.trap(oid, regnamespace) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE OPERATOR stepwise.= (LEFTARG = oid, RIGHTARG = regnamespace, FUNCTION = public.trap);
CREATE EXTENSION pg_stepwise;
DROP OPERATOR stepwise.= (oid, regnamespace);
DROP FUNCTION public.trap;
CREATE ROLE regress_trapper;
ALTER SCHEMA stepwise OWNER TO regress_trapper;
CREATE EXTENSION pg_stepwise;
DROP SCHEMA stepwise;
DROP ROLE regress_trapper;
-- So is a database whose texts are not UTF-8.
SELECT current_database() AS here \gset
CREATE DATABASE regress_latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;
\c regress_latin1
\set SHOW_CONTEXT never
CREATE EXTENSION pg_stepwise;
\c :here
DROP DATABASE regress_latin1;

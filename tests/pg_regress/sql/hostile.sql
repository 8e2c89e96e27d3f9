-- Beside hostile objects of the same names, in front of PostgreSQL's own: every operator and function of the usual types, types,
-- tables, temporary tables. Each function of the extension answers what it answers without them, and touches none.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set calls :srcdir /calls.sql
\i :calls
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS evil CASCADE;
RESET client_min_messages;
\set ECHO all

CREATE SCHEMA evil;
CREATE TABLE evil.kind AS SELECT unnest('{int2,int4,int8,float8,numeric,bool,text,name,oid,timestamptz,interval,jsonb,json,uuid,xid8,bytea,regclass,regproc,int4[],int8[],text[],bool[],timestamptz[],jsonb[],uuid[],anyelement,anyarray,anycompatible,anycompatiblearray}'::regtype[]) AS type;
DO $$
DECLARE
    here record;
    made integer := 0;
    left_out integer := 0;
BEGIN
    FOR here IN
        SELECT DISTINCT p.oid, p.proname, p.proretset, pg_get_function_identity_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result
        FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.provariadic = 0 AND p.pronargs <= 4
            AND NOT EXISTS (SELECT FROM unnest(p.proargtypes) AS t WHERE t NOT IN (SELECT type FROM evil.kind))
            AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = p.prorettype AND t.typname IN ('trigger', 'internal', 'event_trigger', 'cstring', 'language_handler', 'fdw_handler', 'index_am_handler', 'tsm_handler', 'table_am_handler'))
            AND (p.prorettype <> 'record'::regtype OR p.proallargtypes IS NULL)
        ORDER BY p.oid
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS ''BEGIN RAISE EXCEPTION ''''touched %s''''; END''', here.proname, here.arguments, here.result, here.proname);
            made := made + 1;
        EXCEPTION WHEN OTHERS THEN
            left_out := left_out + 1;
        END;
    END LOOP;
    FOR here IN
        SELECT o.oprname, o.oprleft::regtype::text AS l, o.oprright::regtype::text AS r, p.proname FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode
        WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft IN (SELECT type FROM evil.kind) AND o.oprright IN (SELECT type FROM evil.kind)
        ORDER BY o.oid
    LOOP
        BEGIN
            EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.%I)', here.oprname, here.l, here.r, here.proname);
            made := made + 1;
        EXCEPTION WHEN OTHERS THEN
            left_out := left_out + 1;
        END;
    END LOOP;
    RAISE NOTICE 'many: %, most: %', made > 1500, made > 10 * left_out;
END
$$;
-- Types and tables.
DO $$
DECLARE
    here record;
BEGIN
    FOR here IN SELECT unnest('{bigint,int8,integer,int4,text,jsonb,interval,timestamptz,boolean,bool,uuid,step_context}'::text[]) AS name LOOP
        EXECUTE format('CREATE DOMAIN evil.%I AS pg_catalog.text CHECK (false)', here.name);
    END LOOP;
    FOR here IN SELECT relname FROM pg_class WHERE relnamespace = 'stepwise'::regnamespace AND relkind IN ('r', 'v') LOOP
        EXECUTE format('CREATE TABLE evil.%I (touched pg_catalog.text)', here.relname);
    END LOOP;
END
$$;

CREATE FUNCTION test.handle(step stepwise.step_context) RETURNS jsonb LANGUAGE sql BEGIN ATOMIC SELECT '1'::jsonb; END;
SELECT stepwise.register_template('{"namespace": "alpha", "name": "flow", "defaults": {"queue": "alpha"}, "steps": [{"name": "alpha_open", "queue": "shared"},
    {"name": "alpha_wait", "kind": "wait"}, {"name": "alpha_sql", "handler": {"sql": "test.handle"}}, {"name": "alpha_end", "depends_on": "alpha_open"}]}');
SELECT stepwise.create_task('flow', identity_key => 'k'), stepwise.create_task('flow'), stepwise.cancel_task(2);
SELECT step_name FROM test.claim('{shared}');

CREATE FUNCTION test.answer(call text, path text) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    answer text;
BEGIN
    PERFORM set_config('search_path', path, true);
    EXECUTE 'SELECT pg_catalog.concat(pg_catalog.json_agg(x)) FROM (' OPERATOR(pg_catalog.||) call OPERATOR(pg_catalog.||) ') AS x' INTO answer;
    RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN OTHERS THEN
    IF SQLSTATE OPERATOR(pg_catalog.<>) 'ZZ000' THEN
        answer := pg_catalog.concat(SQLSTATE, ' ', SQLERRM);
    END IF;
    -- What differs from call to call.
    RETURN pg_catalog.regexp_replace(answer, '[0-9a-f]{8}-[0-9a-f-]{27}|20[0-9-]{8}[T ][0-9:.]+|"(now|next_visible_at|now_sql)":[^}]*|[0-9.]+ (ms|s)\y|"(create_task|register_template)":[0-9]+|"render_task":.*', 'X', 'g');
END
$$;
-- The same calls as those about foreign objects, without what they ask of the answer.
UPDATE test.call SET call = regexp_replace(call, ' (> 0|IS NOT NULL|-> ''namespace'')$| ORDER BY [0-9, ]+$', '');
UPDATE test.call SET call = replace(call, 'count(*)', 'pg_catalog.count(*)');
INSERT INTO test.call VALUES ('now', 'SELECT stepwise.now() IS NULL AS now'), ('now_sql', 'SELECT stepwise.now_sql() IS NULL AS now'),
    ('calculate_backoff', 'SELECT stepwise.calculate_backoff(3)'), ('calculate_backoff_sql', 'SELECT stepwise.calculate_backoff_sql(3, jitter => 0.5)'), ('prometheus_labels', 'SELECT stepwise.prometheus_labels(''{a,b}'', ''{1,2}'')'), ('window_start', 'SELECT stepwise.window_start(NULL, ''1 hour'') IS NOT NULL'),
    ('jitter_sql', 'SELECT stepwise.jitter_sql(1, 2, 3)'), ('simulate_template', 'SELECT * FROM stepwise.simulate_template(''{"name": "t", "steps": [{"name": "a"}]}'')'),
    ('is_sound_step', 'SELECT stepwise.is_sound_step(''pending'', 0, 0)'), ('is_sound_task', 'SELECT stepwise.is_sound_task(''pending'', 1, 1, 0, 0, 0, false)'),
    ('find_violations', 'SELECT * FROM stepwise.find_violations(1, 2)'), ('inject_failure', 'SELECT stepwise.inject_failure(1, ''alpha_open'')'),
    ('advance_clock', 'SELECT stepwise.advance_clock(''0'') IS NULL AS now'), ('wake_queue', 'SELECT stepwise.wake_queue(1)'),
    ('grant_access', 'SELECT stepwise.grant_access(''regress_hostile'', ''author'', ''{alpha}'')'), ('revoke_access', 'SELECT stepwise.revoke_access(''regress_hostile'')');
CREATE ROLE regress_hostile;
SELECT DISTINCT function_name FROM stepwise.access_matrix WHERE function_name NOT IN (SELECT function FROM test.call)
    AND function_name NOT IN (SELECT p.proname FROM pg_proc p WHERE p.prorettype = 'trigger'::regtype);
CREATE TABLE test.filled AS
SELECT c.function, format(c.call, 1, 'alpha_open', 'alpha', (SELECT receipt FROM test.held LIMIT 1), 'alpha', 1, 1) AS call FROM test.call c;
-- A new session each, so that nothing is remembered from the other.
\c
\set VERBOSITY terse
CREATE TABLE test.clean AS SELECT call, test.answer(call, 'pg_catalog') AS answer FROM test.filled;
\c
CREATE TEMP TABLE tasks (t int); CREATE TEMP TABLE steps (t int); CREATE TEMP TABLE templates (t int); CREATE TEMP TABLE namespaces (t int); CREATE TEMP TABLE pg_class (t int); CREATE TEMP TABLE pg_proc (t int);
CREATE TABLE test.hostile AS SELECT call, test.answer(call, 'pg_temp, evil, pg_catalog') AS answer FROM test.filled;
SELECT c.call, c.answer AS clean, h.answer AS hostile FROM test.clean c JOIN test.hostile h USING (call) WHERE h.answer IS DISTINCT FROM c.answer;
SELECT count(*) AS calls, count(*) FILTER (WHERE answer ~ '^[0-9A-Z]{5} ') < 15 AS most_answer FROM test.hostile;
-- So would the callers' own words be touched.
SELECT test.answer('SELECT 1::pg_catalog.int4 = 1::pg_catalog.int4', 'evil, pg_catalog') AS touched;
-- Installed beside them.
\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA test CASCADE;
DROP EXTENSION pg_stepwise;
\set ECHO all
SET search_path = evil, pg_catalog, public;
CREATE EXTENSION pg_stepwise;
SELECT stepwise.register_template('{"name": "t", "steps": [{"name": "a"}]}') AS id, stepwise.create_task('t') AS task;
RESET search_path;
\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA evil CASCADE;
DROP ROLE regress_hostile;

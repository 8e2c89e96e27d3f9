-- A hostile search_path, and temporary objects with the names of ours: never touched.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all

SET client_min_messages = warning;
DROP SCHEMA IF EXISTS evil CASCADE;
RESET client_min_messages;
CREATE SCHEMA evil;
CREATE TABLE evil.touched (what text);
CREATE FUNCTION evil.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.touched VALUES ('unnest'); RETURN QUERY SELECT pg_catalog.unnest($1); END $$;
CREATE FUNCTION evil.eq(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.touched VALUES ('='); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.eq);
CREATE FUNCTION evil.le(timestamptz, timestamptz) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.touched VALUES ('<='); RETURN false; END $$;
CREATE OPERATOR evil.<= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.le);
CREATE TABLE evil.steps (task_id bigint);
SET search_path = evil, pg_catalog, pg_temp, public;
CREATE TEMP TABLE steps (task_id bigint); CREATE TEMP TABLE tasks (task_id bigint); CREATE TEMP TABLE pg_class (oid oid);
SELECT test.template('line', 'a > b') IS NOT NULL AS registered;
SELECT stepwise.create_task('line', identity_key => 'k') OPERATOR(pg_catalog.=) 1::bigint AS created;
SELECT step_name FROM test.claim();
SELECT stepwise.complete_step(test.receipt('a'));
UPDATE stepwise.steps SET state = 'in_progress' WHERE state OPERATOR(pg_catalog.=) 'pending';
UPDATE stepwise.steps SET state = 'error' WHERE state OPERATOR(pg_catalog.=) 'in_progress';
SELECT ready_steps, status FROM stepwise.get_task_execution_context(1);
SELECT name, current_state FROM stepwise.get_step_readiness_status(1);
SELECT stepwise.next_visible_at() IS NOT NULL AS next;
RESET search_path;
SELECT * FROM evil.touched;
-- Installed under that path too.
SET client_min_messages = warning;
DROP SCHEMA test CASCADE;
DROP EXTENSION pg_stepwise;
SET search_path = evil, pg_catalog, public;
CREATE EXTENSION pg_stepwise;
SELECT stepwise.register_template('{"name": "t", "steps": [{"name": "a"}]}') AS id, stepwise.create_task('t') AS task;
RESET search_path;
SELECT * FROM evil.touched;
DROP SCHEMA evil CASCADE;

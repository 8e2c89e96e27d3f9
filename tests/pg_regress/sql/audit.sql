-- The audit: a task's history as a list, and the states that it amounts to, which are those of the rows after any walk.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
-- Rows that say something else than the history, whole rows both ways round.
CREATE VIEW test.not_rebuilt AS
WITH rebuilt AS (
    SELECT t.task_id, r.* FROM stepwise.tasks t, LATERAL stepwise.rebuild_task_state(t.task_id) r
), stored AS (
    SELECT task_id, NULL::integer AS step_id, state, NULL::integer AS attempts, NULL::timestamptz AS last_attempted_at,
           NULL::timestamptz AS last_failure_at, started_at, finished_at FROM stepwise.tasks
    UNION ALL
    SELECT task_id, step_id, state, attempts, last_attempted_at, last_failure_at, NULL, finished_at FROM stepwise.steps
)
(TABLE rebuilt EXCEPT ALL TABLE stored) UNION ALL (TABLE stored EXCEPT ALL TABLE rebuilt);
CREATE VIEW test.rebuilt AS
SELECT t.task_id, r.step_id, r.state, r.attempts AS att, r.last_attempted_at IS NOT NULL AS tried, r.last_failure_at IS NOT NULL AS failed,
       r.started_at IS NOT NULL AS started, r.finished_at IS NOT NULL AS fin
FROM stepwise.tasks t, LATERAL stepwise.rebuild_task_state(t.task_id) r;
\set ECHO all

-- Nothing has happened yet: every step is pending.
SELECT test.template('line', 'a > b', '{"namespace": "l", "defaults": {"retry_limit": 3}}');
SELECT stepwise.create_task('line');
SELECT event_id, step_id, subject, from_state, to_state, attempt, worker, actor, metadata, at = (SELECT created_at FROM stepwise.tasks) AS same_time
FROM stepwise.task_history(1);
SELECT step_id, state, att, tried, failed, started, fin FROM test.rebuilt;
SELECT count(*) AS differences FROM test.not_rebuilt;

-- Claims, failures with all that a worker may say, releases, an expired lease.
SELECT count(*) FROM test.claim('{l}');
SELECT stepwise.fail_step(test.receipt('a'), '{"code": 500}', retry_after => '10 minutes');
SELECT count(*) AS differences FROM test.not_rebuilt;
SELECT stepwise.release_backoff(1, 'it is back', 'ann');
SELECT count(*) FROM test.claim('{l}');
SELECT stepwise.release_step(test.receipt('a'));
SELECT step_id, state, att, tried, failed FROM test.rebuilt;
SELECT count(*) FROM test.claim('{l}');
SELECT count(*) AS differences FROM test.not_rebuilt;
SET stepwise.clock_offset = '2 minutes';
SELECT attempt FROM test.claim('{l}', worker => 'w2');
SELECT count(*) AS differences FROM test.not_rebuilt;
SELECT stepwise.fail_step(test.receipt('a'), '"no"', retryable => true);
-- Failed for good; reset gives all attempts back and keeps the times of what was.
SELECT state FROM stepwise.tasks;
SELECT step_id, state, att, tried, failed, started, fin FROM test.rebuilt;
SELECT stepwise.reset_step(1, 'a', 'found the reason', 'ann');
SELECT step_id, state, att, tried, failed, started, fin FROM test.rebuilt;
SELECT count(*) AS differences FROM test.not_rebuilt;
-- Backoffs by hand, before and after an attempt.
SELECT stepwise.set_backoff(1, 'a', '5 seconds', 'not yet');
SET stepwise.clock_offset = '3 minutes';
SELECT count(*) FROM test.claim('{l}');
SELECT stepwise.fail_step(test.receipt('a'));
SELECT stepwise.set_backoff(1, 'a', '1 hour');
SELECT stepwise.release_backoff(1);
SELECT count(*) FROM test.claim('{l}');
SELECT stepwise.complete_step(test.receipt('a'), '1');
SELECT count(*) FROM test.claim('{l}');
SELECT stepwise.complete_step(test.receipt('b'), '2');
SELECT step_id, subject, from_state, to_state, attempt, worker, actor, metadata FROM stepwise.task_history(1);
SELECT step_id, state, att, tried, failed, started, fin FROM test.rebuilt;
SELECT count(*) AS differences FROM test.not_rebuilt;
RESET stepwise.clock_offset;

-- Bypassed from the start, wholly or in part; cancelled with its descendants; skipped; resolved; ended by hand.
SELECT test.template('fork', 'a > b, b > c, a > d', '{"namespace": "f", "defaults": {"skippable": true, "retry_limit": 1}}');
SELECT stepwise.create_task('fork', bypass_steps => '{a}') AS some, stepwise.create_task('fork', bypass_steps => '{a,b,c,d}') AS all_of_them;
SELECT task_id, step_id, state, att, started, fin FROM test.rebuilt WHERE task_id IN (2, 3);
SELECT stepwise.cancel_step(2, 'b', 'not wanted', 'bob');
SELECT subject, from_state, to_state, actor, metadata FROM stepwise.task_history(2);
SELECT count(*) AS differences FROM test.not_rebuilt;
SELECT stepwise.create_task('fork') AS skipped, stepwise.create_task('fork') AS cancelled, stepwise.create_task('fork') AS ended, stepwise.create_task('fork') AS failed;
UPDATE stepwise.steps SET state = 'skipped' WHERE task_id = 4 AND step_id = 1;
SELECT stepwise.cancel_task(5, 'withdrawn');
UPDATE stepwise.tasks SET state = 'resolved_manually' WHERE task_id = 6;
SELECT task_id, step_id, state, att, fin FROM test.rebuilt WHERE task_id BETWEEN 4 AND 6;
SELECT count(*) AS differences FROM test.not_rebuilt;
SELECT task_id, step_name FROM test.claim('{f}');
SELECT stepwise.complete_step(test.receipt('d', 2));
SELECT task_id FROM test.claim('{f}');
SELECT stepwise.fail_step(test.receipt('a', 7));
SELECT state FROM stepwise.tasks WHERE task_id = 7;
SELECT stepwise.retry_task(7, 'again');
SELECT task_id FROM test.claim('{f}');
SELECT stepwise.fail_step(test.receipt('a', 7), retryable => false);
SELECT count(*) AS differences FROM test.not_rebuilt;
SELECT stepwise.resolve_step(7, 'a', '{}');
SELECT step_name FROM test.claim('{f}', 9);
SELECT step_id, state, att, tried, failed, started, fin FROM test.rebuilt WHERE task_id = 7;
SELECT count(*) AS differences FROM test.not_rebuilt;
-- By hand, as an ORM does it.
UPDATE stepwise.steps SET state = 'error', error = '"by hand"', backoff_request_seconds = 5 WHERE task_id = 7 AND state = 'in_progress';
UPDATE stepwise.steps SET state = 'cancelled' WHERE task_id = 7 AND state = 'pending';
SELECT subject, from_state, to_state, attempt, actor IS NOT NULL AS actor, metadata FROM stepwise.task_history(7) WHERE event_id > 40;
SELECT count(*) AS differences FROM test.not_rebuilt;
SELECT * FROM stepwise.verify();
-- Resolving the last failed step ends its task by legal changes, one after the other.
SELECT stepwise.create_task('fork', bypass_steps => '{b,c,d}') AS task_id \gset
SELECT count(*) FROM test.claim('{f}');
SELECT stepwise.fail_step(test.receipt('a'));
SELECT stepwise.resolve_step(:task_id, 'a');
SELECT state FROM stepwise.tasks WHERE task_id = :task_id;
SELECT count(*) AS differences FROM test.not_rebuilt;
SELECT * FROM stepwise.verify();

-- A step put into error by hand while it waits for its parents rests until its backoff ends, also when they are done.
SELECT stepwise.create_task('line') AS task_id \gset
UPDATE stepwise.steps SET state = 'error', backoff_request_seconds = 3600 WHERE task_id = :task_id AND step_id = 2;
SELECT * FROM stepwise.verify(:task_id);
SELECT count(*) FROM test.claim('{l}');
SELECT stepwise.complete_step(test.receipt('a'));
SELECT name, state, visible FROM test.steps WHERE task_id = :task_id;
SELECT * FROM stepwise.verify(:task_id);

-- No such task; nothing is asked.
SELECT count(*) AS none FROM stepwise.task_history(99);
SELECT count(*) AS none FROM stepwise.rebuild_task_state(99);
SELECT count(*) AS none FROM stepwise.get_step_readiness_status_sql(99);
SELECT count(*) AS none FROM stepwise.verify(99);
SELECT count(*) AS none FROM stepwise.task_history(NULL);
SELECT count(*) AS none FROM stepwise.rebuild_task_state(NULL);
SELECT count(*) AS none FROM stepwise.get_step_readiness_status_sql(NULL);

-- In a read-only transaction, without a transaction id.
BEGIN READ ONLY;
SELECT count(*) > 0 AS rows FROM stepwise.task_history(1);
SELECT count(*) > 0 AS rows FROM stepwise.rebuild_task_state(1);
SELECT count(*) > 0 AS rows FROM stepwise.get_step_readiness_status_sql(1);
SELECT count(*) > 0 AS rows FROM stepwise.step_readiness;
SELECT count(*) AS rows FROM stepwise.verify();
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_transaction_id;
COMMIT;

-- A reader may ask all of it and sees no token; nobody else may.
\set ECHO none
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_auditor;
RESET client_min_messages;
CREATE ROLE regress_auditor;
GRANT USAGE ON SCHEMA test TO regress_auditor;
\set ECHO all
SET ROLE regress_auditor;
SELECT r.code, r.message FROM (VALUES ('stepwise.verify()'), ('stepwise.task_history(1)'), ('stepwise.rebuild_task_state(1)'),
    ('stepwise.get_step_readiness_status_sql(1)'), ('stepwise.step_readiness')) AS v (source), LATERAL test.refused('SELECT FROM ' || source) r;
RESET ROLE;
SELECT stepwise.grant_access('regress_auditor', 'reader');
SET ROLE regress_auditor;
SELECT count(*) > 0 AS rows FROM stepwise.task_history(1);
SELECT count(*) > 0 AS rows FROM stepwise.rebuild_task_state(1);
SELECT count(*) > 0 AS rows FROM stepwise.get_step_readiness_status_sql(1);
SELECT count(*) > 0 AS rows FROM stepwise.step_readiness WHERE task_id = 1;
SELECT count(*) AS rows FROM stepwise.verify();
SELECT r.code, r.message FROM test.refused('SELECT FROM stepwise.find_violations(1, 1)') r;
RESET ROLE;
SELECT stepwise.revoke_access('regress_auditor');
REVOKE USAGE ON SCHEMA test FROM regress_auditor;
DROP ROLE regress_auditor;

-- Where the library is not loaded, its settings do not exist: only the comparison with the native answer loads it.
\connect -
SELECT count(*) > 0 AS rows FROM stepwise.task_history(1);
SELECT count(*) > 0 AS rows FROM stepwise.rebuild_task_state(1);
SELECT count(*) > 0 AS rows FROM stepwise.get_step_readiness_status_sql(1);
SELECT count(*) > 0 AS rows FROM stepwise.step_readiness;
SELECT count(*) AS settings FROM pg_settings WHERE name LIKE 'stepwise.%';
SET stepwise.clock_offset = '1 day 2 hours';
SELECT stepwise.now_sql() - clock_timestamp() BETWEEN '25:59' AND '26:01' AS moved;
SELECT stepwise.now() - stepwise.now_sql() BETWEEN '-10 s' AND '10 s' AS same_clock;
SELECT bool_and(stepwise.now() - stepwise.now_sql() BETWEEN '-10 s' AND '10 s') AS same_clock
FROM unnest('{"",0,7,-2.5 seconds,90 minutes,1h 30m,2 days 01:30:00,PT1M,1 week,1 hour ago,250ms,-36:00:00}'::text[]) AS o, LATERAL set_config('stepwise.clock_offset', o, false) c;
RESET stepwise.clock_offset;

-- The backoff in SQL is the native one to the microsecond.
SELECT attempts, stepwise.calculate_backoff_sql(attempts) FROM unnest('{-1,0,1,2,3,4,5,6,2147483647}'::integer[]) AS attempts;
SELECT count(*) AS differences
FROM generate_series(-1, 66) AS attempts, unnest('{0,0.1,0.3333,1,7}'::float8[]) AS jitter, unnest('{0,1,12345678,9223372036854775807,-1,-9223372036854775808}'::bigint[]) AS task,
     unnest('{0 s,1 us,1 s,1.5 s,17 h}'::interval[]) AS base, unnest('{0 s,30 s,1000 days}'::interval[]) AS cap, generate_series(1, 1048575, 524287) AS step
WHERE stepwise.calculate_backoff(attempts, base, cap, jitter, task, step) IS DISTINCT FROM stepwise.calculate_backoff_sql(attempts, base, cap, jitter, task, step);
SELECT stepwise.calculate_backoff_sql(NULL) IS NULL AS strict;
SELECT bool_and(u >= 0 AND u < 1) AS in_range, count(DISTINCT u) FROM generate_series(1, 1000) n, stepwise.jitter_sql(n, 1, 1) u;

-- A hostile search_path reaches none of it.
\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS evil CASCADE;
RESET client_min_messages;
CREATE SCHEMA evil;
CREATE FUNCTION evil.eq(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'touched'; END $$;
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.eq);
CREATE FUNCTION evil.plus(numeric, numeric) RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN RAISE 'touched'; END $$;
CREATE OPERATOR evil.+ (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = evil.plus);
\set ECHO all
SET search_path = evil, pg_catalog, pg_temp;
CREATE TEMP TABLE steps (task_id bigint); CREATE TEMP TABLE transitions (task_id bigint);
SELECT count(*) AS rows FROM stepwise.task_history(7);
SELECT count(*) AS rows FROM stepwise.rebuild_task_state(7);
SELECT count(*) AS rows FROM stepwise.get_step_readiness_status_sql(7);
SELECT count(*) AS rows FROM stepwise.verify();
SELECT stepwise.jitter_sql(1, 1, 1) > 0 AS hashed, stepwise.calculate_backoff_sql(1, jitter => 0.5) > '2 s' AS jittered;
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA evil CASCADE;

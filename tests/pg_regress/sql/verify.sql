-- verify: sound data have no row; where the triggers are off, each kind of damage is reported, in the task it is in and
-- nowhere else, and is gone when it is put back.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
-- What verify says after a statement under session_replication_role = replica, which is rolled back then. Details that
-- hold times are left out. Asked for all tasks; the answers for each task alone must add up to the same.
CREATE FUNCTION test.damage(statement text) RETURNS TABLE (invariant text, task bigint, step integer, detail text)
LANGUAGE plpgsql AS $$
DECLARE
    found jsonb;
    one_by_one jsonb;
BEGIN
    BEGIN
        SET LOCAL session_replication_role = replica;
        EXECUTE statement;
        SET LOCAL session_replication_role = origin;
        SELECT jsonb_agg(v) INTO found FROM stepwise.verify() v;
        SELECT jsonb_agg(v ORDER BY v.task_id, v.step_id NULLS FIRST, v.invariant COLLATE "C", v.detail COLLATE "C") INTO one_by_one
        FROM (SELECT task_id FROM stepwise.tasks UNION SELECT task_id FROM stepwise.steps UNION SELECT task_id FROM stepwise.transitions) t,
             LATERAL stepwise.verify(t.task_id) v;
        RAISE EXCEPTION USING ERRCODE = 'ZZ999', MESSAGE = 'put back';
    EXCEPTION WHEN SQLSTATE 'ZZ999' THEN NULL;
    END;
    RETURN QUERY
    SELECT v.invariant, v.task_id, v.step_id, CASE WHEN v.invariant NOT IN ('rebuild', 'readiness') THEN v.detail END
    FROM jsonb_to_recordset(found) AS v (invariant text, task_id bigint, step_id integer, detail text)
    ORDER BY v.task_id, v.step_id NULLS FIRST, v.invariant COLLATE "C", v.detail COLLATE "C";
    IF (SELECT count(*) FROM jsonb_array_elements(found)) IS DISTINCT FROM (SELECT count(*) FROM jsonb_array_elements(one_by_one)) THEN
        RETURN QUERY SELECT 'ONE BY ONE: ' || jsonb_pretty(one_by_one), NULL::bigint, NULL::integer, NULL::text;
    END IF;
    IF EXISTS (SELECT FROM stepwise.verify()) THEN
        RETURN QUERY SELECT 'NOT PUT BACK', NULL::bigint, NULL::integer, NULL::text;
    END IF;
END
$$;
\set ECHO all

-- Tasks in every situation: 1 runs, 2 is complete, 3 has failed, 4 is cancelled, 5 waits for a backoff, 6 is untouched.
SELECT test.template('vee', 'a > c, b > c, c > d', '{"namespace": "v"}');
SELECT stepwise.create_tasks('vee', '{"{}","{}","{}","{}","{}"}');
SELECT count(*) FROM test.claim('{v}', 10);
SELECT stepwise.complete_step(test.receipt('a', 1), '{"of": "a"}');
SELECT count(*) AS accepted FROM stepwise.complete_steps(ARRAY[test.receipt('a', 2), test.receipt('b', 2)]);
SELECT stepwise.fail_step(test.receipt('a', 3), retryable => false), stepwise.complete_step(test.receipt('b', 3));
SELECT stepwise.cancel_task(4);
SELECT count(*) FROM test.claim('{v}');
SELECT stepwise.complete_step(test.receipt('c', 2));
SELECT count(*) FROM test.claim('{v}');
SELECT stepwise.fail_step(test.receipt('d', 2));
SELECT stepwise.set_backoff(2, 'd', '0 s'), stepwise.release_backoff(2);
SELECT count(*) FROM test.claim('{v}');
SELECT stepwise.complete_step(test.receipt('d', 2));
SELECT stepwise.fail_step(test.receipt('a', 5), '"later"', retry_after => '1 hour'), stepwise.release_step(test.receipt('b', 5));
SELECT stepwise.create_task('vee', run_at => stepwise.now() + interval '1 day', priority => 7);
SELECT * FROM test.tasks;
SELECT task_id, name, state, att, waits, visible FROM test.steps;
SELECT * FROM stepwise.verify();

-- 1. Parents first.
SELECT * FROM test.damage($$UPDATE stepwise.transitions SET event_id = 1000 + event_id WHERE task_id = 2 AND step_id = 1 AND to_state = 'complete'$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET state = 'in_progress', attempts = 1, claim_token = 7, visible_at = 'infinity' WHERE task_id = 1 AND step_id = 3$$);

-- 2. remaining_parents.
SELECT * FROM test.damage($$UPDATE stepwise.steps SET remaining_parents = 2 WHERE task_id = 1 AND step_id = 3$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET remaining_parents = 0 WHERE task_id = 6 AND step_id = 4$$);

-- 3. Visibility: ready but invisible, waiting but visible, over but visible, running without a lease.
SELECT * FROM test.damage($$UPDATE stepwise.steps SET visible_at = NULL WHERE task_id = 6 AND step_id = 1$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET visible_at = '2020-01-01' WHERE task_id = 6 AND step_id = 4$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET visible_at = '2020-01-01' WHERE task_id = 2 AND step_id = 1$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET visible_at = '2020-01-01' WHERE task_id = 3 AND step_id = 1$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET visible_at = NULL WHERE task_id = 1 AND step_id = 2$$);

-- 4. Tokens.
SELECT * FROM test.damage($$UPDATE stepwise.steps SET claim_token = NULL WHERE task_id = 1 AND step_id = 2$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET claim_token = NULL WHERE task_id = 1 AND step_id = 1$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET claim_token = NULL WHERE task_id = 5 AND step_id = 1$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET claim_token = 5 WHERE task_id = 5 AND step_id = 2$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET claim_token = 5 WHERE task_id = 4 AND step_id = 1$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET claim_token = -1 WHERE task_id = 1 AND step_id = 2$$);

-- 5. Counters, each of them.
SELECT r.* FROM unnest('{total_steps + 1,live_steps + 1,completed_steps + 1,failed_steps + 1,cancelled_steps + 1}'::text[]) AS c,
    LATERAL test.damage(format('UPDATE stepwise.tasks SET %s = %s WHERE task_id = 1', split_part(c, ' ', 1), c)) r;

-- 6. Liveness: open without a live step, ended with one.
SELECT * FROM test.damage($$UPDATE stepwise.steps SET visible_at = NULL WHERE task_id = 6; UPDATE stepwise.tasks SET live_steps = 0 WHERE task_id = 6$$);
SELECT * FROM test.damage($$UPDATE stepwise.tasks SET state = 'cancelled', finished_at = now() WHERE task_id = 1$$);

-- 7. Outcome: ended otherwise than its steps say; resolved by hand is an end too.
SELECT * FROM test.damage($$UPDATE stepwise.tasks SET state = 'cancelled' WHERE task_id = 2$$);
SELECT * FROM test.damage($$UPDATE stepwise.tasks SET state = 'complete' WHERE task_id = 3$$);
SELECT * FROM test.damage($$UPDATE stepwise.tasks SET state = 'error' WHERE task_id = 4$$);
SELECT * FROM test.damage($$UPDATE stepwise.tasks SET state = 'resolved_manually' WHERE task_id = 4; UPDATE stepwise.transitions SET to_state = 'resolved_manually' WHERE task_id = 4 AND step_id IS NULL AND to_state = 'cancelled'$$);

-- 8. Attempts: other than in the history, beyond the limit, given up too early.
SELECT * FROM test.damage($$UPDATE stepwise.steps SET attempts = 2 WHERE task_id = 1 AND step_id = 2$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET attempts = 4 WHERE task_id = 5 AND step_id = 1$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET visible_at = NULL WHERE task_id = 5 AND step_id = 1; UPDATE stepwise.tasks SET live_steps = live_steps - 1 WHERE task_id = 5$$);
SELECT * FROM test.damage($$INSERT INTO stepwise.transitions (event_id, task_id, at, step_id, from_state, to_state) SELECT 1000 + n, 1, now(), 2, f, t
    FROM (VALUES (1, 'in_progress', 'error'), (2, 'error', 'in_progress'), (3, 'in_progress', 'error'), (4, 'error', 'in_progress'), (5, 'in_progress', 'error'), (6, 'error', 'in_progress')) AS v (n, f, t);
    UPDATE stepwise.steps SET attempts = 4, last_attempted_at = now(), last_failure_at = now() WHERE task_id = 1 AND step_id = 2$$);

-- 9. History: a row missing, one that starts elsewhere, an illegal change, another end, no beginning, an empty change.
SELECT * FROM test.damage($$DELETE FROM stepwise.transitions WHERE task_id = 2 AND step_id = 3 AND to_state = 'in_progress'$$);
SELECT * FROM test.damage($$UPDATE stepwise.transitions SET from_state = 'error' WHERE task_id = 2 AND step_id = 3 AND to_state = 'in_progress'$$);
SELECT * FROM test.damage($$INSERT INTO stepwise.transitions (event_id, task_id, at, step_id, from_state, to_state) VALUES (1000, 2, now(), 3, 'complete', 'error'), (1001, 2, now(), 3, 'error', 'in_progress')$$);
SELECT * FROM test.damage($$UPDATE stepwise.transitions SET to_state = 'cancelled' WHERE task_id = 2 AND step_id = 3 AND to_state = 'complete'$$);
SELECT * FROM test.damage($$DELETE FROM stepwise.transitions WHERE task_id = 6$$);
SELECT * FROM test.damage($$UPDATE stepwise.transitions SET from_state = 'pending', to_state = 'pending' WHERE task_id = 6$$);
SELECT * FROM test.damage($$UPDATE stepwise.transitions SET from_state = 'error', to_state = 'complete' WHERE task_id = 3 AND step_id IS NULL AND to_state = 'error'$$);
SELECT * FROM test.damage($$UPDATE stepwise.transitions SET metadata = NULL WHERE task_id = 2 AND from_state = to_state$$);
SELECT * FROM test.damage($$UPDATE stepwise.transitions SET metadata = '{"backoff_seconds": "soon", "retryable": 3}' WHERE task_id = 5 AND to_state = 'error'$$);

-- 10. Results where there can be none; completed twice.
SELECT * FROM test.damage($$UPDATE stepwise.steps SET results = '1' WHERE task_id = 6 AND step_id = 1$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET results = '1' WHERE task_id = 4 AND step_id = 1$$);
SELECT * FROM test.damage($$INSERT INTO stepwise.transitions (event_id, task_id, at, step_id, from_state, to_state)
    SELECT 1000, 2, finished_at, 3, 'in_progress', 'complete' FROM stepwise.steps WHERE task_id = 2 AND step_id = 3$$);

-- 11. Template: a step too few, one too many, of another template, in another queue, of another priority.
SELECT test.template('other', 'a > b', '{"namespace": "w"}');
SELECT * FROM test.damage($$DELETE FROM stepwise.steps WHERE task_id = 6 AND step_id = 4$$);
SELECT * FROM test.damage($$INSERT INTO stepwise.steps (task_id, template_id, queue_id, step_id, remaining_parents) VALUES (6, 1, 1, 5, 0)$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET template_id = 2 WHERE task_id = 6 AND step_id = 4$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET queue_id = 2 WHERE task_id = 6 AND step_id = 4$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET priority = 8 WHERE task_id = 6 AND step_id = 4$$);
SELECT * FROM test.damage($$UPDATE stepwise.tasks SET template_id = 2 WHERE task_id = 6$$);

-- 12. Limits: steps in progress without a place, places of steps that are pending, at their end or not there. A place beyond
-- the limit is no damage by itself: a limit may be lowered below what is in progress.
SELECT test.template('limited', 'a, b, c', '{"namespace": "l", "max_parallel_steps": 2, "concurrency_key": "/k", "max_per_key": 2}');
SELECT stepwise.create_task('limited', '{"k": "x"}'), stepwise.set_queue_limit('l', 2);
SELECT step_name FROM test.claim('{l}') UNION ALL SELECT step_name FROM test.claim('{l}') UNION ALL SELECT step_name FROM test.claim('{l}');
SELECT kind, number, task_id, step_id FROM stepwise.slots ORDER BY kind COLLATE "C", number;
SELECT r.* FROM unnest('{queue,task,key}'::text[]) AS k, LATERAL test.damage(format('DELETE FROM stepwise.slots WHERE kind = %L AND step_id = 1', k)) r;
SELECT * FROM test.damage($$UPDATE stepwise.slots SET step_id = 3 WHERE kind = 'key' AND step_id = 2$$);
SELECT * FROM test.damage($$UPDATE stepwise.slots SET task_id = 2, step_id = 4 WHERE kind = 'task' AND step_id = 2$$);
SELECT * FROM test.damage($$UPDATE stepwise.slots SET task_id = 2 WHERE kind = 'queue'$$);
SELECT * FROM test.damage($$INSERT INTO stepwise.slots (kind, owner_id, key, number, task_id, step_id) SELECT kind, owner_id, key, 3, 7, 4 FROM stepwise.slots WHERE kind = 'queue' AND number = 1$$);
SELECT stepwise.set_queue_limit('l', 1);
SELECT kind, number, task_id, step_id FROM stepwise.slots WHERE kind = 'queue' ORDER BY number;
SELECT * FROM stepwise.verify();

-- What foreign keys would say.
SELECT * FROM test.damage($$DELETE FROM stepwise.tasks WHERE task_id = 6$$);
SELECT * FROM test.damage($$DELETE FROM stepwise.steps WHERE task_id = 2$$);
SELECT * FROM test.damage($$DELETE FROM stepwise.tasks WHERE task_id = 4; DELETE FROM stepwise.steps WHERE task_id = 4$$);
SELECT * FROM test.damage($$UPDATE stepwise.tasks SET template_id = 77 WHERE task_id = 6$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET queue_id = 77 WHERE task_id = 6 AND step_id = 1$$);
SELECT * FROM test.damage($$UPDATE stepwise.templates SET namespace_id = 77 WHERE template_id = (SELECT template_id FROM stepwise.tasks WHERE task_id = 6)$$);

-- Rows that differ from the history in a time alone.
SELECT r.* FROM unnest('{last_attempted_at,last_failure_at,finished_at}'::text[]) AS c,
    LATERAL test.damage(format($$UPDATE stepwise.steps SET %1$I = %1$I + interval '1 us' WHERE task_id = 2 AND step_id = 4$$, c)) r;
SELECT r.* FROM unnest('{started_at,finished_at}'::text[]) AS c,
    LATERAL test.damage(format($$UPDATE stepwise.tasks SET %1$I = %1$I + interval '1 us' WHERE task_id = 2$$, c)) r;

-- Readiness: what only the native answer knows has no ground in the history.
SELECT * FROM test.damage($$UPDATE stepwise.steps SET backoff_request_seconds = 9 WHERE task_id = 5 AND step_id = 1$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET backoff_request_seconds = NULL WHERE task_id = 5 AND step_id = 1$$);
SELECT * FROM test.damage($$UPDATE stepwise.steps SET retryable = true WHERE task_id = 3 AND step_id = 1$$);

-- All of it is put back. Where the triggers are on, the damage is refused or logged, and there is nothing to report.
SELECT * FROM stepwise.verify();
SELECT r.code, r.message FROM (VALUES ('UPDATE stepwise.steps SET remaining_parents = 2 WHERE task_id = 1 AND step_id = 3'), ('UPDATE stepwise.steps SET visible_at = NULL WHERE task_id = 6 AND step_id = 1'),
    ('UPDATE stepwise.tasks SET live_steps = 9 WHERE task_id = 1'), ('UPDATE stepwise.tasks SET state = ''complete'' WHERE task_id = 1'), ('DELETE FROM stepwise.steps'),
    ('UPDATE stepwise.steps SET state = ''complete'' WHERE task_id = 6'), ('DELETE FROM stepwise.transitions')) AS v (statement), LATERAL test.refused(statement) r;
UPDATE stepwise.steps SET state = 'error' WHERE task_id = 1 AND step_id = 2;
SELECT * FROM stepwise.verify();

-- A task that ran out of time and was then closed by hand is as sound as any.
SELECT test.template('late', 'a', '{"namespace": "d", "timeout": "1 min"}');
SELECT stepwise.create_task('late') AS late \gset
SET stepwise.clock_offset = '2 min';
SELECT ended_tasks FROM stepwise.tick();
UPDATE stepwise.tasks SET state = 'cancelled' WHERE task_id = :late;
SELECT state, timed_out FROM stepwise.tasks WHERE task_id = :late;
SELECT * FROM stepwise.verify();

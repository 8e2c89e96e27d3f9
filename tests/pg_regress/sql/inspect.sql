-- Why a step does not move: each reason, in order, or its rank in the queue; levels; the critical path.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
-- Explains a step, tries to claim it, and says whether both agree.
CREATE FUNCTION test.why(task bigint, step text) RETURNS TABLE (reason text, detail text, until text, rank bigint, agrees boolean)
LANGUAGE plpgsql AS $$
DECLARE
    said boolean := EXISTS (SELECT FROM stepwise.explain_step(task, step) e WHERE e.reason = 'claimable');
    taken boolean;
BEGIN
    BEGIN
        taken := EXISTS (SELECT FROM stepwise.claim_steps('probe', NULL, 1000) c WHERE c.task_id = task AND c.step_name = step);
        RAISE EXCEPTION USING ERRCODE = 'T0001';
    EXCEPTION WHEN SQLSTATE 'T0001' THEN
        NULL;
    END;
    RETURN QUERY SELECT e.reason, e.detail, ceil(extract(epoch FROM e.until - stepwise.now()))::text || ' s', e.rank, said = taken
        FROM stepwise.explain_step(task, step) e ORDER BY position;
END
$$;
\set ECHO all

SELECT test.template('vee', 'a > c, b > c', '{"defaults": {"retry_limit": 2}}');
SELECT stepwise.create_tasks('vee', '{"{}","{}"}');
SELECT * FROM test.why(1, 'a');
SELECT * FROM test.why(2, 'b');
SELECT * FROM test.why(1, 'c');
SELECT * FROM stepwise.explain_step(1, 3);
SELECT step_name FROM test.claim(max_steps => 2, lease => '100 s', worker => 'ann');
SELECT * FROM test.why(1, 'a');
SELECT stepwise.complete_step(test.receipt('b'));
SELECT stepwise.fail_step(test.receipt('a'), retry_after => '50 s');
SELECT * FROM test.why(1, 'a');
SELECT * FROM test.why(1, 'b');
SELECT * FROM test.why(1, 'c');
SELECT stepwise.set_backoff(2, 'a', '70 s');
SELECT * FROM test.why(2, 'a');
UPDATE stepwise.queues SET paused = true;
SELECT * FROM test.why(2, 'a');
SELECT * FROM test.why(2, 'b');
UPDATE stepwise.queues SET paused = false;
SET stepwise.clock_offset = '60 s';
SELECT * FROM test.why(1, 'a');
SELECT step_name, attempt FROM test.claim(lease => '30 s', worker => 'bob');
SELECT task_id, step_name, attempt FROM test.claim(lease => '30 s', worker => 'bob');
SET stepwise.clock_offset = '95 s';
-- Leases are over: the second attempt was the last of one, the first of the other.
SELECT * FROM test.why(1, 'a');
SELECT * FROM test.why(2, 'b');
SELECT count(*) FROM test.claim();
SELECT * FROM test.why(1, 'a');
SELECT * FROM test.why(1, 'c');
RESET stepwise.clock_offset;
SELECT stepwise.cancel_task(2);
SELECT * FROM test.why(2, 'a');
SELECT stepwise.create_task('vee', run_at => stepwise.now() + interval '1 hour') AS task_id \gset
SELECT * FROM test.why(:task_id, 'a');
SELECT stepwise.create_task('vee', run_at => 'infinity') AS task_id \gset
SELECT reason, detail, until FROM stepwise.explain_step(:task_id, 'a');
SELECT reason, detail, until FROM stepwise.explain_step(:task_id, 'c');
SELECT * FROM stepwise.verify(:task_id);
SELECT stepwise.register_template('{"name": "odd", "steps": [{"name": "manual", "retry_limit": 0}, {"name": "once", "retryable": false, "priority": 5}, {"name": "other"}]}') > 0 AS ok;
SELECT stepwise.create_task('odd') AS task_id \gset
SELECT * FROM test.why(:task_id, 'manual');
SELECT * FROM test.why(:task_id, 'once');
SELECT rank FROM stepwise.explain_step(:task_id, 'other');
SELECT step_name FROM test.claim('{default}');
SELECT stepwise.fail_step(test.receipt('once'));
SELECT * FROM test.why(:task_id, 'once');
SELECT r.* FROM (VALUES ('SELECT * FROM stepwise.explain_step(-1, ''a'')'), ('SELECT * FROM stepwise.explain_step(1, ''z'')'),
    ('SELECT * FROM stepwise.explain_step(1, 99)'), ('SELECT * FROM stepwise.explain_step(NULL, ''a'')'), ('SELECT * FROM stepwise.critical_path(-1)'),
    ('SELECT * FROM stepwise.critical_path(NULL)'), ('SELECT * FROM stepwise.calculate_dependency_levels(-1)')) AS v (statement), LATERAL test.refused(statement) r;

-- Levels, and the chain that takes the longest: measured where it has ended, expected by earlier tasks, else by the timeout.
SELECT stepwise.register_template('{"name": "path", "defaults": {"timeout": "10 s"}, "steps": [{"name": "a"}, {"name": "b", "depends_on": "a"},
    {"name": "c", "depends_on": "a", "timeout": "15 s"}, {"name": "d", "depends_on": ["b", "c"]}, {"name": "e"}]}') > 0 AS ok;
SELECT stepwise.create_task('path') AS task_id \gset
SELECT * FROM stepwise.calculate_dependency_levels(:task_id);
SELECT * FROM stepwise.critical_path(:task_id);
SET session_replication_role = replica;
UPDATE stepwise.steps SET state = 'complete', last_attempted_at = '2020-01-01', finished_at = timestamptz '2020-01-01' + CASE step_id WHEN 2 THEN '40 s' ELSE '3 s' END::interval
WHERE task_id = :task_id;
RESET session_replication_role;
SELECT * FROM stepwise.critical_path(:task_id);
SELECT stepwise.create_task('path') AS task_id \gset
SELECT * FROM stepwise.critical_path(:task_id);
BEGIN READ ONLY;
SELECT count(*) FROM stepwise.explain_step(:task_id, 'a');
SELECT count(*) FROM stepwise.critical_path(:task_id);
SELECT count(*) FROM stepwise.calculate_dependency_levels(:task_id);
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_transaction_id;
COMMIT;

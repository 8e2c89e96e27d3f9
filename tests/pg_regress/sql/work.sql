-- Claims and reports: the way of a step, batches, receipts, leases, backoff, the end of a task.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all

-- The whole way, with the parents' results handed on.
SELECT test.template('diamond', 'a > b, a > c, b > d, c > d');
SELECT stepwise.create_task('diamond', '{"x": 1}');
SELECT task_id, step_id, task_name, step_name, namespace, version, handler, config, attempt, retry_limit, context, inputs,
       dependencies, lease_expires_at - stepwise.now() BETWEEN interval '59 s' AND interval '60 s' AS lease
FROM stepwise.claim_steps('w1') \gx
SELECT * FROM test.claim();
UPDATE stepwise.steps SET state = 'pending' WHERE state = 'in_progress';
SELECT * FROM test.claim();
SELECT stepwise.complete_step(test.receipt('a'), '{"a": "done"}');
SELECT * FROM test.steps;
SELECT * FROM test.claim(max_steps => 10);
SELECT * FROM stepwise.complete_steps(ARRAY[test.receipt('b'), test.receipt('c')], ARRAY['"B"', 'null']::jsonb[]) AS r
WHERE outcome <> 'accepted';
SELECT * FROM test.claim(max_steps => 10);
SELECT stepwise.complete_step(test.receipt('d'));
SELECT * FROM test.steps;
SELECT * FROM test.tasks;
SELECT * FROM test.history;
SELECT * FROM stepwise.get_task_execution_context(1) \gx

-- The same report again changes nothing; another report is stale; so is any about what was never claimed.
SELECT stepwise.complete_step(test.receipt('d'), '"another"');
SELECT results FROM stepwise.steps WHERE step_id = 4;
SELECT * FROM test.refused($$SELECT stepwise.fail_step(test.receipt('d'))$$);
SELECT r.code, r.message, r.hint FROM test.refused($$SELECT stepwise.complete_step(
    regexp_replace(test.receipt('d')::text, '.$', translate(right(test.receipt('d')::text, 1), '0123456789abcdef', '1000000000000000'))::uuid)$$) r;
SELECT * FROM test.refused($$SELECT stepwise.complete_step('00000000-0000-4000-8000-000000000000')$$);
SELECT * FROM test.refused($$SELECT stepwise.extend_lease('00000000-0003-8fff-bfff-ffffffffffff')$$);
-- A batch never lets a bad one spoil the rest; the first of two reports about one step counts.
SELECT stepwise.create_task('diamond') AS task_id \gset
SELECT count(*) FROM test.claim();
SELECT outcome FROM stepwise.complete_steps(
    ARRAY['00000000-0000-4000-8000-000000000000', test.receipt('a'), test.receipt('a'), test.receipt('d')]::uuid[],
    ARRAY['1', '2', '3', '4']::jsonb[]);
SELECT name, state, results FROM test.steps WHERE task_id = :task_id AND name = 'a';
SELECT outcome FROM stepwise.fail_steps(ARRAY[test.receipt('a')]);
SELECT count(*) AS none FROM stepwise.complete_steps('{}');

-- Failure: backoff, retry by claiming, explicit backoff, no retry, the last attempt.
SELECT test.template('one', 'a', '{"namespace": "f"}');
SELECT stepwise.create_task('one') AS task_id \gset
SELECT attempt FROM test.claim('{f}');
SELECT stepwise.fail_step(test.receipt('a'), '{"message": "first"}');
SELECT name, state, att, visible, token, error FROM test.steps WHERE task_id = :task_id;
SELECT next_retry_at - last_failure_at AS backoff, retry_eligible, ready_for_execution
FROM stepwise.get_step_readiness_status(:task_id);
SELECT count(*) FROM test.claim('{f}');
SELECT stepwise.next_visible_at('{f}') - stepwise.now() BETWEEN interval '1 s' AND interval '2 s' AS soon;
SET stepwise.clock_offset = '2 seconds';
SELECT attempt FROM test.claim('{f}');
SELECT name, state, visible, backoff_request_seconds, s.retryable FROM test.steps
JOIN stepwise.steps s USING (task_id, state) WHERE task_id = :task_id;
SELECT stepwise.fail_step(test.receipt('a'), retry_after => '2 minutes');
SELECT backoff_request_seconds, next_retry_at - last_attempted_at AS backoff FROM stepwise.get_step_readiness_status(:task_id);
SET stepwise.clock_offset = '121 seconds';
SELECT count(*) FROM test.claim('{f}');
SET stepwise.clock_offset = '3 minutes';
SELECT attempt FROM test.claim('{f}');
SELECT stepwise.fail_step(test.receipt('a'), '{"message": "last"}') AS first,
       stepwise.fail_step(test.receipt('a'), '{"message": "again"}') AS again;
SELECT name, state, att, visible, error FROM test.steps WHERE task_id = :task_id;
SELECT * FROM test.tasks WHERE task_id = :task_id;
SELECT subject, from_state, to_state, att, worker, metadata FROM test.history WHERE task_id = :task_id;
SELECT execution_status, health_status, recommended_action FROM stepwise.get_task_execution_context(:task_id);
RESET stepwise.clock_offset;
-- "retryable": false from the worker ends it at once; a permanently failed step does not stop other branches.
SELECT test.template('branches', 'a > b, c > d', '{"namespace": "r"}');
SELECT stepwise.create_task('branches') AS task_id \gset
SELECT count(*) FROM test.claim('{r}', 2);
SELECT stepwise.fail_step(test.receipt('a'), '"no"', retryable => false);
SELECT state, live, failed FROM test.tasks WHERE task_id = :task_id;
SELECT execution_status FROM stepwise.get_task_execution_context(:task_id);
SELECT stepwise.complete_step(test.receipt('c'));
SELECT step_name FROM test.claim('{r}');
SELECT stepwise.complete_step(test.receipt('d'));
SELECT * FROM test.tasks WHERE task_id = :task_id;
SELECT name, state, waits, visible FROM test.steps WHERE task_id = :task_id;

-- Leases: the worker's, an end, a late report before and after another claim, extension, release.
SELECT test.template('lease', 'a', '{"namespace": "l", "defaults": {"timeout": "10s", "retry_limit": 2}}');
SELECT stepwise.create_task('lease') AS task_id \gset
SELECT lease_expires_at - stepwise.now() BETWEEN interval '9 s' AND interval '10 s' AS default_lease
FROM stepwise.claim_steps('w0', '{l}');
UPDATE stepwise.steps SET state = 'pending' WHERE task_id = :task_id;
SELECT count(*) FROM test.claim('{l}', lease => '5 minutes');
SET stepwise.clock_offset = '4 minutes';
SELECT count(*) AS still_held FROM test.claim('{l}');
SELECT stepwise.extend_lease(test.receipt('a'), '5 minutes');
SET stepwise.clock_offset = '8 minutes';
SELECT count(*) AS still_held FROM test.claim('{l}');
SET stepwise.clock_offset = '10 minutes';
-- Over, but nobody has claimed it: the report is accepted.
BEGIN;
SELECT stepwise.complete_step(test.receipt('a'), '"late"');
ROLLBACK;
SELECT attempt FROM test.claim('{l}', worker => 'w2');
SELECT subject, from_state, to_state, att, worker, metadata FROM test.history WHERE task_id = :task_id;
SELECT * FROM test.refused(format($$SELECT stepwise.complete_step(%L, '"too late"')$$,
    (SELECT receipt FROM test.held WHERE task_id = :task_id ORDER BY claim LIMIT 1)));
SELECT name, state, att, worker FROM test.steps WHERE task_id = :task_id;
SELECT stepwise.release_step(test.receipt('a'));
SELECT name, state, att, visible, token, worker FROM test.steps WHERE task_id = :task_id;
SELECT code, message FROM test.refused($$SELECT stepwise.release_step(test.receipt('a'))$$);
SELECT attempt FROM test.claim('{l}', lease => '1 second');
-- The last attempt is lost too: the next claim finds it, and the task ends.
SET stepwise.clock_offset = '11 minutes';
SELECT count(*) FROM test.claim('{l}');
SELECT name, state, att, visible, error FROM test.steps WHERE task_id = :task_id;
SELECT * FROM test.tasks WHERE task_id = :task_id;
SELECT code, message FROM test.refused($$SELECT stepwise.complete_step(test.receipt('a'))$$);
RESET stepwise.clock_offset;

-- Report and claim in one call.
SELECT test.template('pair', 'a > b', '{"namespace": "rc"}');
SELECT min(id) AS first, max(id) AS second FROM stepwise.create_tasks('pair', '{"{}","{}"}') AS id \gset
SELECT count(*) FROM test.claim('{rc}', 2);
SELECT outcome, step_name, attempt, dependencies FROM stepwise.report_and_claim('w1',
    completed => ARRAY[test.receipt('a', :first)],
    results => ARRAY['{"r": 1}']::jsonb[],
    failed => ARRAY[test.receipt('a', :second)], errors => ARRAY['"e"']::jsonb[],
    queues => '{rc}', max_steps => 5);
SELECT outcome FROM stepwise.report_and_claim('w1', queues => '{rc}');

-- A retry_limit of 0: no worker ever, but it keeps the task open. A paused queue: nothing new.
SELECT stepwise.register_template('{"namespace": "z", "name": "z", "steps": [{"name": "manual", "retry_limit": 0}, {"name": "auto"}]}') > 0 AS ok;
SELECT stepwise.create_task('z') AS task_id \gset
UPDATE stepwise.queues SET paused = true WHERE name = 'z';
SELECT count(*) AS paused FROM test.claim('{z}', 5);
SELECT count(*) AS ready FROM stepwise.get_viable_steps(:task_id);
UPDATE stepwise.queues SET paused = false WHERE name = 'z';
SELECT name, current_state, attempts, priority FROM stepwise.get_viable_steps(:task_id);
SELECT step_name FROM test.claim('{z}', 5);
SELECT stepwise.complete_step(test.receipt('auto'));
SELECT state, live, completed FROM test.tasks WHERE task_id = :task_id;
SELECT stepwise.next_visible_at('{z}');
UPDATE stepwise.steps SET state = 'resolved_manually', results = '"by hand"' WHERE task_id = :task_id AND state = 'pending';
SELECT state, live, completed FROM test.tasks WHERE task_id = :task_id;

-- Arguments.
SELECT r.* FROM (VALUES
    ('SELECT * FROM stepwise.claim_steps(NULL)'),
    ('SELECT * FROM stepwise.claim_steps('''')'),
    ('SELECT * FROM stepwise.claim_steps(repeat(''w'', 256))'),
    ('SELECT * FROM stepwise.claim_steps(''w'', max_steps => 0)'),
    ('SELECT * FROM stepwise.claim_steps(''w'', max_steps => -1)'),
    ('SELECT * FROM stepwise.claim_steps(''w'', max_steps => 1001)'),
    ('SELECT * FROM stepwise.claim_steps(''w'', max_steps => 2147483647)'),
    ('SELECT * FROM stepwise.claim_steps(''w'', max_steps => NULL)'),
    ('SELECT * FROM stepwise.claim_steps(''w'', lease => ''0'')'),
    ('SELECT * FROM stepwise.claim_steps(''w'', lease => ''-1 hour'')'),
    ('SELECT * FROM stepwise.claim_steps(''w'', queues => ''{a,NULL}'')'),
    ('SELECT stepwise.complete_step(NULL)'),
    ('SELECT stepwise.fail_step(NULL)'),
    ('SELECT stepwise.fail_step(test.receipt(''a''), retry_after => ''-1 s'')'),
    ('SELECT stepwise.extend_lease(NULL)'),
    ('SELECT stepwise.extend_lease(test.receipt(''a''), ''0'')'),
    ('SELECT stepwise.release_step(NULL)'),
    ('SELECT * FROM stepwise.complete_steps(NULL)'),
    ('SELECT * FROM stepwise.complete_steps(''{NULL}'')'),
    ('SELECT * FROM stepwise.complete_steps(''{}'', ARRAY[''1'']::jsonb[])'),
    ('SELECT * FROM stepwise.fail_steps(ARRAY[test.receipt(''a'')], retryable => ''{}'')'),
    ('SELECT * FROM stepwise.report_and_claim(NULL)'),
    ('SELECT * FROM stepwise.report_and_claim(''w'', max_steps => 0)'),
    ('SELECT stepwise.next_visible_at(''{NULL}'')')
) AS v (statement), LATERAL test.refused(statement) r;
SELECT count(*) AS none FROM stepwise.claim_steps('w', '{no such queue}');
SELECT count(*) AS none FROM stepwise.claim_steps('w', '{}');

-- As if never called: a savepoint around a claim and a report.
SELECT stepwise.create_task('one') AS task_id \gset
BEGIN;
SAVEPOINT s;
SELECT count(*) FROM test.claim('{f}');
ROLLBACK TO s;
SELECT attempt FROM test.claim('{f}');
SAVEPOINT s;
SELECT stepwise.complete_step(test.receipt('a'));
ROLLBACK TO s;
SELECT stepwise.fail_step(test.receipt('a'));
COMMIT;
SELECT name, state, att FROM test.steps WHERE task_id = :task_id;
SELECT subject, from_state, to_state FROM test.history WHERE task_id = :task_id;

-- Arrays that come from a table, compressed and out of line, are read whole.
CREATE TABLE test.payloads AS SELECT stepwise.create_task('pair') AS task, jsonb_build_object('n', n, 'text', repeat('x', 3000 + n)) AS payload
FROM generate_series(1, 20) n;
SELECT count(*) FROM test.claim('{rc}', 100);
CREATE TABLE test.batch AS SELECT array_agg(test.receipt('a', task) ORDER BY task) AS receipts, array_agg(payload ORDER BY task) AS payloads FROM test.payloads;
SELECT outcome, count(*) FROM test.batch, stepwise.complete_steps(receipts, payloads) GROUP BY outcome;
SELECT count(*) AS kept FROM test.payloads p JOIN stepwise.steps s ON s.task_id = p.task AND s.step_id = 1 AND s.results = p.payload;
SELECT count(*) AS handed_on, sum(length(dependencies #>> '{a,text}')) AS characters FROM test.claim('{rc}', 100);
SELECT count(*) AS created FROM test.batch, stepwise.create_tasks('one', payloads);
SELECT count(*) AS contexts FROM stepwise.tasks t JOIN test.payloads p ON p.payload = t.context;

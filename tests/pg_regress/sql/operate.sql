-- What operators do: reset, resolve, cancel, retry, backoffs, purge. By name or number, with reason and actor in the
-- history; done twice is done once; a late report after each of them is stale.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all

-- Reset: a failed step starts anew, the task goes back to work, completed steps keep their results.
SELECT test.template('line', 'a > b', '{"namespace": "o", "defaults": {"retry_limit": 1}}');
SELECT stepwise.create_task('line');
SELECT count(*) FROM test.claim();
SELECT stepwise.complete_step(test.receipt('a'), '"A"');
SELECT count(*) FROM test.claim();
SELECT stepwise.fail_step(test.receipt('b'), '"broken"');
SELECT state, failed FROM test.tasks;
SELECT stepwise.reset_step(1, 'b', 'fixed the address', actor => 'ann'), stepwise.reset_step(1, 'b');
SELECT name, state, att, visible, results FROM test.steps;
SELECT * FROM test.tasks;
SELECT subject, from_state, to_state, actor, metadata FROM test.history WHERE actor = 'ann';
SELECT code, message FROM test.refused($$SELECT stepwise.fail_step(test.receipt('b'))$$);
SELECT step_name, attempt, dependencies FROM test.claim();
SELECT * FROM test.refused($$SELECT stepwise.reset_step(1, 'b')$$);
SELECT * FROM test.refused($$SELECT stepwise.reset_step(1, 1)$$);

-- Resolve: done by hand, dependents go on with its results; also before its parents are done.
SELECT stepwise.resolve_step(1, 2, '{"by": "hand"}', 'paid in cash'), stepwise.resolve_step(1, 'b');
SELECT name, state, token, results FROM test.steps;
SELECT * FROM test.tasks;
SELECT code, message FROM test.refused($$SELECT stepwise.complete_step(test.receipt('b'))$$);
SELECT * FROM test.refused($$SELECT stepwise.resolve_step(1, 'a')$$);
SELECT stepwise.create_task('line') AS task_id \gset
SELECT stepwise.resolve_step(:task_id, 'b');
SELECT name, state, waits FROM test.steps WHERE task_id = :task_id;
SELECT count(*) FROM test.claim();
SELECT stepwise.complete_step(test.receipt('a'));
SELECT state, completed FROM test.tasks WHERE task_id = :task_id;

-- Cancel a step: its descendants go with it, the rest runs on; its worker finds the receipt stale.
SELECT test.template('fork', 'a > b, b > c, a > d', '{"namespace": "f"}');
SELECT stepwise.create_task('fork') AS task_id \gset
SELECT count(*) FROM test.claim('{f}');
SELECT stepwise.complete_step(test.receipt('a'));
SELECT step_name FROM test.claim('{f}', 2);
SELECT stepwise.cancel_step(:task_id, 'b', 'not wanted'), stepwise.cancel_step(:task_id, 'b'), stepwise.cancel_step(:task_id, 3);
SELECT name, state, visible, token FROM test.steps WHERE task_id = :task_id;
SELECT code, message FROM test.refused($$SELECT stepwise.complete_step(test.receipt('b'))$$);
SELECT stepwise.complete_step(test.receipt('d'));
SELECT * FROM test.tasks WHERE task_id = :task_id;
SELECT subject, from_state, to_state, metadata FROM test.history WHERE task_id = :task_id AND to_state = 'cancelled';
SELECT * FROM test.refused(format($$SELECT stepwise.cancel_step(%s, 'a')$$, :task_id));

-- Cancel a task: every step that is not at its end.
SELECT stepwise.create_task('fork') AS task_id \gset
SELECT count(*) FROM test.claim('{f}');
SELECT stepwise.cancel_task(:task_id, 'order withdrawn', 'bob'), stepwise.cancel_task(:task_id);
SELECT name, state FROM test.steps WHERE task_id = :task_id;
SELECT subject, from_state, to_state, actor, metadata FROM test.history WHERE task_id = :task_id AND to_state = 'cancelled';
SELECT code, message FROM test.refused($$SELECT stepwise.fail_step(test.receipt('a'))$$);
SELECT * FROM test.refused('SELECT stepwise.cancel_task(1)');
SELECT * FROM test.refused(format('SELECT stepwise.retry_task(%s)', :task_id));
SELECT execution_status, recommended_action FROM stepwise.get_task_execution_context(:task_id);

-- Retry a task: every failed step, and only those.
SELECT test.template('wide', 'a > d, b > d, c > d', '{"namespace": "w", "defaults": {"retry_limit": 1}}');
SELECT stepwise.create_task('wide') AS task_id \gset
SELECT count(*) FROM test.claim('{w}', 3);
SELECT outcome FROM stepwise.report_and_claim('w', completed => ARRAY[test.receipt('a')], failed => ARRAY[test.receipt('b'), test.receipt('c')], queues => '{w}');
SELECT state, failed FROM test.tasks WHERE task_id = :task_id;
SELECT stepwise.retry_task(:task_id, 'second try'), stepwise.retry_task(:task_id);
SELECT name, state, att, visible FROM test.steps WHERE task_id = :task_id;
SELECT state, live, failed FROM test.tasks WHERE task_id = :task_id;
SELECT step_name FROM test.claim('{w}', 5);
SELECT count(*) AS accepted FROM stepwise.complete_steps(ARRAY[test.receipt('b'), test.receipt('c')]);
SELECT step_name FROM test.claim('{w}', 5);
SELECT stepwise.complete_step(test.receipt('d'));
SELECT state FROM test.tasks WHERE task_id = :task_id;

-- Backoffs: set from now on, by hand, and released. A start that was asked for later is no backoff.
SELECT test.template('slow', 'a > b', '{"namespace": "s"}');
SELECT stepwise.create_task('slow') AS task_id \gset
SELECT stepwise.set_backoff(:task_id, 'a', '30 seconds', 'provider is down');
SELECT count(*) FROM test.claim('{s}');
SELECT ready_for_execution, retry_eligible, backoff_request_seconds, next_retry_at - stepwise.now() BETWEEN '0 s' AND '30 s' AS soon
FROM stepwise.get_step_readiness_status(:task_id, '{1}');
SET stepwise.clock_offset = '30 seconds';
SELECT attempt FROM test.claim('{s}');
SELECT stepwise.fail_step(test.receipt('a'));
SELECT stepwise.set_backoff(:task_id, 1, '2 minutes');
SELECT next_retry_at - stepwise.now() BETWEEN '90 s' AND '120 s' AS in_two_minutes FROM stepwise.get_step_readiness_status(:task_id, '{1}');
SET stepwise.clock_offset = '1 minute';
SELECT count(*) FROM test.claim('{s}');
SELECT stepwise.release_backoff(:task_id, 'provider is back'), stepwise.release_backoff(:task_id);
SELECT name, state, visible FROM test.steps WHERE task_id = :task_id;
SELECT ready_for_execution FROM stepwise.get_step_readiness_status(:task_id, '{1}');
SELECT subject, from_state, to_state, att, metadata FROM test.history WHERE task_id = :task_id AND subject = 'a';
SELECT attempt FROM test.claim('{s}');
SELECT code, message, detail FROM test.refused(format($$SELECT stepwise.set_backoff(%s, 'a', '1 s')$$, :task_id));
SELECT code, message, detail FROM test.refused(format($$SELECT stepwise.set_backoff(%s, 'b', '1 s')$$, :task_id));
SELECT stepwise.fail_step(test.receipt('a'), retryable => false);
SELECT code, message, detail FROM test.refused(format($$SELECT stepwise.set_backoff(%s, 'a', '1 s')$$, :task_id));
RESET stepwise.clock_offset;
SELECT stepwise.create_task('slow', run_at => stepwise.now() + interval '1 hour') AS task_id \gset
SELECT stepwise.release_backoff(:task_id);
SELECT name, visible FROM test.steps WHERE task_id = :task_id;
-- One that was put into error by hand, without an attempt, rests from then, and not from when that was ended.
SELECT stepwise.create_task('slow') AS task_id \gset
UPDATE stepwise.steps SET state = 'error' WHERE task_id = :task_id AND step_id = 1;
SELECT stepwise.set_backoff(:task_id, 1, '1 hour');
SET stepwise.clock_offset = '1 minute';
SELECT stepwise.release_backoff(:task_id);
SELECT next_retry_at = last_failure_at AS from_the_failure, ready_for_execution
FROM stepwise.get_step_readiness_status(:task_id, '{1}');
SELECT * FROM stepwise.verify(:task_id);
RESET stepwise.clock_offset;
SELECT stepwise.cancel_task(:task_id);

-- Purge: finished tasks whole, oldest first; one in error only where it is named; never a live one.
SELECT state, count(*) FROM stepwise.tasks GROUP BY state ORDER BY state COLLATE "C";
SELECT stepwise.purge_tasks('1 day');
SET stepwise.clock_offset = '2 days';
SELECT stepwise.purge_tasks('1 day', 1) AS one;
SELECT stepwise.purge_tasks('1 day'), stepwise.purge_tasks('1 day') AS again;
SELECT state, count(*) FROM stepwise.tasks GROUP BY state ORDER BY state COLLATE "C";
SELECT stepwise.purge_tasks('1 day', states => '{error}');
SELECT state, count(*) FROM stepwise.tasks GROUP BY state ORDER BY state COLLATE "C";
SELECT count(*) AS steps, count(DISTINCT task_id) AS tasks FROM stepwise.steps;
SELECT count(DISTINCT task_id) AS tasks FROM stepwise.transitions;
RESET stepwise.clock_offset;

-- Not by hand: removal, history, templates, names.
SELECT v.statement, r.* FROM (VALUES ('DELETE FROM stepwise.tasks'), ('DELETE FROM stepwise.steps'), ('DELETE FROM stepwise.transitions'),
    ('TRUNCATE stepwise.tasks'), ('TRUNCATE stepwise.steps'), ('TRUNCATE stepwise.transitions'), ('TRUNCATE stepwise.templates CASCADE'),
    ('UPDATE stepwise.transitions SET to_state = ''complete'''), ('UPDATE stepwise.templates SET name = ''x'''),
    ('UPDATE stepwise.template_steps SET retry_limit = 9'), ('DELETE FROM stepwise.template_steps'), ('DELETE FROM stepwise.templates'),
    ('UPDATE stepwise.queues SET name = ''x'''), ('DELETE FROM stepwise.queues'), ('UPDATE stepwise.namespaces SET name = ''x'''),
    ('DELETE FROM stepwise.namespaces')) AS v (statement), LATERAL test.refused(v.statement) r;
UPDATE stepwise.queues SET paused = true WHERE name = 's';

-- Arguments.
SELECT r.* FROM (VALUES ('SELECT stepwise.reset_step(NULL, ''a'')'), ('SELECT stepwise.reset_step(1, NULL::text)'),
    ('SELECT stepwise.reset_step(-1, ''a'')'), ('SELECT stepwise.cancel_step($t, ''z'')'), ('SELECT stepwise.cancel_step($t, 99)'),
    ('SELECT stepwise.cancel_step($t, 0)'), ('SELECT stepwise.resolve_step($t, ''a'', reason => '''')'),
    ('SELECT stepwise.resolve_step($t, ''a'', actor => repeat(''x'', 256))'), ('SELECT stepwise.cancel_task(NULL)'), ('SELECT stepwise.cancel_task(-1)'),
    ('SELECT stepwise.retry_task(-1)'), ('SELECT stepwise.release_backoff(-1)'), ('SELECT stepwise.set_backoff($t, ''a'', NULL)'),
    ('SELECT stepwise.set_backoff($t, ''a'', ''-1 s'')'), ('SELECT stepwise.purge_tasks(NULL)'), ('SELECT stepwise.purge_tasks(''-1 day'')'),
    ('SELECT stepwise.purge_tasks(''1 day'', 0)'), ('SELECT stepwise.purge_tasks(''1 day'', states => ''{pending}'')')) AS v (statement),
    LATERAL test.refused(replace(v.statement, '$t', (SELECT max(task_id)::text FROM stepwise.tasks))) r;

-- Deep and wide: no recursion, and a chain of 100 000 steps falls with its root, as does a fan.
CREATE FUNCTION test.large(name text, steps integer, parent text) RETURNS boolean LANGUAGE sql AS $$
    SELECT stepwise.register_template(jsonb_build_object('name', name, 'steps', jsonb_agg(jsonb_build_object('name', 's' || n,
        'depends_on', CASE WHEN n = 1 THEN '[]'::jsonb ELSE to_jsonb(replace(parent, 'n', (n - 1)::text)) END) ORDER BY n))) > 0
    FROM generate_series(1, steps) n
$$;
SELECT test.large('chain', 100000, 'sn') AS chain, test.large('fan', 20000, 's1') AS fan;
SELECT stepwise.create_task('chain') AS chain, stepwise.create_task('fan') AS fan \gset
SELECT stepwise.cancel_step(:chain, 's1');
UPDATE stepwise.steps SET state = 'skipped' WHERE task_id = :fan AND step_id = 1;
SELECT task_id = :chain AS chain, state, count(*) FROM stepwise.steps WHERE task_id IN (:chain, :fan) GROUP BY 1, 2 ORDER BY 1;
SELECT state, total_steps, live_steps, completed_steps, cancelled_steps FROM stepwise.tasks WHERE task_id IN (:chain, :fan) ORDER BY task_id;
SELECT stepwise.create_task('fan') AS fan \gset
SELECT stepwise.cancel_task(:fan);
SELECT count(*), count(DISTINCT metadata) AS metadata FROM stepwise.transitions WHERE task_id = :fan;

-- A backoff of a step that was put into error without an attempt: what is asked for, what is said and what is claimed agree.
SELECT test.template('never', 'a');
SELECT stepwise.create_task('never') AS never \gset
UPDATE stepwise.steps SET state = 'error' WHERE task_id = :never;
SET stepwise.clock_offset = '1 hour';
SELECT stepwise.set_backoff(:never, 'a', '10 minutes');
SELECT ready_for_execution, next_retry_at - stepwise.now() BETWEEN '9.5 min' AND '10 min' AS in_ten_minutes
FROM stepwise.get_step_readiness_status(:never);
SELECT ready_for_execution FROM stepwise.get_step_readiness_status_sql(:never);
SELECT reason, until - stepwise.now() BETWEEN '9.5 min' AND '10 min' AS in_ten_minutes FROM stepwise.explain_step(:never, 'a');
SET stepwise.clock_offset = '71 minutes';
SELECT ready_for_execution FROM stepwise.get_step_readiness_status(:never);
SELECT count(*) AS claimed FROM stepwise.claim_steps('w', '{n}', 1000) WHERE task_id = :never;
RESET stepwise.clock_offset;

-- Time: delays, deadlines, waits and their signals, tick. The clock is moved, nothing sleeps.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all

-- A delay counts from the end of the last parent, or from the start of the task, and not for retries.
SELECT test.template('delayed', 'a > b', '{"steps": [{"name": "a", "delay": "10s"},
    {"name": "b", "depends_on": "a", "delay": "1h", "retry_limit": 2}]}');
SELECT stepwise.create_task('delayed');
SELECT * FROM test.claim();
SELECT reason, round(extract(epoch FROM until - stepwise.now())) AS seconds FROM stepwise.explain_step(1, 'a');
SET stepwise.clock_offset = '11 seconds';
SELECT * FROM test.claim();
SELECT stepwise.complete_step(test.receipt('a'));
SELECT * FROM test.claim();
SELECT reason, round(extract(epoch FROM until - stepwise.now()) / 60) AS minutes FROM stepwise.explain_step(1, 'b');
SELECT ready_for_execution, retry_eligible FROM stepwise.get_step_readiness_status(1, '{2}');
SET stepwise.clock_offset = '70 minutes';
SELECT * FROM test.claim();
SELECT stepwise.fail_step(test.receipt('b'), retry_after => '0');
SELECT step_name, attempt FROM test.claim();
SELECT stepwise.complete_step(test.receipt('b'));
SELECT name, state, visible FROM test.steps WHERE task_id = 1;
RESET stepwise.clock_offset;

-- A deadline: what is open is cancelled, the task is in error; a claim does it to what it meets.
SELECT stepwise.register_template('{"namespace": "n", "name": "timed", "timeout": "1h",
    "steps": [{"name": "a"}, {"name": "b"}, {"name": "c", "depends_on": ["a", "b"]}]}');
SELECT stepwise.create_task('timed') AS timed \gset
SELECT round(extract(epoch FROM deadline - created_at)) AS seconds, timed_out FROM stepwise.tasks WHERE task_id = :timed;
SELECT step_name FROM test.claim(max_steps => 1);
SELECT stepwise.complete_step(test.receipt('a'));
SELECT step_name FROM test.claim(max_steps => 1);
SELECT * FROM stepwise.tick() AS t (expired, failed, ended, ready, next_at) WHERE next_at IS NULL;
SET stepwise.clock_offset = '61 minutes';
SELECT reason FROM stepwise.explain_step(:timed, 'b');
SELECT * FROM test.claim();
SELECT name, state FROM test.steps WHERE task_id = :timed;
SELECT state, timed_out, deadline IS NULL AS none FROM stepwise.tasks WHERE task_id = :timed;
SELECT subject, from_state, to_state, metadata FROM test.history WHERE task_id = :timed AND metadata IS NOT NULL;
SELECT * FROM test.refused(format('SELECT stepwise.complete_step(%L)', test.receipt('b', :timed)));
RESET stepwise.clock_offset;
-- Counted from run_at; and tick does it where nobody claims.
SELECT stepwise.create_task('timed', run_at => stepwise.now() + interval '1 day') AS timed \gset
SET stepwise.clock_offset = '24 hours 59 minutes';
SELECT ended_tasks FROM stepwise.tick();
SET stepwise.clock_offset = '25 hours 1 minute';
SELECT ended_tasks FROM stepwise.tick();
SELECT ended_tasks FROM stepwise.tick();
SELECT state, timed_out FROM stepwise.tasks WHERE task_id = :timed;
RESET stepwise.clock_offset;
-- Done in time is done; and an operator may move the deadline.
SELECT stepwise.create_task('timed') AS timed \gset
UPDATE stepwise.tasks SET deadline = deadline + interval '2 hours' WHERE task_id = :timed;
SET stepwise.clock_offset = '61 minutes';
SELECT ended_tasks FROM stepwise.tick();
SELECT step_name FROM test.work(2);
SELECT step_name FROM test.work(2);
SELECT state, timed_out, deadline IS NULL AS none FROM stepwise.tasks WHERE task_id = :timed;
RESET stepwise.clock_offset;
-- A failed step that is taken back to work after the deadline has no deadline any more.
SELECT stepwise.register_template('{"namespace": "n", "name": "mixed", "timeout": "1h", "defaults": {"retry_limit": 1},
    "steps": [{"name": "a"}, {"name": "b"}]}');
SELECT stepwise.create_task('mixed') AS mixed \gset
SELECT step_name FROM test.claim();
SELECT stepwise.fail_step(test.receipt('a', :mixed));
SET stepwise.clock_offset = '61 minutes';
SELECT ended_tasks FROM stepwise.tick();
SELECT name, state FROM test.steps WHERE task_id = :mixed;
SELECT state, timed_out FROM stepwise.tasks WHERE task_id = :mixed;
SELECT code, message, detail FROM test.refused(format('UPDATE stepwise.tasks SET timed_out = false WHERE task_id = %s', :mixed));
RESET stepwise.clock_offset;

-- A task that its deadline has ended: nothing of it is left to retry, and cancelling it takes it out of error.
SELECT stepwise.create_task('timed') AS timed \gset
SET stepwise.clock_offset = '61 minutes';
SELECT ended_tasks FROM stepwise.tick();
SELECT status, execution_status, recommended_action, health_status FROM stepwise.get_task_execution_context(:timed);
SELECT stepwise.retry_task(:timed);
SELECT state, timed_out FROM stepwise.tasks WHERE task_id = :timed;
SELECT stepwise.cancel_task(:timed, 'too late anyway', 'ann'), stepwise.cancel_task(:timed, 'again');
SELECT state, timed_out, finished_at IS NOT NULL AS fin FROM stepwise.tasks WHERE task_id = :timed;
SELECT subject, from_state, to_state, actor, metadata FROM test.history WHERE task_id = :timed AND actor = 'ann';
SELECT status, execution_status, recommended_action FROM stepwise.get_task_execution_context(:timed);
SELECT * FROM stepwise.verify();
RESET stepwise.clock_offset;

-- A step that waits is handed to nobody; its signal completes it, and the payload is its result.
SELECT stepwise.register_template('{"namespace": "n", "name": "approval", "steps": [
    {"name": "ask"}, {"name": "approve", "kind": "wait", "timeout": "1d", "depends_on": ["ask"]},
    {"name": "ship", "depends_on": ["approve"]}]}');
SELECT stepwise.create_task('approval') AS early, stepwise.create_task('approval') AS late,
       stepwise.create_task('approval') AS never \gset
-- Before it is reached: kept. The first counts.
SELECT stepwise.signal_step(:early, 'approve', '{"by": "ann"}');
SELECT stepwise.signal_step(:early, 2, '{"by": "bob"}');
SELECT name, state, visible FROM test.steps WHERE task_id = :early;
SELECT task_id = :early AS early, step_name FROM test.work(3);
SELECT name, state, att, waits, visible, results FROM test.steps WHERE task_id IN (:early, :late);
SELECT reason, detail, round(extract(epoch FROM until - stepwise.now()) / 3600) AS hours
FROM stepwise.explain_step(:late, 'approve');
SELECT ready_for_execution FROM stepwise.get_step_readiness_status(:late, '{2}');
SELECT execution_status, recommended_action FROM stepwise.get_task_execution_context(:late);
-- While it waits.
SELECT stepwise.signal_step(:late, 'approve', '{"by": "eve"}', reason => 'by phone', actor => 'eve');
SELECT stepwise.signal_step(:late, 'approve');
SELECT task_id = :late AS late, step_name, dependencies FROM test.claim(max_steps => 5);
SELECT stepwise.complete_step(receipt) FROM test.held WHERE step_name = 'ship';
SELECT subject, from_state, to_state, att, actor, metadata FROM test.history WHERE task_id = :late AND subject = 'approve';
-- Too late.
SET stepwise.clock_offset = '25 hours';
SELECT failed_waits, expired_leases FROM stepwise.tick();
SELECT name, state, error FROM test.steps WHERE task_id = :never;
SELECT state FROM stepwise.tasks WHERE task_id = :never;
SELECT * FROM test.refused(format('SELECT stepwise.signal_step(%s, ''approve'')', :never));
SELECT stepwise.reset_step(:never, 'approve');
SELECT round(extract(epoch FROM visible_at - stepwise.now()) / 3600) AS hours FROM stepwise.steps
WHERE task_id = :never AND step_id = 2;
SELECT stepwise.signal_step(:never, 'approve');
-- A claim fails what it meets, too.
SELECT stepwise.create_task('approval') AS met \gset
SELECT task_id = :met AS met, step_name FROM test.work(9) ORDER BY step_name;
SET stepwise.clock_offset = '60 hours';
SELECT step_name FROM test.work(9);
SELECT state FROM test.steps WHERE task_id = :met AND name = 'approve';
RESET stepwise.clock_offset;
SELECT * FROM test.refused('SELECT stepwise.signal_step(1, ''a'')');
SELECT code, message FROM test.refused('SELECT stepwise.signal_step(1, ''nope'')');
SELECT code, message FROM test.refused('SELECT stepwise.signal_step(NULL, ''a'')');
SELECT code, message FROM test.refused('SELECT stepwise.signal_step(1, ''a'', NULL)');
-- A wait without a timeout waits for ever, and its task stays open.
SELECT stepwise.register_template('{"namespace": "n", "name": "patient", "steps": [{"name": "w", "kind": "wait"}]}');
SELECT stepwise.create_task('patient') AS patient \gset
SELECT name, state, visible FROM test.steps WHERE task_id = :patient;
SELECT reason, until FROM stepwise.explain_step(:patient, 'w');
SELECT code, message, detail FROM test.refused(format('SELECT stepwise.set_backoff(%s, ''w'', ''1 hour'')', :patient));
SELECT stepwise.signal_step(:patient, 'w', 'null');
SELECT state FROM stepwise.tasks WHERE task_id = :patient;

-- tick ends what nobody claims, and says when to come back.
SELECT test.template('held', 'x', '{"defaults": {"retry_limit": 1}}');
SELECT stepwise.create_task('held') AS held \gset
SELECT step_name FROM test.claim(lease => '1 hour');
SELECT expired_leases, round(extract(epoch FROM next_at - stepwise.now()) / 60) AS minutes FROM stepwise.tick();
SET stepwise.clock_offset = '61 minutes';
SELECT expired_leases FROM stepwise.tick();
SELECT state, error FROM test.steps WHERE task_id = :held;
SELECT state FROM stepwise.tasks WHERE task_id = :held;
RESET stepwise.clock_offset;
SELECT * FROM stepwise.verify();

-- What a skipped, cancelled, reset or resolved step does to others and to its task.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all

-- Skips and cancellations spread: a child all of whose parents are skipped is skipped; with one satisfied parent it
-- runs; the descendants of a cancelled step go with it.
SELECT test.template('spread', 'a > c, b > c, c > d, b > e, e > f, g > f');
SELECT stepwise.create_tasks('spread', '{"{}","{}","{}"}');
UPDATE stepwise.steps SET state = 'skipped' WHERE task_id = 1 AND step_id IN (1, 2);
SELECT * FROM test.steps WHERE task_id = 1;
UPDATE stepwise.steps SET state = 'skipped' WHERE task_id = 2 AND step_id = 1;
SELECT name, state, waits, visible FROM test.steps WHERE task_id = 2;
UPDATE stepwise.steps SET state = 'resolved_manually' WHERE task_id = 2 AND step_id = 2;
SELECT name, state, waits, visible FROM test.steps WHERE task_id = 2;
UPDATE stepwise.steps SET state = 'cancelled' WHERE task_id = 3 AND step_id = 2;
SELECT name, state, waits, visible, fin FROM test.steps WHERE task_id = 3;
SELECT subject, from_state, to_state, actor, metadata FROM test.history WHERE task_id = 3 AND subject <> '(task)';
UPDATE stepwise.steps SET state = 'cancelled' WHERE task_id = 3 AND state = 'pending';
SELECT * FROM test.tasks;
-- A task ended by hand ends its steps; what a worker then reports is stale.
SELECT stepwise.create_task('spread') AS task_id \gset
SELECT step_name FROM test.claim(max_steps => 1) WHERE task_id = :task_id;
UPDATE stepwise.steps SET state = 'in_progress' WHERE task_id = :task_id AND step_id = 2;
UPDATE stepwise.tasks SET state = 'cancelled' WHERE task_id = :task_id;
SELECT name, state, visible, token FROM test.steps WHERE task_id = :task_id;
SELECT * FROM test.tasks WHERE task_id = :task_id;
SELECT subject, from_state, to_state, metadata FROM test.history WHERE task_id = :task_id AND to_state = 'cancelled';
-- A reset takes a task in error back to work; it may then end well.
SELECT test.template('reset', 'a > b', '{"namespace": "reset", "defaults": {"retry_limit": 1}}');
SELECT stepwise.create_task('reset') AS task_id \gset
SELECT count(*) FROM test.claim('{reset}');
SELECT stepwise.fail_step(test.receipt('a'));
SELECT state, failed, fin FROM test.tasks WHERE task_id = :task_id;
UPDATE stepwise.steps SET state = 'pending' WHERE task_id = :task_id AND state = 'error';
SELECT name, state, att, visible FROM test.steps WHERE task_id = :task_id;
SELECT state, live, failed, fin FROM test.tasks WHERE task_id = :task_id;
SELECT attempt FROM test.claim('{reset}');
SELECT stepwise.complete_step(test.receipt('a'));
SELECT attempt FROM test.claim('{reset}');
SELECT stepwise.complete_step(test.receipt('b'));
SELECT state, completed, fin FROM test.tasks WHERE task_id = :task_id;
SELECT subject, from_state, to_state, att FROM test.history WHERE task_id = :task_id;
-- Resolving the last failed step of a task in error completes it.
SELECT stepwise.create_task('reset') AS task_id \gset
SELECT count(*) FROM test.claim('{reset}');
SELECT stepwise.fail_step(test.receipt('a'));
UPDATE stepwise.steps SET state = 'resolved_manually', results = '{"by": "hand"}' WHERE task_id = :task_id AND step_id = 1;
SELECT step_name, dependencies FROM test.claim('{reset}');
SELECT stepwise.fail_step(test.receipt('b'));
UPDATE stepwise.steps SET state = 'resolved_manually' WHERE task_id = :task_id AND step_id = 2;
SELECT * FROM test.tasks WHERE task_id = :task_id;
SELECT subject, from_state, to_state FROM test.history WHERE task_id = :task_id AND subject = '(task)';

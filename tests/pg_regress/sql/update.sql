-- An UPDATE from any client does what the functions do, and what the engine keeps is not changed by hand.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all

-- An UPDATE does what the functions do: a claim by hand counts an attempt, holds a lease and a token; a completion
-- readies the children; all of several tasks at once, in whatever mix.
SELECT test.template('vee', 'a > c, b > c');
SELECT stepwise.create_tasks('vee', '{"{}","{}"}');
UPDATE stepwise.steps SET state = 'in_progress', worker = 'psql' WHERE step_id IN (1, 2);
SELECT * FROM test.steps;
SELECT visible_at - last_attempted_at AS lease FROM stepwise.steps WHERE task_id = 1 AND step_id = 1;
SELECT * FROM test.tasks;
UPDATE stepwise.steps SET
    state = CASE WHEN task_id = 1 OR step_id = 1 THEN 'complete' ELSE 'error' END,
    results = CASE WHEN task_id = 1 THEN to_jsonb(step_id) END,
    error = CASE WHEN task_id = 2 AND step_id = 2 THEN '"broken"'::jsonb END
WHERE state = 'in_progress';
SELECT * FROM test.steps;
SELECT * FROM test.tasks;
SELECT task_id, subject, from_state, to_state, att, worker, actor, metadata FROM test.history WHERE from_state = 'in_progress';
SELECT task_id, step_name, dependencies FROM test.claim();

-- A step whose parents are not satisfied, or that is not due, or that has no attempt left, is not claimed by hand either.
SELECT r.* FROM (VALUES
    ('UPDATE stepwise.steps SET state = ''in_progress'' WHERE task_id = 2 AND step_id = 3'),
    ('UPDATE stepwise.steps SET state = ''complete'' WHERE task_id = 2 AND step_id = 3')) AS v (statement),
    LATERAL test.refused(statement) r;
SELECT code, message, hint FROM test.refused('UPDATE stepwise.steps SET state = ''in_progress'' WHERE task_id = 2 AND step_id = 2');
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE stepwise.steps SET attempts = 3 WHERE task_id = 2 AND step_id = 2;
SET LOCAL session_replication_role = origin;
SELECT * FROM test.refused('UPDATE stepwise.steps SET state = ''in_progress'' WHERE task_id = 2 AND step_id = 2');
ROLLBACK;
-- One bad row of a statement, and none of it happens.
SELECT code, message FROM test.refused('UPDATE stepwise.steps SET state = ''complete''');
SELECT count(*) AS unchanged FROM test.steps WHERE state = 'complete';

-- What the engine keeps is not changed by hand.
SELECT stepwise.create_task('vee') AS task_id \gset
SELECT v.change, r.code, r.message FROM (VALUES
    ('steps', 'task_id = -1'), ('steps', 'step_id = step_id + 1000'), ('steps', 'template_id = -1'),
    ('steps', 'remaining_parents = 7'), ('steps', 'visible_at = NULL'), ('steps', 'visible_at = ''2000-01-01'''),
    ('steps', 'queue_id = queue_id + 1'), ('steps', 'priority = 7'), ('steps', 'attempts = 7'), ('steps', 'claim_token = 7'),
    ('steps', 'backoff_request_seconds = 7'), ('steps', 'retryable = false'), ('steps', 'limited = true'), ('steps', 'signal = ''7'''),
    ('steps', 'last_attempted_at = now()'), ('steps', 'last_failure_at = now()'), ('steps', 'finished_at = now()'),
    ('steps', 'results = ''7'''), ('steps', 'state = ''skipped'', results = ''7'''), ('steps', 'state = ''skipped'', priority = 7'),
    ('steps', 'state = ''skipped'', attempts = 7'), ('steps', 'state = ''skipped'', finished_at = now()'),
    ('steps', 'state = ''error'', last_failure_at = now()'), ('steps', 'state = ''error'', last_attempted_at = now()'),
    ('steps', 'state = ''error'', claim_token = 7'),
    ('tasks', 'started_at = now()'), ('tasks', 'finished_at = now()'), ('tasks', 'priority = 7'), ('tasks', 'identity_key = ''7'''),
    ('tasks', 'concurrency_key = ''7'''), ('tasks', 'timed_out = true'),
    ('tasks', 'task_id = -1'), ('tasks', 'template_id = -1'), ('tasks', 'live_steps = 7'), ('tasks', 'total_steps = 7'),
    ('tasks', 'completed_steps = 7'), ('tasks', 'failed_steps = 7'), ('tasks', 'cancelled_steps = 7')) AS v (place, change),
    LATERAL test.refused(format('UPDATE stepwise.%s SET %s WHERE task_id = %s', v.place, v.change, :task_id)) r;
SELECT * FROM test.refused('UPDATE stepwise.tasks SET live_steps = 7');
SELECT code, message FROM test.refused('UPDATE stepwise.steps SET visible_at = stepwise.now() WHERE task_id = 2 AND step_id = 2');
-- What is said with a change of state is weighed with it: a failure that shall not be tried again counts.
SELECT stepwise.create_task('vee') AS failed \gset
UPDATE stepwise.steps SET state = 'in_progress' WHERE task_id = :failed AND step_id = 1;
UPDATE stepwise.steps SET state = 'error', retryable = false
WHERE task_id = :failed AND step_id = 1;
SELECT failed_steps FROM stepwise.tasks WHERE task_id = :failed;
SELECT * FROM stepwise.verify(:failed);
-- Inputs, results of a complete step, an error's text and the worker's name are the user's.
UPDATE stepwise.steps SET inputs = '1', error = '2', worker = 'w' WHERE task_id = :failed;
UPDATE stepwise.steps SET results = '3' WHERE task_id = 1 AND step_id = 1;
SELECT * FROM stepwise.verify();
-- A delay of what may be claimed is no change of what is kept, nor is an earlier end of a lease.
UPDATE stepwise.steps SET visible_at = stepwise.now() + interval '1 day' WHERE task_id = :task_id AND visible_at IS NOT NULL;
SELECT name, visible FROM test.steps WHERE task_id = :task_id;
SELECT r.* FROM (VALUES ('stepwise.steps_before_update()'), ('stepwise.steps_after_update()'),
    ('stepwise.tasks_before_update()'), ('stepwise.tasks_after_update()')) AS v (call),
    LATERAL test.refused('SELECT ' || call) r;

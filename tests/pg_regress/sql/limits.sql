-- Limits: of a queue, of a task, of a concurrency key; pause and resume. Concurrency: tests/isolation.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all
SELECT test.template('plain', 'a, b, c');
SELECT stepwise.create_task('plain') AS first, stepwise.create_task('plain') AS second \gset

-- A queue.
SELECT stepwise.set_queue_limit('n', 2);
SELECT step_name FROM test.claim('{n}', 5);
SELECT count(*) FROM test.claim('{n}', 5);
SELECT count(*) FROM test.claim(NULL, 5);
SELECT reason, detail FROM stepwise.explain_step(:first, 'c');
SELECT kind, number, task_id IS NOT NULL AS held FROM stepwise.slots ORDER BY number;
-- The end of a lease is when a place comes back by itself.
SELECT stepwise.next_visible_at('{n}') > stepwise.now() + interval '50 seconds' AS after_the_lease;
SELECT stepwise.complete_step(test.receipt('a', :first));
SELECT stepwise.next_visible_at('{n}') <= stepwise.now() AS now;
SELECT reason FROM stepwise.explain_step(:first, 'c');
SELECT step_name FROM test.claim('{n}', 5);
SELECT stepwise.release_step(test.receipt('b', :first));
SELECT stepwise.cancel_step(:first, 'c');
SELECT step_name, task_id FROM test.claim('{n}', 5);
-- Held beyond their leases: the places come back with the claim.
SET stepwise.clock_offset = '5 minutes';
SELECT step_name, attempt FROM test.claim('{n}', 1);
SELECT * FROM stepwise.verify();
RESET stepwise.clock_offset;
-- By hand the same. (They are due since the ends of their leases, which are yet to come.)
SELECT stepwise.release_backoff(:second);
UPDATE stepwise.steps SET state = 'in_progress' WHERE task_id = :second AND step_id = 1;
SELECT * FROM test.refused(format('UPDATE stepwise.steps SET state = ''in_progress'' WHERE task_id = %s AND step_id = 2', :second));
UPDATE stepwise.queues SET max_in_flight = 3 WHERE name = 'n';
UPDATE stepwise.steps SET state = 'in_progress' WHERE task_id = :second AND step_id = 2;
SELECT count(*) FILTER (WHERE task_id IS NOT NULL) AS held, count(*) FROM stepwise.slots;
SELECT * FROM stepwise.verify();
-- Lowered below what is in progress: nothing until it is within.
SELECT stepwise.set_queue_limit('n', 1);
UPDATE stepwise.steps SET state = 'complete' WHERE state = 'in_progress' AND step_id = 2 AND task_id = :second;
SELECT count(*) FROM test.claim('{n}', 5);
UPDATE stepwise.steps SET state = 'complete' WHERE state = 'in_progress';
SELECT count(*) FROM test.claim('{n}', 5);
-- Taken away, and set anew while steps are in progress: they count.
SELECT stepwise.set_queue_limit('n', 0);
SELECT count(*) FROM stepwise.slots;
SELECT stepwise.create_tasks('plain', ARRAY['{}', '{}']::jsonb[]);
SELECT count(*) FROM test.claim('{n}', 4);
SELECT stepwise.set_queue_limit('n', 5);
SELECT count(*) FILTER (WHERE task_id IS NOT NULL) AS held, count(*) FROM stepwise.slots;
SELECT count(*) FROM test.claim('{n}', 4);
SELECT * FROM stepwise.verify();
SELECT * FROM test.refused('SELECT stepwise.set_queue_limit(''n'', 1001)');
SELECT * FROM test.refused('SELECT stepwise.set_queue_limit(''nope'', 1)');
SELECT code, message FROM test.refused('SELECT stepwise.set_queue_limit(NULL, 1)');
SELECT stepwise.set_queue_limit('n', 0);
UPDATE stepwise.steps SET state = 'complete' WHERE state = 'in_progress';

-- Pause and resume.
SELECT stepwise.pause_queue('n'), stepwise.pause_queue('n') AS again;
SELECT count(*) FROM test.claim('{n}', 4);
SELECT stepwise.resume_queue('n'), stepwise.resume_queue('n') AS again;
SELECT count(*) FROM test.claim('{n}', 9);
SELECT code, message, detail FROM test.refused('SELECT stepwise.pause_queue(''nope'')');

-- A task.
SELECT test.template('narrow', 'a, b, c, d > e', '{"max_parallel_steps": 2}');
SELECT stepwise.create_task('narrow') AS third, stepwise.create_task('narrow') AS fourth \gset
SELECT task_id = :third AS third, step_name FROM test.claim('{n}', 9);
SELECT reason, detail FROM stepwise.explain_step(:third, 'c');
SELECT stepwise.complete_step(test.receipt('a', :third));
SELECT task_id = :third AS third, step_name FROM test.claim('{n}', 9);
SELECT stepwise.fail_step(test.receipt('b', :third), retry_after => '1 hour');
SELECT task_id = :third AS third, step_name FROM test.claim('{n}', 9);
SELECT * FROM stepwise.verify();
SELECT stepwise.cancel_task(:third), stepwise.cancel_task(:fourth);
SELECT count(*) FROM stepwise.slots WHERE task_id IS NOT NULL;

-- A key of the context, over tasks and versions.
SELECT stepwise.register_template('{"namespace": "n", "name": "keyed", "concurrency_key": "/customer/id", "max_per_key": 1,
    "steps": [{"name": "x"}, {"name": "y"}]}');
SELECT stepwise.create_tasks('keyed', ARRAY['{"customer": {"id": 7}}', '{"customer": {"id": 7}}', '{"customer": {"id": 8}}',
    '{"customer": {"id": null}}', '{}']::jsonb[]);
SELECT context, concurrency_key FROM stepwise.tasks WHERE template_id = (SELECT max(template_id) FROM stepwise.templates) ORDER BY task_id;
SELECT context, step_name FROM test.claim('{n}', 20) JOIN stepwise.tasks USING (task_id) ORDER BY task_id, step_name;
SELECT reason, detail FROM stepwise.tasks, stepwise.explain_step(task_id, 'y') WHERE context = '{"customer": {"id": 8}}';
SELECT count(*) FROM test.claim('{n}', 20);
SELECT stepwise.complete_step(receipt) FROM test.held JOIN stepwise.tasks USING (task_id) WHERE context = '{"customer": {"id": 8}}';
SELECT context, step_name FROM test.claim('{n}', 20) JOIN stepwise.tasks USING (task_id);
SELECT * FROM stepwise.verify();
-- A purge takes the places of a key with its last task; a task that missed them gets new ones.
UPDATE stepwise.steps SET state = 'complete' WHERE state = 'in_progress';
UPDATE stepwise.steps SET state = 'resolved_manually' WHERE state = 'pending';
SELECT count(*) FROM stepwise.slots WHERE kind = 'key';
SET stepwise.clock_offset = '1 hour';
SELECT stepwise.purge_tasks('1 second') > 0 AS purged;
SELECT count(*) FROM stepwise.slots;
SELECT stepwise.create_task('keyed', '{"customer": {"id": 7}}') AS fifth \gset
DELETE FROM stepwise.slots;
SELECT step_name FROM test.claim('{n}', 1);
SELECT count(*) FROM test.claim('{n}', 1);
SELECT kind, key, number, task_id IS NOT NULL AS held FROM stepwise.slots;
-- Steps in front whose limit is reached do not keep others back.
SELECT stepwise.create_tasks('keyed', array_agg('{"customer": {"id": 7}}'::jsonb)) IS NOT NULL AS made FROM generate_series(1, 50) \g /dev/null
SELECT stepwise.create_task('plain') AS sixth \gset
SELECT task_id = :sixth AS sixth, step_name FROM test.claim('{n}', 9);
RESET stepwise.clock_offset;
-- A place whose holder's lease is over, in another queue and behind a step that has none.
SELECT stepwise.register_template('{"namespace": "q", "name": "apart", "concurrency_key": "/key", "max_per_key": 1,
    "steps": [{"name": "x", "queue": "q1"}, {"name": "y", "queue": "q2"}]}') IS NOT NULL AS registered;
SELECT stepwise.create_task('apart', '{"key": "b"}') AS task_b, stepwise.create_task('apart', '{"key": "a"}') AS task_a \gset
SELECT task_id = :task_b AS b, step_name FROM test.claim('{q1}', 1, '1 day');
SELECT task_id = :task_a AS a, step_name FROM test.claim('{q1}', 1, '1 minute');
SELECT count(*) FROM test.claim('{q2}', 1);
SET stepwise.clock_offset = '5 minutes';
SELECT task_id = :task_a AS a, step_name FROM test.claim('{q2}', 1);
SELECT * FROM stepwise.verify();
RESET stepwise.clock_offset;

-- Insight: what is live, what has happened since a time, and the same for Prometheus. Times are moved, so full seconds are exact.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
CREATE FUNCTION test.seconds(duration interval) RETURNS integer LANGUAGE sql AS $$ SELECT floor(extract(epoch FROM duration))::integer $$;
CREATE FUNCTION test.later(duration interval) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM stepwise.advance_clock(duration); END $$;
-- Each change of a step with how long it waited, and how long it ran.
CREATE VIEW test.times AS
SELECT h.task_id AS task, e.name AS step, h.from_state, h.to_state, h.attempt AS att, test.seconds(h.at - h.ready_at) AS waited, test.seconds(h.at - h.claimed_at) AS ran
FROM stepwise.transitions h JOIN stepwise.tasks k USING (task_id) JOIN stepwise.template_steps e ON e.template_id = k.template_id AND e.step_id = h.step_id
ORDER BY h.event_id;
CREATE VIEW test.depths AS
SELECT queue, paused, ready, retries_due AS due, delayed, in_backoff AS backoff, waiting, waiting_for_signal AS signal, for_operator AS operator, in_flight, expired_leases AS expired,
       test.seconds(oldest_ready_age) AS oldest, test.seconds(longest_in_flight) AS longest
FROM stepwise.queue_depths ORDER BY queue;
\set ECHO all

-- Nothing there: no row, zeros, no division by zero.
SELECT * FROM stepwise.live_steps;
SELECT * FROM stepwise.open_tasks;
SELECT * FROM stepwise.queue_depths;
SELECT * FROM stepwise.failed_steps;
SELECT * FROM stepwise.failed_tasks;
SELECT * FROM stepwise.get_step_durations();
SELECT * FROM stepwise.get_failures();
SELECT * FROM stepwise.get_workers();
SELECT count(*), sum(tasks_created + steps_claimed) AS events FROM stepwise.get_throughput();
SELECT to_jsonb(r) - 'active_connections' - 'max_connections' AS counts, active_connections > 0 AS connected, max_connections >= active_connections AS within FROM stepwise.get_system_health_counts() r \gx
SELECT active_tasks_count, total_namespaces_count, unique_task_types_count, system_health_score, task_throughput, completion_count, error_count,
       completion_rate, error_rate, avg_task_duration, avg_step_duration, step_throughput FROM stepwise.get_analytics_metrics() \gx
SELECT * FROM stepwise.get_slowest_tasks();
SELECT * FROM stepwise.get_slowest_steps();
SELECT line FROM string_to_table(stepwise.metrics_prometheus(), E'\n') AS line WHERE line NOT LIKE '#%' AND line NOT LIKE '%_bytes%' AND line NOT LIKE '%_info%';

-- When a step could be claimed, in every way in which that comes about.
SELECT stepwise.register_template('{"namespace": "n", "name": "t", "steps": [{"name": "a", "retry_limit": 9, "backoff": {"base": "1s"}}, {"name": "b", "depends_on": "a", "delay": "60s"}]}');
SELECT stepwise.create_task('t');
SELECT test.later('7 s');
SELECT step_name FROM test.claim(lease => '20 s');
SELECT test.later('3 s');
SELECT stepwise.fail_step(test.receipt('a'));
-- The backoff of 2 s ends, 5 s pass.
SELECT test.later('7 s');
SELECT step_name FROM test.claim();
-- A pause that the worker asks for counts from its report.
SELECT test.later('4 s');
SELECT stepwise.fail_step(test.receipt('a'), retry_after => '1 s');
SELECT test.later('2 s');
SELECT condition, test.seconds(age) AS age, test.seconds(oldest_ready_age) AS oldest FROM stepwise.live_steps JOIN stepwise.queue_depths USING (queue);
SELECT step_name FROM test.claim(lease => '10 s');
-- The lease ends after 10 s; 6 s later tick notices, and 1 s later somebody comes. It has waited since the lease was over.
SELECT test.later('16 s');
SELECT expired_leases FROM stepwise.tick();
SELECT condition, test.seconds(age) AS age, test.seconds(oldest_ready_age) AS oldest FROM stepwise.live_steps JOIN stepwise.queue_depths USING (queue);
SELECT test.later('1 s');
SELECT step_name FROM test.claim(lease => '10 s');
-- The same, noticed by the claim itself.
SELECT test.later('15 s');
SELECT step_name FROM test.claim(lease => '10 s');
-- A late report that asks for no pause: since the report.
SELECT test.later('12 s');
SELECT stepwise.fail_step(test.receipt('a'), retry_after => '0');
SELECT test.later('1 s');
-- By UPDATE, and given back.
UPDATE stepwise.steps SET state = 'in_progress' WHERE step_id = 1;
SELECT test.later('2 s');
UPDATE stepwise.steps SET state = 'pending' WHERE step_id = 1;
SELECT test.later('3 s');
SELECT step_name FROM test.claim();
SELECT test.later('30 s');
SELECT stepwise.complete_step(test.receipt('a'));
-- Ready at the end of the delay, not when the parent was done.
SELECT test.later('65 s');
SELECT step_name FROM test.claim();
SELECT stepwise.cancel_task(1);
SELECT * FROM test.times;
SELECT id IS NOT NULL AS id, to_state, ready_at IS NULL AS no_wait, claimed_at IS NULL AS no_run FROM stepwise.step_transitions WHERE task_id = 1 AND sort_key < 3 ORDER BY id;
-- Where the table has a trigger, history is written by a statement: the same columns.
CREATE FUNCTION test.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER see AFTER INSERT ON stepwise.transitions FOR EACH ROW EXECUTE FUNCTION test.see();
SELECT stepwise.create_task('t', run_at => stepwise.now() - interval '1 day');
SELECT test.later('5 s');
SELECT step_name FROM test.claim();
SELECT test.later('1 s');
SELECT stepwise.complete_step(test.receipt('a'));
DROP TRIGGER see ON stepwise.transitions;
SELECT * FROM test.times WHERE task = 2;

-- A wait is no work: it has neither.
SELECT stepwise.register_template('{"namespace": "n", "name": "w", "steps": [{"name": "sign", "kind": "wait"}, {"name": "soon", "kind": "wait", "timeout": "1h"}]}');
SELECT stepwise.create_task('w');
SELECT test.later('9 s');
SELECT stepwise.signal_step(3, 'sign'), stepwise.signal_step(3, 'soon');
SELECT * FROM test.times WHERE task = 3;
SELECT stepwise.cancel_task(2);

-- Every condition of a live step.
SELECT stepwise.register_template('{"namespace": "m", "name": "many", "version": "2.0.0", "defaults": {"queue": "q"}, "steps": [
    {"name": "held"}, {"name": "lost"}, {"name": "ready", "queue": "r"}, {"name": "due"}, {"name": "resting"}, {"name": "signal", "kind": "wait"},
    {"name": "later", "delay": "1h"}, {"name": "manual", "retry_limit": 0, "queue": "r"}, {"name": "child", "depends_on": ["held", "lost"]}]}');
SELECT stepwise.create_task('many');
SELECT step_name FROM test.claim('{q}', 4, lease => '100 s', worker => 'w9') ORDER BY 1;
SELECT stepwise.fail_step(test.receipt('due'), '"no"', retry_after => '40 s'), stepwise.fail_step(test.receipt('resting'), '"no"', retry_after => '1 h');
SELECT stepwise.extend_lease(test.receipt('lost'), '10 s');
SELECT test.later('50 s');
SELECT step, queue, condition, state, worker, attempts, retry_limit, test.seconds(age) AS age FROM stepwise.live_steps ORDER BY task_id, step_id;
SELECT * FROM test.depths;
SELECT task_id, namespace, template, version, state, total_steps, live_steps, completed_steps, waiting_steps FROM stepwise.open_tasks;
SELECT worker, test.seconds(stepwise.now() - last_seen) AS ago, claims, completed, failed, lost_leases, in_flight, expired_leases, test.seconds(longest_in_flight) AS longest, holds
FROM stepwise.get_workers() ORDER BY 1;
SELECT stepwise.pause_queue('r');
SELECT queue, paused, ready FROM test.depths WHERE paused;
SELECT stepwise.resume_queue('r');
-- The reports come; one step fails for good, and is what an operator sees.
SELECT stepwise.complete_step(test.receipt('held'));
SELECT stepwise.fail_step(test.receipt('lost'), '{"code": 7}', retryable => false);
SELECT task_id, step, queue, task_state, attempts, retry_limit, worker, error FROM stepwise.failed_steps;
SELECT namespace, template, step, failures, lease_expired, tasks, last_task_id, last_error FROM stepwise.get_failures() ORDER BY namespace, step;
SELECT total_tasks, pending_tasks, in_progress_tasks, complete_tasks, error_tasks, cancelled_tasks, total_steps, pending_steps, in_progress_steps, complete_steps, error_steps,
       cancelled_steps, retryable_error_steps, exhausted_retry_steps, in_backoff_steps, totals_estimated FROM stepwise.get_system_health_counts() \gx
-- The same as a count of all rows.
CREATE VIEW test.counted AS
SELECT (SELECT ROW(count(*), count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'in_progress'), count(*) FILTER (WHERE state = 'complete'),
               count(*) FILTER (WHERE state = 'error'), count(*) FILTER (WHERE state = 'cancelled'), count(*) FILTER (WHERE state = 'resolved_manually')) FROM stepwise.tasks)
     = ROW(r.total_tasks, r.pending_tasks, r.in_progress_tasks, r.complete_tasks, r.error_tasks, r.cancelled_tasks, r.resolved_manually_tasks) AS tasks,
       (SELECT ROW(count(*), count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'in_progress'), count(*) FILTER (WHERE state IN ('complete', 'resolved_manually', 'skipped')),
               count(*) FILTER (WHERE state = 'error'), count(*) FILTER (WHERE state = 'cancelled')) FROM stepwise.steps)
     = ROW(r.total_steps, r.pending_steps, r.in_progress_steps, r.complete_steps, r.error_steps, r.cancelled_steps) AS steps
FROM stepwise.get_system_health_counts() r;
SELECT * FROM test.counted;

-- The one task in error, one that has timed out, one that is retried and completes: each counts once.
SELECT test.template('one', 'x > y', '{"namespace": "o", "timeout": "30 s"}');
SELECT stepwise.create_task('one') FROM generate_series(1, 3);
SELECT step_name FROM test.claim('{o}', 1);
SELECT stepwise.fail_step(test.receipt('x'), retryable => false);
SELECT step_name FROM test.claim('{o}', 1);
SELECT stepwise.fail_step(test.receipt('x'), retryable => false);
SELECT stepwise.retry_task(6);
SELECT * FROM test.work(1, '{o}');
SELECT * FROM test.counted;
SELECT * FROM test.work(1, '{o}');
SELECT test.later('1 min');
SELECT ended_tasks FROM stepwise.tick();
SELECT task_id, state, failed, cancelled FROM test.tasks;
SELECT * FROM test.counted;
-- What has timed out has no failed step, is not retried, and is closed by hand: then it wants nobody any more.
SELECT task_id, namespace, template, version, timed_out, total_steps, completed_steps, failed_steps, cancelled_steps, finished_at <= stepwise.now() AS finished FROM stepwise.failed_tasks ORDER BY task_id;
SELECT stepwise.retry_task(task_id), (SELECT state FROM stepwise.tasks k WHERE k.task_id = t.task_id) FROM stepwise.failed_tasks t WHERE timed_out;
SELECT split_part(stepwise.render_task(task_id), ',', 1) AS picture FROM stepwise.failed_tasks WHERE timed_out;
BEGIN;
UPDATE stepwise.tasks SET state = 'resolved_manually' WHERE timed_out AND state = 'error';
SELECT task_id, timed_out FROM stepwise.failed_tasks ORDER BY task_id;
ROLLBACK;
BEGIN;
SELECT stepwise.cancel_task(task_id) FROM stepwise.failed_tasks WHERE timed_out;
SELECT task_id, timed_out FROM stepwise.failed_tasks ORDER BY task_id;
SELECT value FROM stepwise.prometheus_samples() WHERE family = 'stepwise_tasks' AND labels ~ 'namespace="o".*state="error"';
SELECT * FROM stepwise.verify();
ROLLBACK;
SELECT active_tasks_count, total_namespaces_count, unique_task_types_count, system_health_score, task_throughput, completion_count, error_count,
       completion_rate, error_rate, step_throughput FROM stepwise.get_analytics_metrics() \gx
-- From now on: what was created since.
SELECT task_throughput, completion_count, completion_rate, step_throughput FROM stepwise.get_analytics_metrics(stepwise.now());
SELECT task_id, task_name, namespace_name, version, floor(duration_seconds) AS seconds, step_count, completed_steps, error_steps, initiator FROM stepwise.get_slowest_tasks();
SELECT task_id FROM stepwise.get_slowest_tasks(limit_count => 1, namespace_filter => 'o', task_name_filter => 'one', version_filter => '0.1.0');
SELECT task_id FROM stepwise.get_slowest_tasks(namespace_filter => 'other');
SELECT task_id, step_id, step_name, task_name, namespace_name, version, floor(duration_seconds) AS seconds, attempts, retryable, step_status
FROM stepwise.get_slowest_steps(limit_count => 3);
SELECT task_id, step_id FROM stepwise.get_slowest_steps(task_name_filter => 'many', version_filter => '2.0.0');

-- Durations by step. A release, a cancellation and the end of a lease are no runs; a day before its task was made none has waited.
SELECT namespace, template, step, claims, completed, failed, test.seconds(wait_p50) AS wait_50, test.seconds(wait_p99) AS wait_99, test.seconds(run_p50) AS run_50,
       test.seconds(run_p90) AS run_90, test.seconds(run_p95) AS run_95, test.seconds(run_p99) AS run_99 FROM stepwise.get_step_durations();
SELECT step, claims FROM stepwise.get_step_durations(stepwise.now() - interval '1 h', 'm', 'many', '2.0.0');
SELECT count(*) FROM stepwise.get_step_durations(namespace_filter => 'none');
SELECT count(*) AS minutes, sum(tasks_created) AS created, sum(tasks_completed) AS completed, sum(tasks_failed) AS failed, sum(tasks_cancelled) AS cancelled,
       sum(steps_claimed) AS claimed, sum(steps_completed) AS done, sum(steps_failed) AS not_done FROM stepwise.get_throughput();
SELECT count(*) AS minutes, sum(steps_claimed) AS claimed FROM stepwise.get_throughput(stepwise.now() + interval '1 day');

-- A label is escaped; each family has its help and type once, before its samples.
SELECT stepwise.register_template($${"namespace": "a\\b", "name": "say \"hi\"\nand go", "steps": [{"name": "s"}]}$$);
SELECT stepwise.create_task(E'say "hi"\nand go');
SELECT line FROM string_to_table(stepwise.metrics_prometheus(), E'\n') AS line WHERE line ~ 'hi' ;
SELECT stepwise.prometheus_labels('{a,b,c}', ARRAY['1', NULL, E'\\n"\n']), stepwise.prometheus_labels('{}', '{}');
SELECT line FROM string_to_table(stepwise.metrics_prometheus(), E'\n') AS line WHERE line ~ '^# TYPE';
SELECT line FROM string_to_table(stepwise.metrics_prometheus(), E'\n') AS line WHERE line ~ '(queue="(q|r)"|_total|^stepwise_(tasks|failed_steps|waiting|busy))' AND line !~ '_seconds';
SELECT count(*) AS samples, count(DISTINCT (family, labels)) AS series, count(*) FILTER (WHERE value < 0) AS negative FROM stepwise.prometheus_samples();

-- Bad times and numbers.
SELECT r.* FROM (VALUES ('SELECT * FROM stepwise.get_step_durations(''infinity'')'), ('SELECT * FROM stepwise.get_throughput(''-infinity'')'),
    ('SELECT * FROM stepwise.get_workers(''-infinity'')'), ('SELECT * FROM stepwise.get_failures(''infinity'')'),
    ('SELECT * FROM stepwise.get_analytics_metrics(''infinity'')'), ('SELECT * FROM stepwise.get_slowest_tasks(''infinity'')'),
    ('SELECT * FROM stepwise.get_slowest_steps(limit_count => -1)'), ('SELECT * FROM stepwise.get_slowest_tasks(limit_count => -2147483648)')) AS v (statement), LATERAL test.refused(statement) r;

-- A reader sees all of it, and no other.
SET client_min_messages = warning; DROP ROLE IF EXISTS regress_reader; RESET client_min_messages;
CREATE ROLE regress_reader;
SELECT stepwise.grant_access('regress_reader', 'reader');
SET ROLE regress_reader;
SELECT (SELECT count(*) FROM stepwise.live_steps) > 0 AS live, (SELECT count(*) FROM stepwise.open_tasks) > 0 AS open, (SELECT count(*) FROM stepwise.queue_depths) AS queues,
       (SELECT count(*) FROM stepwise.failed_steps) AS failed, (SELECT count(*) FROM stepwise.failed_tasks) AS failed_tasks, length(stepwise.metrics_prometheus()) > 1000 AS text;
SELECT (SELECT count(*) FROM stepwise.get_step_durations()) > 0 AS durations, (SELECT count(*) FROM stepwise.get_workers()) > 0 AS workers,
       (SELECT total_tasks FROM stepwise.get_system_health_counts()) > 0 AS health, (SELECT task_throughput FROM stepwise.get_analytics_metrics()) > 0 AS analytics;
RESET ROLE;
-- The views show what the reader may see, not what their owner may.
REVOKE SELECT ON stepwise.tasks FROM regress_reader;
GRANT USAGE ON SCHEMA test TO regress_reader;
SET ROLE regress_reader;
SELECT r.code FROM (VALUES ('SELECT * FROM stepwise.open_tasks'), ('SELECT * FROM stepwise.failed_steps'), ('SELECT stepwise.metrics_prometheus()')) AS v (statement), LATERAL test.refused(statement) r;
RESET ROLE;
REVOKE USAGE ON SCHEMA test FROM regress_reader;
SELECT stepwise.revoke_access('regress_reader');
DROP ROLE regress_reader;
SELECT * FROM stepwise.verify();

-- Readers: readiness, context, viable steps, backoff, clock. They write nothing, take no transaction id, and a filter
-- or a batch changes no value.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all

SELECT test.template('line', 'a > b, b > c');
SELECT test.template('vee', 'a > c, b > c');
SELECT stepwise.create_tasks('line', '{"{}","{}"}');
SELECT stepwise.create_task('vee');
SELECT count(*) FROM test.claim(max_steps => 3);
SELECT stepwise.complete_step(test.receipt('a', 1)), stepwise.fail_step(test.receipt('a', 2), retryable => false);
SELECT task_id, step_id, name, current_state, dependencies_satisfied AS deps, retry_eligible AS retry,
       ready_for_execution AS ready, total_parents AS parents, completed_parents AS done, attempts, retry_limit,
       processed, in_process, last_failure_at IS NOT NULL AS failed, next_retry_at IS NOT NULL AS retries
FROM stepwise.get_step_readiness_status_batch('{3,1,2,99}');
SELECT * FROM stepwise.get_task_execution_contexts_batch('{3,1,2,99}');
-- Filtered or batched, each row is what it is alone.
SELECT count(*) AS differences FROM (
    SELECT * FROM stepwise.get_step_readiness_status_batch('{1,2,3}')
    EXCEPT ALL (SELECT s.* FROM generate_series(1, 3) t, generate_series(1, 3) n,
        LATERAL stepwise.get_step_readiness_status(t, ARRAY[n]) s)) d;
SELECT count(*) AS differences FROM (
    SELECT * FROM stepwise.get_task_execution_contexts_batch('{1,2,3}')
    EXCEPT ALL (SELECT c.* FROM generate_series(1, 3) t, LATERAL stepwise.get_task_execution_context(t) c)) d;
-- Neighbours are read in one go, but never one that was not asked for.
SELECT task_id, count(*) FROM stepwise.get_step_readiness_status_batch('{1,3,9223372036854775807}') GROUP BY 1 ORDER BY 1;
SELECT task_id, total_steps FROM stepwise.get_task_execution_contexts_batch('{3,1}');
-- Called in the select list, the rows are the same.
SELECT count(*) AS differences FROM (
    SELECT (r).* FROM (SELECT stepwise.get_step_readiness_status_batch('{1,2,3}') AS r) AS a
    EXCEPT ALL SELECT * FROM stepwise.get_step_readiness_status_batch('{1,2,3}')) AS d;
SELECT (stepwise.get_task_execution_context(2)).execution_status;
SELECT step_id FROM stepwise.get_step_readiness_status(1, '{3,1,77,NULL}');
SELECT count(*) AS none FROM stepwise.get_step_readiness_status(1, '{}');
SELECT count(*) AS none FROM stepwise.get_step_readiness_status(99);
SELECT count(*) AS none FROM stepwise.get_step_readiness_status(NULL);
SELECT count(*) AS none FROM stepwise.get_task_execution_context(99);
SELECT count(*) AS none FROM stepwise.get_task_execution_contexts_batch(NULL);
SELECT task_id, step_id, name, current_state, attempts, priority, visible_at <= stepwise.now() AS due FROM stepwise.get_viable_steps(1);
SELECT count(*) AS none FROM stepwise.get_viable_steps(2);

-- calculate_backoff: 2^attempts times the base, up to the cap; jitter is predictable; no overflow.
SELECT attempts, stepwise.calculate_backoff(attempts) FROM unnest('{-1,0,1,2,3,4,5,6,2147483647}'::integer[]) AS attempts;
SELECT stepwise.calculate_backoff(3, '500 ms', '1 day') AS four_seconds, stepwise.calculate_backoff(20, '1 hour', '100 days') AS cap;
SELECT stepwise.calculate_backoff(3, jitter => 0.5, task_id => 1, step_id => 2) AS once,
       stepwise.calculate_backoff(3, jitter => 0.5, task_id => 1, step_id => 2) = stepwise.calculate_backoff(3, jitter => 0.5, task_id => 1, step_id => 2) AS same,
       stepwise.calculate_backoff(3, jitter => 0.5, task_id => 1, step_id => 2) <> stepwise.calculate_backoff(3, jitter => 0.5, task_id => 2, step_id => 2) AS other;
SELECT bool_and(b BETWEEN '8 s' AND '12 s') AS within, count(DISTINCT b) > 900 AS spread
FROM generate_series(1, 1000) t, stepwise.calculate_backoff(3, jitter => 0.5, task_id => t) b;
SELECT stepwise.calculate_backoff(NULL) IS NULL AS strict;

-- The clock: moves inside a transaction, and by clock_offset, which only a superuser sets.
BEGIN;
SELECT stepwise.now() - clock_timestamp() BETWEEN '-1 s' AND '1 s' AS is_the_clock, stepwise.now() > now() AS moves;
SET LOCAL stepwise.clock_offset = '90 minutes';
SELECT stepwise.now() - clock_timestamp() BETWEEN '89 min' AND '91 min' AS moved;
SET LOCAL stepwise.clock_offset = '-2.5 seconds';
SELECT stepwise.now() - clock_timestamp() BETWEEN '-3 s' AND '-2 s' AS back;
COMMIT;
SHOW stepwise.clock_offset;
SELECT r.* FROM test.refused($$SET stepwise.clock_offset = 'soon'$$) r;
SELECT r.* FROM test.refused($$SET stepwise.notify = 'loud'$$) r;
-- Far beyond any clock: no overflow, and nothing that is not due.
SET stepwise.clock_offset = '200000000 hours';
SELECT extract(year FROM stepwise.now()) > 24000 AS far;
SELECT count(*) > 0 AS leases_over FROM stepwise.claim_steps('w', max_steps => 10);
SELECT r.* FROM test.refused($$SET stepwise.clock_offset = '2000000000000 hours'$$) r;
RESET stepwise.clock_offset;

-- Each reader in a read-only transaction, without a transaction id.
BEGIN READ ONLY;
SELECT count(*) FROM stepwise.get_step_readiness_status(1);
SELECT count(*) FROM stepwise.get_step_readiness_status_batch('{1,2}');
SELECT count(*) FROM stepwise.get_task_execution_context(1);
SELECT count(*) FROM stepwise.get_task_execution_contexts_batch('{1,2}');
SELECT count(*) >= 0 AS viable FROM stepwise.get_viable_steps(1);
SELECT stepwise.next_visible_at() IS NOT NULL AS next;
SELECT stepwise.template_definition('line') ->> 'name' AS name;
SELECT stepwise.now() IS NOT NULL AS now, stepwise.calculate_backoff(1);
SELECT count(*) > 0 AS history FROM stepwise.step_transitions;
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_transaction_id;
COMMIT;
BEGIN READ ONLY;
SELECT code, message FROM test.refused('SELECT * FROM stepwise.claim_steps(''w'')');
SELECT code, message FROM test.refused('SELECT stepwise.create_task(''line'')');
COMMIT;

-- The history as state-machine libraries lay it out.
SELECT task_id, from_state, to_state, sort_key, most_recent FROM stepwise.task_transitions WHERE task_id = 1 ORDER BY id;
SELECT step_id, from_state, to_state, sort_key, most_recent, attempt FROM stepwise.step_transitions WHERE task_id = 1 AND step_id = 1 ORDER BY id;
-- In a parallel worker.
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
CREATE TABLE test.many AS SELECT n % 3 + 1 AS task FROM generate_series(1, 3000) n;
ALTER TABLE test.many SET (parallel_workers = 2);
SELECT count(*) FROM test.many WHERE (SELECT ready_steps FROM stepwise.get_task_execution_context(task)) >= 0;

-- Long names come back whole.
SELECT test.template(repeat('t', 127), repeat('x', 127) || ' > ' || repeat('y', 126));
SELECT stepwise.create_task(repeat('t', 127)) AS task \gset
SELECT name = repeat(CASE step_id WHEN 1 THEN 'x' ELSE 'y' END, 128 - step_id) AS whole FROM stepwise.get_step_readiness_status(:task);
SELECT template_name = repeat('t', 127) AS whole FROM stepwise.get_task_execution_context(:task);

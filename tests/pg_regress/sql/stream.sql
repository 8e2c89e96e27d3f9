-- Subscriptions: what they are given, in which order, until when it comes again, and what is refused.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
-- An event waits for every transaction of the cluster that could precede it. Those that autovacuum may have are waited for.
CREATE FUNCTION test.read(subscription text, max integer DEFAULT 100, claims boolean DEFAULT false)
RETURNS TABLE (event text, id bigint, task bigint, step text, att integer, template text, change text)
LANGUAGE plpgsql AS $$
BEGIN
    WHILE EXISTS (SELECT FROM pg_stat_activity WHERE backend_type <> 'client backend' AND backend_xid IS NOT NULL) LOOP
        PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
    END LOOP;
    RETURN QUERY EXECUTE format(
        'SELECT event, event_id, task_id, step_name, attempt, namespace || ''/'' || template || ''@'' || version, '
        'coalesce(from_state, ''-'') || '' > '' || to_state FROM stepwise.%I($1, $2)',
        CASE WHEN claims THEN 'claim_events' ELSE 'read_events' END) USING subscription, max;
END
$$;
\set ECHO all

-- Arguments, names and filters that are refused, and nothing is stored.
SELECT call, r.* FROM (VALUES
    ('create_subscription(NULL)'), ('create_subscription('''')'), ('create_subscription(''   '')'), ('create_subscription(repeat(''x'', 256))'),
    ('create_subscription(''s'', start_from => NULL)'), ('create_subscription(''s'', start_from => ''yesterday'')'),
    ('create_subscription(''s'', start_from => ''7'')'), ('create_subscription(''s'', start_from => ''-1'')'),
    ('create_subscription(''s'', ''[]'')'), ('create_subscription(''s'', ''{"events": "step.*"}'')'),
    ('create_subscription(''s'', ''{"event": "step.finished"}'')'), ('create_subscription(''s'', ''{"event": []}'')'),
    ('create_subscription(''s'', ''{"queue": 7}'')'), ('create_subscription(''s'', ''{"template": [null]}'')'),
    ('create_subscription(''s'', ''{"namespace": ""}'')'),
    ('read_events(NULL)'), ('read_events(''s'')'), ('read_events(''s'', 0)'), ('read_events(''s'', 10001)'), ('read_events(''s'', NULL)'),
    ('claim_events(''s'')'), ('ack_events(''s'', 1)'), ('ack_events(NULL, 1)'), ('ack_events(''s'', NULL)'),
    ('drop_subscription(''s'')'), ('drop_subscription(NULL)')) AS v (call), test.refused('SELECT stepwise.' || call) r;
SELECT count(*) FROM stepwise.subscriptions;

-- A task whose step fails twice and ends well: the events of docs/events.md, those of one change together.
SELECT test.template('one', 'a', '{"namespace": "shop", "defaults": {"retry_limit": 2}}');
SELECT stepwise.create_subscription('all');
SELECT * FROM test.refused('SELECT stepwise.create_subscription(''all'')');
SELECT stepwise.create_task('one') AS task_id \gset
SELECT count(*) FROM test.claim();
SELECT stepwise.fail_step(test.receipt('a'), '"busy"', retry_after => '0');
SELECT count(*) FROM test.claim();
SELECT stepwise.fail_step(test.receipt('a'));
SELECT stepwise.reset_step(:task_id, 'a', 'again', 'ann');
SELECT count(*) FROM test.claim();
SELECT stepwise.fail_step(test.receipt('a'));
SELECT stepwise.set_backoff(:task_id, 'a', '0'), stepwise.set_backoff(:task_id, 'a', '1 hour'), stepwise.release_backoff(:task_id);
SELECT count(*) FROM test.claim();
SELECT stepwise.complete_step(test.receipt('a'));
SELECT * FROM test.read('all');
SELECT event, actor, worker, metadata FROM stepwise.read_events('all') WHERE event IN ('step.failed', 'step.retry_requested', 'task.retry_requested');
-- Whole changes only, at most max, but at least one change.
SELECT max(event_id) AS last_event FROM stepwise.transitions \gset
SELECT count(*) = max AS full, max FROM generate_series(1, 8) AS max, LATERAL test.read('all', max) GROUP BY max ORDER BY max;
SELECT event, id FROM test.read('all', 1);
SELECT event, id FROM test.read('all', 5);
SELECT stepwise.ack_events('all', :last_event - 2), stepwise.ack_events('all', 1), stepwise.ack_events('all', -1);
SELECT event, id = :last_event AS last FROM test.read('all', 1);
-- Never beyond what there is, and never back.
SELECT code, message, hint FROM test.refused(format('SELECT stepwise.ack_events(''all'', %s)', :last_event + 1));
SELECT stepwise.ack_events('all', :last_event) = :last_event AS acked;
SELECT * FROM test.read('all');

-- Where to begin.
SELECT stepwise.create_subscription('begin', start_from => 'start'), stepwise.create_subscription('third', start_from => '3'),
       stepwise.create_subscription('late') = :last_event AS now;
SELECT (SELECT min(id) FROM test.read('begin')) AS begin, (SELECT min(id) FROM test.read('third')) AS third, (SELECT count(*) FROM test.read('late')) AS late;

-- Filters.
SELECT test.template('two', 'a > b', '{"namespace": "bank"}'), stepwise.register_template('{"namespace": "shop", "name": "mail", "steps": [{"name": "send", "queue": "post"}, {"name": "file", "depends_on": "send"}]}');
SELECT stepwise.create_task('two'), stepwise.create_task('mail');
SELECT count(*) FROM test.work(10);
SELECT count(*) FROM test.work(10);
SELECT filter, (SELECT stepwise.create_subscription(filter, filter::jsonb, :'last_event')) > 0 AS made FROM (VALUES
    ('{"event": ["task.completed", "step.failed"]}'), ('{"event": "step.*", "namespace": "bank"}'), ('{"template": ["mail", "none"]}'),
    ('{"queue": "post"}'), ('{"event": "task.*", "queue": "post"}'), ('{}')) AS v (filter);
SELECT name, string_agg(coalesce(step || ' ', '') || event, ', ' ORDER BY id, event) AS events
FROM stepwise.subscriptions LEFT JOIN LATERAL test.read(name) ON true WHERE name LIKE '{%' GROUP BY name ORDER BY name COLLATE "C";
-- What a filter passes over need not be acknowledged.
SELECT name, position = (SELECT max(event_id) FROM stepwise.transitions) AS at_the_end FROM stepwise.subscriptions WHERE name LIKE '{%' ORDER BY name COLLATE "C";

-- Events of a transaction come after its commit; a transaction that has written before it reads waits for itself.
SELECT stepwise.create_subscription('own') > 0 AS made;
BEGIN;
SELECT stepwise.create_task('one', namespace => 'shop') AS task_id \gset
SELECT count(*) FROM test.read('own');
COMMIT;
SELECT event, task = :task_id AS task FROM test.read('own');
-- Rolled back: never; and its ids are passed.
BEGIN; SELECT count(*) FROM stepwise.create_tasks('one', '{"{}","{}"}', namespace => 'shop'); ROLLBACK;
SELECT count(*) FROM test.read('own');
-- A reader that finds nobody at work writes nothing; it may be read-only, and at any level.
BEGIN; SELECT count(*) FROM test.read('own'); SELECT pg_current_xact_id_if_assigned() IS NULL AS no_xid; COMMIT;
BEGIN READ ONLY; SELECT count(*) FROM test.read('own'); SELECT count(*) > 0 AS lag FROM stepwise.subscription_lag(); COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM test.read('own'); COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE; SELECT count(*) FROM test.read('own'); COMMIT;
SELECT code FROM test.refused('SET TRANSACTION READ ONLY; SELECT * FROM stepwise.claim_events(''own'')');
-- Read, work and acknowledge in one transaction.
BEGIN; SELECT id, stepwise.ack_events('own', id) = id AS acked FROM test.read('own', claims => true); ROLLBACK;
BEGIN; SELECT count(*) FROM (SELECT stepwise.ack_events('own', id) FROM test.read('own', claims => true)) a; COMMIT;
SELECT count(*) FROM test.read('own');

-- How far they are behind; history that one has not acknowledged is not purged.
SELECT subscription, position >= :last_event AS position, safe_event = last_event AS safe, events_behind > 0 AS behind, behind_since IS NOT NULL AS since
FROM stepwise.subscription_lag() WHERE subscription NOT LIKE '{%';
SELECT task_id FROM stepwise.tasks WHERE state = 'complete' ORDER BY task_id;
SELECT stepwise.purge_tasks('0') AS purged;
SELECT stepwise.drop_subscription('begin'), stepwise.drop_subscription('third');
SELECT stepwise.purge_tasks('0') AS purged;
SELECT task_id FROM stepwise.tasks WHERE state = 'complete' ORDER BY task_id;
SELECT count(stepwise.ack_events(name, (SELECT max(event_id) FROM stepwise.transitions))) FROM stepwise.subscriptions;
SELECT stepwise.purge_tasks('0') AS purged;

-- With a trigger on the history its rows are stored by a statement: the same events.
CREATE FUNCTION test.nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER nothing AFTER INSERT ON stepwise.transitions FOR EACH ROW EXECUTE FUNCTION test.nothing();
SELECT stepwise.create_task('one', namespace => 'shop') AS task_id \gset
SELECT count(*) FROM test.claim('{shop}', 10);
SELECT stepwise.fail_step(test.receipt('a', :task_id)), stepwise.cancel_task(:task_id);
SELECT event, step, att, change FROM test.read('all') WHERE task = :task_id;
DROP TRIGGER nothing ON stepwise.transitions;

-- A reader far behind pays for what it is given. The history has some 700 pages.
SELECT stepwise.create_subscription('far', start_from => 'start') AS zero, stepwise.create_subscription('mails', '{"template": "mail"}', 'start') AS zero;
SET stepwise.notify = off;
SELECT count(*) FROM stepwise.create_tasks('one', array_fill('{}'::jsonb, ARRAY[30000]), namespace => 'shop');
SELECT count(*) FROM stepwise.create_tasks('one', array_fill('{}'::jsonb, ARRAY[30000]), namespace => 'shop');
SELECT stepwise.create_task('mail') AS mail_id \gset
SELECT count(*) FROM stepwise.create_tasks('one', array_fill('{}'::jsonb, ARRAY[10]), namespace => 'shop');
CREATE FUNCTION test.buffers(call text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, TIMING off, FORMAT json) SELECT * FROM stepwise.' || call INTO plan;
    RETURN (plan -> 0 -> 'Plan' ->> 'Shared Hit Blocks')::bigint + (plan -> 0 -> 'Plan' ->> 'Shared Read Blocks')::bigint;
END
$$;
SELECT pg_relation_size('stepwise.transitions') / 8192 > 600 AS large, count(*) AS read FROM test.read('far');
-- The first read has met rows that no summary covers, and has seen to it.
SELECT test.buffers('read_events(''far'')') < 200 AS few;
SELECT stepwise.ack_events('far', (SELECT max(event_id) - 50 FROM stepwise.transitions)) > 0 AS acked;
SELECT test.buffers('read_events(''far'')') < 200 AS few, (SELECT count(*) FROM test.read('far')) AS read;
-- A filter is passed through the rest once.
SELECT event, task = :mail_id AS mail FROM test.read('mails');
SELECT stepwise.ack_events('mails', (SELECT max(id) FROM test.read('mails'))) > 0 AS acked;
SELECT count(*) FROM test.read('mails');
SELECT test.buffers('read_events(''mails'')') < 200 AS few;
-- A gap in the history, as a purge leaves it, is passed in leaps.
SELECT setval('stepwise.transitions_event_id_seq', 40000000000) > 0 AS leap;
SELECT stepwise.create_task('mail') AS mail_id \gset
SELECT event, id, task = :mail_id AS mail FROM test.read('mails');
SELECT test.buffers('read_events(''mails'')') < 2500 AS few;
SELECT stepwise.drop_subscription(name) FROM stepwise.subscriptions ORDER BY name;

-- History goes straight into its table; where somebody has hung a trigger or a partial index on it, by a statement: with
-- the same rows. Rows of every length, one or thousands at once.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
-- One task of every kind of row: claims, results, failures with small and large errors, long names of workers, a reason.
CREATE FUNCTION test.walk() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    task bigint := stepwise.create_task('vee');
BEGIN
    PERFORM test.claim(max_steps => 1, worker => repeat(U&'\+01F600', 255));
    PERFORM stepwise.fail_step(test.receipt('a'), jsonb_build_object('text', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) n)),
        retry_after => '0');
    PERFORM test.claim(max_steps => 2);
    PERFORM stepwise.complete_steps(ARRAY[test.receipt('a'), test.receipt('b')]);
    PERFORM stepwise.cancel_step(task, 'c', 'enough', 'ann');
    RETURN task;
END
$$;
CREATE VIEW test.rows AS
SELECT task_id, step_id, attempt, from_state, to_state, worker, actor, metadata, tx IS NOT NULL AS tx, at IS NOT NULL AS at
FROM stepwise.transitions ORDER BY event_id;
\set ECHO all

SELECT test.template('vee', 'a > c, b > c');
SELECT test.walk() AS straight;
SELECT step_id, attempt, from_state, to_state, length(worker) AS worker, actor, length(metadata::text) AS metadata FROM test.rows WHERE task_id = 1;
CREATE TABLE test.seen (event_id bigint, to_state text);
CREATE FUNCTION test.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO test.seen VALUES (NEW.event_id, NEW.to_state); RETURN NULL; END $$;
CREATE TRIGGER see AFTER INSERT ON stepwise.transitions FOR EACH ROW EXECUTE FUNCTION test.see();
SELECT test.walk() AS by_statement;
SELECT count(*) AS differences FROM (
    SELECT step_id, attempt, from_state, to_state, worker, actor, metadata, tx, at FROM test.rows WHERE task_id = 1
    EXCEPT ALL SELECT step_id, attempt, from_state, to_state, worker, actor, metadata, tx, at FROM test.rows WHERE task_id = 2) d;
SELECT count(*) AS seen, count(*) = (SELECT count(*) FROM stepwise.transitions WHERE task_id = 2) AS all_of_them FROM test.seen;
DROP TRIGGER see ON stepwise.transitions;
CREATE INDEX failures ON stepwise.transitions (at) WHERE to_state = 'error';
SELECT test.walk() AS partial_index;
SET enable_seqscan = off;
SELECT count(*) AS found FROM stepwise.transitions WHERE to_state = 'error' AND at IS NOT NULL;
RESET enable_seqscan;
DROP INDEX stepwise.failures;
-- An index over all rows is kept up on the straight way too.
CREATE INDEX workers ON stepwise.transitions (worker) WITH (deduplicate_items = off);
SELECT test.walk() AS plain_index;
SET enable_seqscan = off;
SELECT count(*) AS found FROM stepwise.transitions WHERE worker = 'w1' AND task_id = 4;
RESET enable_seqscan;
-- Many at once, and the key of each row is in its index.
SELECT count(*) FROM stepwise.create_tasks('vee', array_fill('{}'::jsonb, ARRAY[2500]));
SELECT count(*) AS rows, count(DISTINCT event_id) AS ids FROM stepwise.transitions WHERE from_state IS NULL;
SET enable_seqscan = off;
SELECT count(*) AS by_key FROM stepwise.tasks t JOIN stepwise.transitions r ON r.task_id = t.task_id AND r.step_id IS NULL AND r.from_state IS NULL;
RESET enable_seqscan;
SELECT count(*) AS unsound FROM stepwise.verify();
-- A transaction that is rolled back leaves none.
BEGIN;
SELECT count(*) FROM stepwise.create_tasks('vee', array_fill('{}'::jsonb, ARRAY[10]));
ROLLBACK;
SELECT count(*) AS rows FROM stepwise.transitions WHERE from_state IS NULL;

-- What parents returned, of every kind and length.
SELECT test.template('fan', 'p1 > z, p2 > z, p3 > z, p4 > z, p5 > z, p6 > z, p7 > z', '{"namespace": "fan"}');
SELECT stepwise.create_task('fan') AS task_id \gset
SELECT count(*) FROM test.claim('{fan}', 10);
SELECT count(*) AS accepted FROM stepwise.complete_steps(ARRAY[test.receipt('p1'), test.receipt('p2'), test.receipt('p3'), test.receipt('p4'),
    test.receipt('p5'), test.receipt('p6'), test.receipt('p7')],
    ARRAY['42', '"text"', 'null', '[]', '{"a": [1, {"b": null}], "n": 123456789012345678901234567890.5}', NULL,
        jsonb_build_object('long', repeat('x', 100000))]::jsonb[]) WHERE outcome = 'accepted';
SELECT dependencies - 'p7' AS dependencies, length(dependencies #>> '{p7,long}') AS long,
       dependencies = (SELECT jsonb_object_agg(t.name, s.results) FROM stepwise.steps s JOIN stepwise.template_steps t USING (template_id, step_id)
                       WHERE s.task_id = :task_id AND t.name <> 'z') AS as_sql_builds_it
FROM test.claim('{fan}');

-- The conformance cases in the database: each is reached through the functions, with the clock moved, and then the
-- native readiness, the SQL fallback and the execution context are compared with what the table expects.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
CREATE TABLE test.readiness_case (
    "case" text PRIMARY KEY, state text, attempts integer, retry_limit integer, retryable boolean, backoff_request_seconds integer,
    last_attempt_age_s numeric, failure_age_s numeric, parents text, dependencies_satisfied boolean, retry_eligible boolean,
    ready_for_execution boolean, next_retry_in_s numeric, execution_status text, health_status text, completion_percentage numeric, note text);
CREATE TABLE test.context_case (
    "case" text PRIMARY KEY, steps text, task_state text, counts text, execution_status text, health_status text, completion_percentage numeric, note text);
\copy test.readiness_case FROM PROGRAM 'cat "$PG_ABS_SRCDIR/../conformance/readiness.csv"' WITH (FORMAT csv, HEADER)
\copy test.context_case FROM PROGRAM 'cat "$PG_ABS_SRCDIR/../conformance/context.csv"' WITH (FORMAT csv, HEADER)
-- What was reached: the clock's time at which a case is to be looked at, and until when its answer holds.
CREATE TABLE test.reached ("case" text PRIMARY KEY, task_id bigint, step_id integer, looked_at timestamptz, holds_until timestamptz);

-- Moves the clock to a time, or forward by seconds.
CREATE FUNCTION test.clock_to(target timestamptz) RETURNS void LANGUAGE sql AS $$
    SELECT set_config('stepwise.clock_offset', round(extract(epoch FROM target - clock_timestamp()), 6) || ' seconds', false) $$;
CREATE FUNCTION test.forward(seconds numeric) RETURNS void LANGUAGE sql AS $$
    SELECT test.clock_to(stepwise.now() + seconds * interval '1 second') $$;

-- Each step of a case waits in a queue of its own: claims go where they should.
CREATE FUNCTION test.hold(queue text) RETURNS uuid LANGUAGE sql AS $$
    SELECT receipt FROM stepwise.claim_steps('w', ARRAY[queue]) $$;
-- So many attempts that fail, each when its backoff is over; the last one with an explicit backoff, if there is one.
-- That is counted in whole seconds from the attempt, so the clock is put back to it.
CREATE FUNCTION test.fail(queue text, attempts integer, backoff interval DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    receipt uuid;
BEGIN
    FOR attempt IN 1..attempts LOOP
        PERFORM test.forward(3600);
        receipt := test.hold(queue);
        PERFORM test.clock_to((SELECT max(last_attempted_at) FROM stepwise.steps JOIN stepwise.queues q USING (queue_id) WHERE q.name = queue));
        PERFORM stepwise.fail_step(receipt, retry_after => CASE WHEN attempt = attempts THEN backoff END);
    END LOOP;
END
$$;

-- No legal walk leads to these attempts: neither before the parents are satisfied nor without a claim. By hand, then,
-- and the history with them, as if the attempts had been claimed.
CREATE FUNCTION test.forge(task bigint, step integer, c test.readiness_case) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    attempted timestamptz := stepwise.now() - coalesce(c.last_attempt_age_s, 0) * interval '1 second';
BEGIN
    SET LOCAL session_replication_role = replica;
    INSERT INTO stepwise.transitions (task_id, step_id, at, from_state, to_state)
    SELECT task, step, attempted, CASE WHEN n = 1 THEN 'pending' ELSE 'error' END, 'in_progress' FROM generate_series(1, c.attempts) n;
    IF c.state = 'error' THEN
        INSERT INTO stepwise.transitions (task_id, step_id, at, from_state, to_state) VALUES (task, step, attempted, 'in_progress', 'error');
    END IF;
    UPDATE stepwise.steps SET state = c.state, attempts = c.attempts, last_attempted_at = attempted,
        last_failure_at = CASE WHEN c.state = 'error' THEN attempted END
    WHERE task_id = task AND step_id = step;
    SET LOCAL session_replication_role = origin;
END
$$;

CREATE FUNCTION test.reach(c test.readiness_case) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    parents text[] := string_to_array(c.parents, ' ');
    task bigint;
    me integer;
    since timestamptz;
BEGIN
    RESET stepwise.clock_offset;
    PERFORM stepwise.register_template(jsonb_build_object('namespace', 'r', 'name', c."case", 'steps',
        coalesce((SELECT jsonb_agg(jsonb_build_object('name', 'p' || n, 'queue', c."case" || '.p' || n)) FROM generate_subscripts(parents, 1) n), '[]')
        || jsonb_build_object('name', 's', 'queue', c."case", 'retry_limit', c.retry_limit, 'retryable', c.retryable,
            'depends_on', (SELECT coalesce(jsonb_agg('p' || n), '[]') FROM generate_subscripts(parents, 1) n))));
    task := stepwise.create_task(c."case");
    me := (SELECT step_id FROM stepwise.get_step_readiness_status(task) WHERE name = 's');
    FOR n IN 1..coalesce(cardinality(parents), 0) LOOP
        CASE parents[n]
            WHEN 'complete' THEN PERFORM stepwise.complete_step(test.hold(c."case" || '.p' || n));
            WHEN 'resolved_manually' THEN PERFORM stepwise.resolve_step(task, 'p' || n);
            WHEN 'error' THEN PERFORM stepwise.fail_step(test.hold(c."case" || '.p' || n));
            WHEN 'pending' THEN NULL;
        END CASE;
    END LOOP;
    IF c.attempts > 0 AND (c.state = 'pending' OR parents && '{pending,error}') THEN
        PERFORM test.forge(task, me, c);
    ELSIF c.state = 'pending' AND c.backoff_request_seconds IS NOT NULL THEN
        PERFORM stepwise.release_step(test.hold(c."case"));
        PERFORM stepwise.set_backoff(task, me, c.backoff_request_seconds * interval '1 second');
    ELSIF c.state = 'in_progress' THEN
        PERFORM test.hold(c."case");
    ELSIF c.state = 'complete' THEN
        PERFORM test.fail(c."case", c.attempts - 1);
        PERFORM stepwise.complete_step(test.hold(c."case"));
    ELSIF c.state = 'resolved_manually' THEN
        PERFORM test.fail(c."case", c.attempts);
        PERFORM stepwise.resolve_step(task, me);
    ELSIF c.state = 'error' THEN
        PERFORM test.fail(c."case", c.attempts, c.backoff_request_seconds * interval '1 second');
    END IF;
    -- Ages count back from the moment of the case, to the attempt where a backoff counts from it; of no age: now.
    since := (SELECT CASE WHEN c.backoff_request_seconds IS NULL THEN s.last_failure_at ELSE s.last_attempted_at END
              FROM stepwise.steps s WHERE s.task_id = task AND s.step_id = me);
    since := coalesce(since, stepwise.now()) + coalesce(c.failure_age_s, c.last_attempt_age_s, 0) * interval '1 second';
    INSERT INTO test.reached VALUES (c."case", task, me, since,
        least(CASE WHEN c.next_retry_in_s > 0 THEN since + c.next_retry_in_s * interval '1 second' END,
            -- A parent that has just failed waits for 2 seconds.
            (SELECT min(p.visible_at) FROM stepwise.steps p WHERE p.task_id = task AND p.state = 'error' AND p.step_id <> me AND p.visible_at > since)));
END
$$;

CREATE TABLE test.token (id integer, chain integer, link integer, text text);
-- Tokens of a chain such as "E1 failed now>P"; failures of now come last, when nothing moves the clock any more.
CREATE FUNCTION test.reach(c test.context_case) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    step record;
    task bigint;
BEGIN
    RESET stepwise.clock_offset;
    TRUNCATE test.token;
    INSERT INTO test.token
    SELECT row_number() OVER (ORDER BY chain.n, link.n) AS id, chain.n AS chain, link.n AS link, trim(link.text) AS text
    FROM string_to_table(c.steps, ';') WITH ORDINALITY AS chain (text, n), string_to_table(chain.text, '>') WITH ORDINALITY AS link (text, n);
    PERFORM stepwise.register_template(jsonb_build_object('namespace', 'c', 'name', c."case", 'steps', jsonb_agg(jsonb_build_object(
        'name', 's' || t.id, 'queue', c."case" || '.' || t.id, 'retryable', t.text NOT LIKE '%not retryable%',
        'depends_on', CASE WHEN t.link = 1 THEN '[]' ELSE jsonb_build_array('s' || t.id - 1) END) ORDER BY t.id))) FROM test.token t;
    task := stepwise.create_task(c."case");
    FOR step IN SELECT 's' || id AS name, c."case" || '.' || id AS queue, text FROM test.token ORDER BY text LIKE '%failed now', id LOOP
        CASE
            WHEN step.text ~ '^(P|[a-z])$' THEN NULL;
            WHEN step.text = 'I' THEN PERFORM test.hold(step.queue);
            WHEN step.text = 'C' THEN PERFORM stepwise.complete_step(test.hold(step.queue));
            WHEN step.text = 'R' THEN PERFORM stepwise.resolve_step(task, step.name);
            WHEN step.text = 'X' THEN PERFORM stepwise.cancel_step(task, step.name);
            WHEN step.text ~ '^E\d' THEN PERFORM test.fail(step.queue, substr(step.text, 2, 1)::integer);
        END CASE;
    END LOOP;
    INSERT INTO test.reached VALUES (c."case", task, NULL, stepwise.now(),
        (SELECT min(s.visible_at) FROM stepwise.steps s WHERE s.task_id = task AND s.state = 'error'));
END
$$;

-- The answers at the time of a case. Where the answer changes some time later, the clock is set back a little, and
-- further until it is read before that time: exact on a machine of any speed.
CREATE TYPE test.answers AS (native jsonb, fallback jsonb, context jsonb);
CREATE FUNCTION test.look(r test.reached) RETURNS test.answers LANGUAGE plpgsql AS $$
DECLARE
    answers test.answers;
    earlier interval := '0';
BEGIN
    LOOP
        PERFORM test.clock_to(r.looked_at - earlier);
        answers := ROW(
            (SELECT jsonb_agg(n ORDER BY n.step_id) FROM stepwise.get_step_readiness_status(r.task_id) n),
            (SELECT jsonb_agg(n ORDER BY n.step_id) FROM stepwise.get_step_readiness_status_sql(r.task_id) n),
            (SELECT to_jsonb(n) FROM stepwise.get_task_execution_context(r.task_id) n));
        EXIT WHEN stepwise.now() < r.holds_until OR r.holds_until IS NULL;
        earlier := greatest(2 * earlier, '1 millisecond');
    END LOOP;
    RESET stepwise.clock_offset;
    RETURN answers;
END
$$;
\set ECHO all

SELECT count(*) FROM (SELECT test.reach(c) FROM test.readiness_case c ORDER BY c."case") r;
SELECT count(*) FROM (SELECT test.reach(c) FROM test.context_case c ORDER BY c."case") r;
-- Reached by legal walks but for the attempts without a claim; those claims are damage.
SELECT DISTINCT r."case" FROM stepwise.verify() v LEFT JOIN test.reached r USING (task_id) ORDER BY 1;
CREATE TABLE test.answer AS SELECT r."case", r.step_id, r.looked_at, a.* FROM test.reached r, LATERAL test.look(r) a;

-- Both answers are one.
SELECT "case", n.value AS native, f.value AS fallback FROM test.answer a, jsonb_array_elements(native) WITH ORDINALITY n
FULL JOIN LATERAL jsonb_array_elements(a.fallback) WITH ORDINALITY f USING (ordinality) WHERE n.value IS DISTINCT FROM f.value;

-- What is expected, of either answer.
CREATE VIEW test.expected_readiness AS
SELECT c."case", v.* FROM test.readiness_case c, LATERAL (VALUES
    ('current_state', to_jsonb(c.state)), ('attempts', to_jsonb(c.attempts)), ('retry_limit', to_jsonb(c.retry_limit)),
    ('backoff_request_seconds', coalesce(to_jsonb(c.backoff_request_seconds), 'null')),
    ('dependencies_satisfied', to_jsonb(c.dependencies_satisfied)), ('retry_eligible', to_jsonb(c.retry_eligible)),
    ('ready_for_execution', to_jsonb(c.ready_for_execution)), ('total_parents', to_jsonb(coalesce(cardinality(string_to_array(c.parents, ' ')), 0))),
    ('completed_parents', to_jsonb((SELECT count(*) FROM string_to_table(c.parents, ' ') p WHERE p IN ('complete', 'resolved_manually')))),
    ('processed', to_jsonb(c.state IN ('complete', 'resolved_manually'))), ('in_process', to_jsonb(c.state = 'in_progress'))) AS v (name, value);
SELECT e."case", 'native' AS answer, e.name, e.value AS expected, a.native -> (a.step_id - 1) -> e.name AS found
FROM test.expected_readiness e JOIN test.answer a USING ("case") WHERE a.native -> (a.step_id - 1) -> e.name IS DISTINCT FROM e.value
UNION ALL
SELECT e."case", 'fallback', e.name, e.value, a.fallback -> (a.step_id - 1) -> e.name
FROM test.expected_readiness e JOIN test.answer a USING ("case") WHERE a.fallback -> (a.step_id - 1) -> e.name IS DISTINCT FROM e.value;
-- The end of the backoff counts from the moment of the case, to the microsecond.
SELECT "case", c.next_retry_in_s, extract(epoch FROM (a.native -> (a.step_id - 1) ->> 'next_retry_at')::timestamptz - a.looked_at) AS native,
       extract(epoch FROM (a.fallback -> (a.step_id - 1) ->> 'next_retry_at')::timestamptz - a.looked_at) AS fallback
FROM test.readiness_case c JOIN test.answer a USING ("case")
WHERE extract(epoch FROM (a.native -> (a.step_id - 1) ->> 'next_retry_at')::timestamptz - a.looked_at) IS DISTINCT FROM c.next_retry_in_s
    OR extract(epoch FROM (a.fallback -> (a.step_id - 1) ->> 'next_retry_at')::timestamptz - a.looked_at) IS DISTINCT FROM c.next_retry_in_s;
-- The contexts of both tables; completion to two decimals.
SELECT "case", c.execution_status, c.health_status, c.completion_percentage, a.context
FROM (SELECT "case", execution_status, health_status, completion_percentage FROM test.readiness_case
      UNION ALL SELECT "case", execution_status, health_status, completion_percentage FROM test.context_case) c JOIN test.answer a USING ("case")
WHERE (c.execution_status, c.health_status, c.completion_percentage::text)
    IS DISTINCT FROM (a.context ->> 'execution_status', a.context ->> 'health_status', a.context ->> 'completion_percentage');
SELECT "case", c.task_state, c.counts, a.context FROM test.context_case c JOIN test.answer a USING ("case")
WHERE (c.task_state, c.counts) IS DISTINCT FROM (a.context ->> 'status', concat_ws('/', a.context ->> 'total_steps', a.context ->> 'pending_steps',
    a.context ->> 'in_progress_steps', a.context ->> 'completed_steps', a.context ->> 'failed_steps', a.context ->> 'ready_steps'));
SELECT count(*) AS cases, count(DISTINCT task_id) AS tasks FROM test.reached;
-- The context follows from the fallback's rows as from the native ones.
SELECT "case" FROM test.answer a WHERE (a.context ->> 'ready_steps')::integer
    <> (SELECT count(*) FROM jsonb_array_elements(a.fallback) f WHERE (f ->> 'ready_for_execution')::boolean);

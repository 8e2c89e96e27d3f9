-- register_template: what it stores, and every reason to refuse a definition. Nothing of a refused one is stored.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all

SELECT stepwise.register_template('{
  "namespace": "shop", "name": "fulfil_order", "version": "1.2.0", "description": "From cart to door",
  "defaults": {"queue": "shop", "retry_limit": 4, "retryable": true, "timeout": "60s",
               "backoff": {"base": "1s", "cap": "30s", "jitter": 0}},
  "steps": [
    {"name": "ship", "depends_on": ["charge", "pack"]},
    {"name": "charge", "depends_on": ["validate"], "queue": "payments", "retry_limit": 5, "priority": 7,
     "backoff": {"base": "2s", "cap": "5m"}, "config": {"gateway": "x", "amount": 123456789012345678901234567890}},
    {"name": "pack", "depends_on": "validate", "skippable": true, "timeout": "PT2H", "retryable": false},
    {"name": "validate", "handler": "ValidateOrder", "description": "Is it an order?"}]}');
SELECT name, step_count, version, version_order, description, identity FROM stepwise.templates;
-- Parents come before children, and the levels are longest paths.
SELECT step_id, level, s.name, handler, parents, children, q.name AS queue, priority, retry_limit, retryable, skippable,
       timeout, backoff_base, backoff_cap, backoff_jitter, config, description
FROM stepwise.template_steps s JOIN stepwise.queues q USING (queue_id) ORDER BY step_id \gx
SELECT name, paused FROM stepwise.queues ORDER BY queue_id;
SELECT name FROM stepwise.namespaces;

-- The same content again is the same template, however it is written; other content is refused.
SELECT stepwise.register_template('{"name": "t", "steps": [{"name": "a"}]}') AS first,
       stepwise.register_template('{"steps": [{"name": "a"}], "name": "t"}') AS again;
SELECT * FROM test.refused($$SELECT stepwise.register_template('{"name": "t", "steps": [{"name": "b"}]}')$$);
-- A template without a namespace or version is default/…@0.1.0, in the queue "default".
SELECT n.name AS namespace, t.name, t.version FROM stepwise.templates t JOIN stepwise.namespaces n USING (namespace_id)
WHERE t.name = 't';

-- The latest version is the greatest by number, not by text.
SELECT stepwise.register_template(format('{"name": "v", "version": "%s", "steps": [{"name": "a"}]}', v)::jsonb)
FROM unnest('{1.9.0,1.10.0,1.2.3}'::text[]) AS v;
SELECT stepwise.template_definition('v') ->> 'version' AS latest,
       stepwise.template_definition('v', version => '1.2.3') ->> 'version' AS given;
SELECT * FROM test.refused($$SELECT stepwise.template_definition('nothing')$$);
SELECT * FROM test.refused($$SELECT stepwise.template_definition('v', 'default', '9.9.9')$$);
SELECT stepwise.register_template('{"namespace": "other", "name": "v", "steps": [{"name": "a"}]}') IS NOT NULL AS same_name;
SELECT * FROM test.refused($$SELECT stepwise.template_definition('v')$$);

-- The older shape loads unchanged.
SELECT stepwise.register_template('{
  "namespace_name": "old", "name": "shape", "default_retryable": false, "default_retry_limit": 7,
  "step_templates": [
    {"name": "a", "handler_class": "A", "handler_config": {"n": 1}},
    {"name": "b", "depends_on_step": "a", "default_retryable": true, "default_retry_limit": 2},
    {"name": "c", "depends_on_step": "a", "depends_on_steps": ["b", "a"]}]}') IS NOT NULL AS loaded;
SELECT s.name, handler, parents, retryable, retry_limit, config
FROM stepwise.template_steps s JOIN stepwise.templates t USING (template_id) WHERE t.name = 'shape' ORDER BY step_id;

-- Refused, and nothing stored.
CREATE TABLE test.before AS SELECT (SELECT count(*) FROM stepwise.templates) AS templates,
    (SELECT count(*) FROM stepwise.queues) AS queues, (SELECT count(*) FROM stepwise.namespaces) AS namespaces;
CREATE TABLE test.bad (why text, definition text);
INSERT INTO test.bad VALUES
    ('NULL', NULL),
    ('no object', '[]'),
    ('no object', '["default", "x"]'),
    ('step that is no object', '{"name": "x", "steps": [["a"]]}'),
    ('defaults that are no object', '{"name": "x", "defaults": ["q"], "steps": [{"name": "a"}]}'),
    ('too deep', format('{"name": "x", "steps": [{"name": "a", "colour": %s}]}', repeat('[', 500) || repeat(']', 500))),
    ('no name', '{"steps": [{"name": "a"}]}'),
    ('no steps', '{"name": "x"}'),
    ('no step at all', '{"name": "x", "steps": []}'),
    ('unknown key', '{"name": "x", "colour": 1, "steps": [{"name": "a"}]}'),
    ('unknown key of a step', '{"name": "x", "steps": [{"name": "a", "retries": 1}]}'),
    ('unknown key of a backoff', '{"name": "x", "steps": [{"name": "a", "backoff": {"max": 1}}]}'),
    ('step twice', '{"name": "x", "steps": [{"name": "a"}, {"name": "a"}]}'),
    ('unknown dependency', '{"name": "x", "steps": [{"name": "a", "depends_on": ["z"]}]}'),
    ('self-dependency', '{"name": "x", "steps": [{"name": "a", "depends_on": ["a"]}]}'),
    ('cycle', '{"name": "x", "steps": [{"name": "a", "depends_on": ["b"]}, {"name": "b", "depends_on": ["c"]},
        {"name": "c", "depends_on": ["a"]}, {"name": "d"}]}'),
    ('no interval', '{"name": "x", "steps": [{"name": "a", "timeout": "soon"}]}'),
    ('interval of varying length', '{"name": "x", "steps": [{"name": "a", "timeout": "1 month"}]}'),
    ('negative interval', '{"name": "x", "steps": [{"name": "a", "backoff": {"base": "-1s"}}]}'),
    ('lease of nothing', '{"name": "x", "steps": [{"name": "a", "timeout": 0}]}'),
    ('version', '{"name": "x", "version": "1.2", "steps": [{"name": "a"}]}'),
    ('empty name', '{"name": " ", "steps": [{"name": "a"}]}'),
    ('long name', format('{"name": "%s", "steps": [{"name": "a"}]}', repeat('x', 256))),
    ('number for a name', '{"name": "x", "steps": [{"name": 1}]}'),
    ('retry_limit', '{"name": "x", "steps": [{"name": "a", "retry_limit": -1}]}'),
    ('retry_limit of text', '{"name": "x", "steps": [{"name": "a", "retry_limit": "3"}]}'),
    ('jitter', '{"name": "x", "steps": [{"name": "a", "backoff": {"jitter": 1.5}}]}'),
    ('priority', '{"name": "x", "steps": [{"name": "a", "priority": 100000}]}'),
    ('identity', '{"name": "x", "identity": "key", "steps": [{"name": "a"}]}'),
    ('huge number', '{"name": "x", "steps": [{"name": "a", "retry_limit": 1e400}]}');
SELECT b.why, r.* FROM test.bad b,
    LATERAL test.refused(format('SELECT stepwise.register_template(%L)', b.definition)) r;
SELECT code, message, detail, hint FROM test.refused($$
    SELECT stepwise.register_template(jsonb_build_object('name', 'x', 'steps',
        (SELECT jsonb_agg(jsonb_build_object('name', 's' || i)) FROM generate_series(1, 100001) i)))$$);
SELECT (SELECT count(*) FROM stepwise.templates) = templates AND (SELECT count(*) FROM stepwise.queues) = queues
    AND (SELECT count(*) FROM stepwise.namespaces) = namespaces AS nothing_stored FROM test.before;

-- Names are kept exactly: quotes, placeholders, semicolons, newlines, right-to-left, the longest.
SELECT stepwise.register_template(jsonb_build_object('namespace', n, 'name', n, 'steps',
    jsonb_build_array(jsonb_build_object('name', n, 'queue', n)))) IS NOT NULL AS registered, length(n)
FROM unnest(ARRAY['it''s "quoted"', '$1 $$ %s %', ';-- DROP', E'two\nlines', U&'\0627\0644', repeat(U&'\+01F600', 255)]) AS n;
SELECT t.name = n.name AND t.name = s.name AND t.name = q.name AS kept
FROM stepwise.templates t JOIN stepwise.namespaces n USING (namespace_id) JOIN stepwise.template_steps s USING (template_id)
JOIN stepwise.queues q USING (queue_id) WHERE t.template_id > 8 ORDER BY template_id;
-- A deep or odd config is kept as Postgres keeps it.
SELECT stepwise.register_template(format('{"name": "deep", "steps": [{"name": "a", "config": {"d": %s, "n": 1.10e5}}]}',
    repeat('[', 500) || repeat(']', 500))::jsonb) IS NOT NULL AS deep;
SELECT length((config -> 'd')::text), config -> 'n' AS n FROM stepwise.template_steps s
JOIN stepwise.templates t USING (template_id) WHERE t.name = 'deep';

-- A registration that is rolled back leaves nothing, also in the memory of this session.
BEGIN;
SELECT stepwise.register_template('{"name": "gone", "steps": [{"name": "a"}]}') IS NOT NULL AS registered;
SELECT stepwise.create_task('gone') IS NOT NULL AS created;
SELECT step_name FROM stepwise.claim_steps('w');
ROLLBACK;
SELECT message FROM test.refused($$SELECT stepwise.create_task('gone')$$);

-- A template's context_schema: checked at registration and at every new task; all violations at once, nothing stored.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all

SELECT stepwise.register_template('{"name": "order", "context_schema": {
    "type": "object", "required": ["order_id", "lines"], "additionalProperties": false,
    "properties": {"order_id": {"type": "integer", "minimum": 1}, "currency": {"enum": ["EUR", "USD"], "default": "EUR"},
        "lines": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/line"}}},
    "$defs": {"line": {"type": "object", "required": ["sku"], "properties": {"sku": {"type": "string"}, "count": {"type": "integer", "default": 1}}}}},
    "steps": [{"name": "a"}]}');
SELECT stepwise.create_task('order', '{"order_id": 1, "lines": [{"sku": "x"}]}');
-- Defaults are not inserted unless the template says so.
SELECT context FROM stepwise.tasks;
SELECT * FROM test.refused($$SELECT stepwise.create_task('order')$$);
SELECT * FROM test.refused($$SELECT stepwise.create_task('order', '{"order_id": 0, "currency": "DM", "lines": [{"sku": "x"}, {}, 7], "more": true}')$$);
SELECT * FROM test.refused($$SELECT stepwise.create_task('order', '[]')$$);
SELECT code, message, detail FROM test.refused($$SELECT stepwise.create_tasks('order', ARRAY['{"order_id": 1, "lines": [{"sku": "x"}]}', '{"order_id": "one", "lines": []}']::jsonb[])$$);
SELECT code, message, left(detail, 60) AS detail FROM test.refused($$SELECT stepwise.create_task('order', '{"order_id": 1e400, "lines": [{"sku": "x"}]}')$$);
SELECT code, message, length(detail) < 5000 AS short FROM test.refused($$SELECT stepwise.create_task('order', jsonb_build_object('order_id', 1, 'lines',
    (SELECT jsonb_agg(repeat('y', 10000)) FROM generate_series(1, 1000))))$$);
SELECT code, message FROM test.refused(format($$SELECT stepwise.create_task('order', '{"order_id": 1, "lines": [{"sku": "x", "deep": %s}]}')$$, repeat('[', 1000) || repeat(']', 1000)));
SELECT count(*) AS tasks FROM stepwise.tasks;
SELECT context_schema -> 'required' AS required, insert_defaults FROM stepwise.templates;

SELECT stepwise.register_template('{"name": "filled", "insert_defaults": true, "context_schema": {
    "required": ["currency"], "properties": {"currency": {"default": "EUR"}, "to": {"properties": {"country": {"default": "DE"}}},
    "limits": {"default": {"max": 3}}}}, "steps": [{"name": "a"}]}');
SELECT stepwise.create_tasks('filled', '{"{}","{\"to\": {}, \"amount\": 123456789012345678901234567890.5}","{\"currency\": \"USD\", \"limits\": null}"}');
SELECT context FROM stepwise.tasks WHERE task_id > 1 ORDER BY task_id;
-- The defaults are part of the context that identifies a task.
SELECT stepwise.register_template('{"name": "same", "identity": "context", "insert_defaults": true, "context_schema": {"properties": {"a": {"default": 1}}}, "steps": [{"name": "a"}]}');
SELECT stepwise.create_task('same') = stepwise.create_task('same', '{"a": 1}') AS same;

-- What is no schema, or could not be checked to its end, is refused when it is registered.
SELECT r.code, r.message, r.detail FROM (VALUES ('{"type": "nothing"}'), ('7'), ('{"minimum": "x"}'), ('{"$ref": "#"}'), ('{"$ref": "#/$defs/none"}'),
    ('{"$ref": "https://example.org/schema"}'), ('{"not": {"$ref": "#"}}'), ('{"$defs": {"a": {"$ref": "#/$defs/a"}}}'),
    ('{"$anchor": "a", "$ref": "#a"}'), ('{"$dynamicAnchor": "a", "$dynamicRef": "#a"}'), ('{"pattern": "("}')) AS v (schema),
    LATERAL test.refused(format('SELECT stepwise.register_template(%L)', jsonb_build_object('name', 'x', 'context_schema', schema::jsonb, 'steps', '[{"name": "a"}]'::jsonb))) r;
SELECT code, message, detail FROM test.refused($$SELECT stepwise.register_template('{"name": "x", "insert_defaults": true, "steps": [{"name": "a"}]}')$$);
-- True and false are schemas too.
SELECT stepwise.register_template('{"name": "never", "context_schema": false, "steps": [{"name": "a"}]}') > 0 AS registered;
SELECT code, message FROM test.refused($$SELECT stepwise.create_task('never')$$);

-- create_task and create_tasks: what a new task is, identity, run_at, priority, bypassed steps.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set fresh :srcdir /fresh.sql
\i :fresh
\set ECHO all

SELECT test.template('line', 'a > b, b > c');
SELECT stepwise.create_task('line', '{"order": 7}', tags => '{red,blue}');
SELECT * FROM test.steps;
SELECT * FROM test.tasks;
SELECT * FROM test.history;
SELECT context, tags, requested_by = current_user AS by_role, priority, identity_key FROM stepwise.tasks;
SELECT stepwise.create_task('line', requested_by => 'nightly');
SELECT requested_by, context FROM stepwise.tasks WHERE task_id = 2;

-- Many at once: ids in the order of the contexts, and a fixed number of statements.
SELECT stepwise.create_tasks('line', array_agg(jsonb_build_object('n', n) ORDER BY n)) FROM generate_series(1, 3) n;
SELECT task_id, context FROM stepwise.tasks WHERE task_id > 2 ORDER BY task_id;
SELECT count(*) AS none FROM stepwise.create_tasks('line', '{}');

-- Identity: the same key is the same task, also twice in one call; NULL is always new.
SELECT stepwise.create_task('line', '{"first": true}', identity_key => 'k1') AS first,
       stepwise.create_task('line', '{"first": false}', identity_key => 'k1') AS again;
SELECT context FROM stepwise.tasks WHERE identity_key = 'k1';
SELECT stepwise.create_tasks('line', '{"{}","{}","{}","{}"}', identity_keys => '{k1,k2,k2,NULL}');
SELECT count(*) AS tasks, count(identity_key) AS keys FROM stepwise.tasks;
SELECT stepwise.create_task('line', identity_key => repeat(U&'\+01F600', 512)) = stepwise.create_task('line',
    identity_key => repeat(U&'\+01F600', 512)) AS longest_key;
-- Keys belong to a template: another version is another template.
SELECT stepwise.register_template('{"namespace": "n", "name": "line", "version": "0.2.0", "steps": [{"name": "a"}]}');
SELECT stepwise.create_task('line', identity_key => 'k1') > 8 AS another;
-- By context.
SELECT stepwise.register_template('{"namespace": "n", "name": "once", "identity": "context", "steps": [{"name": "a"}]}');
SELECT stepwise.create_task('once', '{"a": 1, "b": 2}') = stepwise.create_task('once', '{"b": 2, "a": 1}') AS same,
       stepwise.create_task('once', '{"a": 1}') = stepwise.create_task('once', '{"a": 2}') AS other;
SELECT length(identity_key) FROM stepwise.tasks t JOIN stepwise.templates USING (template_id) WHERE name = 'once';
SELECT stepwise.create_task('once', identity_key => 'given') AS task_id \gset
SELECT identity_key FROM stepwise.tasks WHERE task_id = :task_id;

-- run_at: nothing is handed out before.
SELECT test.template('later', 'a > b', '{"namespace": "later"}');
SELECT stepwise.create_task('later', run_at => stepwise.now() + interval '1 hour') AS task_id \gset
SELECT name, state, visible FROM test.steps WHERE task_id = :task_id;
SELECT count(*) FROM test.claim('{later}');
SELECT stepwise.next_visible_at('{later}') - stepwise.now() BETWEEN interval '59 min' AND interval '1 hour' AS in_an_hour;
SELECT ready_steps, execution_status FROM stepwise.get_task_execution_context(:task_id);
SET stepwise.clock_offset = '1 hour';
SELECT task_id = :task_id AS this, step_name FROM test.claim('{later}');
RESET stepwise.clock_offset;

-- Priority: that of the task is added to that of the step; high to low, then age.
SELECT stepwise.register_template('{"namespace": "p", "name": "p", "steps": [{"name": "low"}, {"name": "high", "priority": 5}]}');
SELECT stepwise.create_task('p') AS first, stepwise.create_task('p', priority => 10) AS second,
       stepwise.create_task('p', priority => -5) AS third \gset
SELECT (task_id - :first) AS task, step_name FROM test.claim('{p}', 6);

-- Bypassed steps count as resolved from the start; their dependents go on, and a task of nothing else is complete.
SELECT stepwise.register_template('{"namespace": "b", "name": "b", "defaults": {"skippable": true}, "steps": [
    {"name": "a"}, {"name": "b", "depends_on": "a"}, {"name": "c", "depends_on": "b"},
    {"name": "d", "depends_on": ["a", "b"], "skippable": false}]}');
SELECT stepwise.create_task('b', bypass_steps => '{b}') AS task_id \gset
SELECT name, state, waits, visible, fin FROM test.steps WHERE task_id = :task_id;
SELECT * FROM test.tasks WHERE task_id = :task_id;
SELECT subject, from_state, to_state, metadata FROM test.history WHERE task_id = :task_id;
SELECT step_name FROM test.claim('{b}');
SELECT stepwise.complete_step(test.receipt('a'));
SELECT step_name, dependencies FROM test.claim('{b}', 5);
SELECT stepwise.complete_step(test.receipt('c')), stepwise.complete_step(test.receipt('d'));
SELECT state, completed, live FROM test.tasks WHERE task_id = :task_id;
SELECT stepwise.register_template('{"namespace": "b", "name": "all", "defaults": {"skippable": true}, "steps": [
    {"name": "x"}, {"name": "y", "depends_on": "x"}]}');
SELECT stepwise.create_task('all', bypass_steps => '{x,y}') AS task_id \gset
SELECT * FROM test.tasks WHERE task_id = :task_id;
SELECT subject, from_state, to_state FROM test.history WHERE task_id = :task_id;

-- Refused, and nothing stored.
SELECT count(*) AS tasks FROM stepwise.tasks \gset
SELECT r.* FROM (VALUES
    ('SELECT stepwise.create_task(NULL)'),
    ('SELECT stepwise.create_task(''line'', NULL)'),
    ('SELECT stepwise.create_task(''nothing'')'),
    ('SELECT stepwise.create_task(''line'', namespace => ''nowhere'')'),
    ('SELECT stepwise.create_task(''line'', version => ''9.9.9'')'),
    ('SELECT stepwise.create_task(''line'', priority => 1001)'),
    ('SELECT stepwise.create_task(''b'', bypass_steps => ''{d}'')'),
    ('SELECT stepwise.create_task(''b'', bypass_steps => ''{z}'')'),
    ('SELECT stepwise.create_task(''b'', bypass_steps => ''{NULL}'')'),
    ('SELECT stepwise.create_task(''line'', tags => ''{NULL}'')'),
    ('SELECT stepwise.create_task(''line'', tags => ''{a,""}'')'),
    ('SELECT stepwise.create_task(''line'', identity_key => '''')'),
    ('SELECT stepwise.create_task(''line'', identity_key => repeat(''k'', 513))'),
    ('SELECT stepwise.create_task(''line'', requested_by => repeat(''x'', 1000000))'),
    ('SELECT stepwise.create_tasks(''line'', NULL)'),
    ('SELECT stepwise.create_tasks(''line'', ''{NULL}'')'),
    ('SELECT stepwise.create_tasks(''line'', ''{"{}","{}"}'', identity_keys => ''{k}'')')
) AS v (statement), LATERAL test.refused(statement) r;
SELECT count(*) = :tasks AS nothing_stored FROM stepwise.tasks;

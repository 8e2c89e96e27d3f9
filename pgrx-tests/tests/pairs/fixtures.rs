//! Tasks for two calls to meet in, and the SQL that makes them, tells what has become of them, and removes them.

/// What is done before the two calls, and which step each of them is about.
pub struct Fixture {
    pub name: &'static str,
    template: &'static str,
    tasks: i32,
    /// Of the first steps: what has happened to them. Others wait for their parents.
    states: &'static str,
    /// The step that session A's call is about, and the one of session B's.
    pub targets: [Target; 2],
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Target {
    /// The step with this number, of the first task.
    Step(i32),
    /// Every held step of all tasks, from the first to the last or the other way round.
    All { backwards: bool },
}

const SAME: [Target; 2] = [Target::Step(1), Target::Step(1)];

pub const FIXTURES: &[Fixture] = &[
    Fixture { name: "held", template: "chain", tasks: 1, states: r#"{"a": "held"}"#, targets: SAME },
    Fixture { name: "lease over", template: "chain", tasks: 1, states: r#"{"a": "expired"}"#, targets: SAME },
    Fixture { name: "last lease over", template: "once", tasks: 1, states: r#"{"a": "expired"}"#, targets: SAME },
    Fixture { name: "failed for good", template: "chain", tasks: 1, states: r#"{"a": "failed"}"#, targets: SAME },
    Fixture { name: "retry is due", template: "chain", tasks: 1, states: r#"{"a": "due"}"#, targets: SAME },
    Fixture { name: "pending", template: "chain", tasks: 1, states: "{}", targets: SAME },
    Fixture {
        name: "parent and child",
        template: "chain",
        tasks: 1,
        states: r#"{"a": "held"}"#,
        targets: [Target::Step(1), Target::Step(2)],
    },
    Fixture {
        name: "siblings",
        template: "join",
        tasks: 1,
        states: r#"{"a": "held", "b": "held"}"#,
        targets: [Target::Step(1), Target::Step(2)],
    },
    Fixture {
        name: "siblings in trouble",
        template: "join",
        tasks: 1,
        states: r#"{"a": "expired", "b": "failed"}"#,
        targets: [Target::Step(1), Target::Step(2)],
    },
    Fixture {
        name: "last two",
        template: "pair",
        tasks: 1,
        states: r#"{"a": "held", "b": "held"}"#,
        targets: [Target::Step(1), Target::Step(2)],
    },
    Fixture { name: "waits for its signal", template: "wait", tasks: 1, states: r#"{"a": "held"}"#, targets: SAME },
    Fixture {
        name: "signal before its time",
        template: "early",
        tasks: 1,
        states: r#"{"a": "held"}"#,
        targets: [Target::Step(1), Target::Step(2)],
    },
    Fixture {
        name: "overlapping batches",
        template: "pair",
        tasks: 2,
        states: r#"{"a": "held", "b": "held"}"#,
        targets: [Target::All { backwards: false }, Target::All { backwards: true }],
    },
];

impl Fixture {
    /// Makes the tasks: a row with task, step and receipt for each step that has or had a worker.
    pub fn setup(&self) -> String {
        format!("SELECT * FROM pair.make('{}', {}, '{}')", self.template, self.tasks, self.states)
    }
}

/// Backoffs and leases are long, so that within a run they are over or they are not.
pub const PREPARE: &str = r#"
CREATE SCHEMA pair;
SELECT stepwise.register_template(jsonb_build_object('namespace', 'pair', 'name', name, 'steps', steps::jsonb, 'defaults',
    jsonb_build_object('retry_limit', retry_limit, 'timeout', '10h', 'backoff', '{"base": "1h", "cap": "5h"}'::jsonb)))
FROM (VALUES
    ('chain', 3, '[{"name": "a"}, {"name": "b", "depends_on": "a"}]'),
    ('once', 1, '[{"name": "a"}, {"name": "b", "depends_on": "a"}]'),
    ('join', 3, '[{"name": "a"}, {"name": "b"}, {"name": "c", "depends_on": ["a", "b"]}]'),
    ('wait', 3, '[{"name": "w", "kind": "wait"}, {"name": "a"}, {"name": "c", "depends_on": ["w", "a"]}]'),
    ('early', 3, '[{"name": "a"}, {"name": "w", "kind": "wait", "depends_on": "a"}]'),
    ('pair', 3, '[{"name": "a"}, {"name": "b"}]')) AS t (name, retry_limit, steps);

CREATE FUNCTION pair.make(template text, tasks integer, states jsonb)
RETURNS TABLE (task_id bigint, step_id integer, receipt text) LANGUAGE plpgsql AS $$
DECLARE
    step record;
BEGIN
    PERFORM stepwise.create_tasks(template, array_fill('{}'::jsonb, ARRAY[tasks]));
    FOR step IN SELECT * FROM stepwise.claim_steps('before', '{pair}', 10) LOOP
        CASE states ->> step.step_name
            WHEN 'held' THEN NULL;
            WHEN 'expired' THEN PERFORM stepwise.extend_lease(step.receipt, '1 microsecond');
            WHEN 'failed' THEN PERFORM stepwise.fail_step(step.receipt, retryable => false);
            WHEN 'due' THEN PERFORM stepwise.fail_step(step.receipt, retry_after => '0');
            ELSE PERFORM stepwise.release_step(step.receipt);
        END CASE;
        RETURN QUERY VALUES (step.task_id, step.step_id, step.receipt::text);
    END LOOP;
END
$$;

-- Everything that is stored, but ids, tokens and times; of times whether they are over.
CREATE FUNCTION pair.dump() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(line, E'\n' ORDER BY task, place, number) FROM (
        SELECT dense_rank() OVER (ORDER BY task_id) AS task, line, place, number FROM (
            SELECT task_id, 0 AS place, 0 AS number, format('task %s live %s complete %s failed %s cancelled %s finished %s',
                state, live_steps, completed_steps, failed_steps, cancelled_steps, finished_at IS NOT NULL) AS line
            FROM stepwise.tasks
            UNION ALL
            SELECT task_id, 1, step_id, format('step %s %s attempts %s parents %s visible %s token %s worker %s results %s '
                'error %s retryable %s backoff %s finished %s signal %s', step_id, state, attempts, remaining_parents,
                CASE WHEN visible_at <= stepwise.now() THEN 'due' WHEN visible_at > stepwise.now() THEN 'later' END,
                claim_token IS NOT NULL, worker, results, error, retryable, backoff_request_seconds IS NOT NULL,
                finished_at IS NOT NULL, signal)
            FROM stepwise.steps
            UNION ALL
            SELECT task_id, 2 + coalesce(step_id, 0), row_number() OVER (PARTITION BY task_id, step_id ORDER BY event_id),
                format('history %s %s > %s attempt %s worker %s actor %s %s', step_id, from_state, to_state, attempt, worker,
                    actor, metadata - 'backoff_seconds')
            FROM stepwise.transitions) AS lines) AS numbered
$$;

-- What a call answers, or the SQLSTATE that it is refused with.
CREATE FUNCTION pair.answer(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE call INTO answer;
    RETURN coalesce(answer, 'nothing');
EXCEPTION WHEN others THEN
    RETURN 'refused ' || SQLSTATE;
END
$$;

CREATE FUNCTION pair.clean() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL session_replication_role = replica;
    DELETE FROM stepwise.transitions;
    DELETE FROM stepwise.steps;
    DELETE FROM stepwise.tasks;
END
$$;
"#;

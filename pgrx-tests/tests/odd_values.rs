//! Clocks that jump, payloads at every size, depth and precision, arguments that are missing: kept exactly, or one clear error
//! and nothing stored.
mod cluster;

use cluster::worker::{claim, complete};
use cluster::{Server, count, one, templates};
use postgres::Client;
use serde_json::json;

/// The SQLSTATE that statements are refused with, if they are; what they did is kept otherwise.
fn state(client: &mut Client, sql: &str) -> Option<String> {
    let error = client.batch_execute(sql).err()?;
    let state = error.code().map(|code| code.code().to_owned());
    Some(state.unwrap_or_else(|| panic!("{sql}: {error:?}")))
}

#[test]
fn a_clock_that_jumps_ends_leases_and_starts_nothing_early() {
    let server = Server::start();
    let database = server.database("clocks");
    let mut client = database.connect();
    let definition = json!({"namespace": "test", "name": "timed", "timeout": "30d", "defaults": {"timeout": "1h", "retry_limit": 5},
        "steps": [{"name": "now"}, {"name": "later", "delay": "2d"}, {"name": "asks", "kind": "wait", "timeout": "5d"}]});
    templates::register(&mut client, &definition);
    // The same without a deadline, which would end the task before its step could go to another.
    let mut endless = definition.clone();
    endless["name"] = json!("endless");
    endless.as_object_mut().expect("a definition").remove("timeout");
    templates::register(&mut client, &endless);
    // Offset; whether it is a span of time that leads to a time there is; whether it ends a lease of an hour.
    for (offset, is_kept, ends_leases) in [
        ("1 hour", true, true),
        ("-1 hour", true, false),
        ("365 days", true, true),
        ("-365 days", true, false),
        ("36500 days", true, true),
        ("-36500 days", true, false),
        ("3650000 days", true, true),
        ("-1500000 days", true, false),
        ("106000000 days", false, false),
        ("200000000 days", false, false),
        ("-200000000 days", false, false),
        ("9223372036854 seconds", false, false),
        ("-9223372036854 seconds", false, false),
        ("9223372036854775807 seconds", false, false),
        ("1 month", false, false),
        ("infinity", false, false),
        ("-infinity", false, false),
        ("", true, false),
        ("soon", false, false),
    ] {
        // What is no span of time, or leads out of what a timestamp can hold, is refused when it is set.
        let set = format!("SET stepwise.clock_offset = '{offset}'");
        assert_eq!(state(&mut client, &set).as_deref(), (!is_kept).then_some("22023"), "{offset}");
        if !is_kept {
            continue;
        }
        client.batch_execute("RESET stepwise.clock_offset").unwrap();
        let tasks = templates::create(&mut client, "endless", 2);
        let held = claim(&mut client, "before", 1).unwrap().remove(0);
        assert!(tasks.contains(&held.task_id), "{offset}");
        templates::create(&mut client, "timed", 2);
        client.batch_execute(&set).unwrap();
        let calls = [
            "SELECT stepwise.now(), stepwise.next_visible_at()".to_owned(),
            "SELECT * FROM stepwise.tick()".to_owned(),
            "SELECT * FROM stepwise.claim_steps('after', max_steps => 100)".to_owned(),
            "SELECT stepwise.create_task('timed'), stepwise.create_task('timed', run_at => stepwise.now())".to_owned(),
            "SELECT stepwise.create_task('timed', run_at => 'infinity'), stepwise.create_task('timed', run_at => '-infinity')".to_owned(),
            "SELECT stepwise.fail_step(receipt, retry_after => '10 years') FROM stepwise.claim_steps('after')".to_owned(),
            "SELECT stepwise.extend_lease(receipt, '100 years') FROM stepwise.claim_steps('after')".to_owned(),
            "SELECT stepwise.purge_tasks('0')".to_owned(),
            format!("SELECT * FROM stepwise.explain_step({}, 'later')", held.task_id),
            format!("SELECT * FROM stepwise.get_step_readiness_status({})", held.task_id),
        ];
        for call in calls {
            if let Some(state) = state(&mut client, &call) {
                assert!(["22008", "22023"].contains(&state.as_str()), "{offset}: {call}: {state}");
            }
        }
        // A worker from before the jump: fenced where its step went to another, and nothing is handed out before its time.
        let attempts: i32 = one(
            &mut client,
            "SELECT attempts FROM stepwise.steps WHERE task_id = $1 AND step_id = $2",
            &[&held.task_id, &held.step_id],
        );
        let late = complete(&mut client, &held.receipt, "1");
        if ends_leases {
            // The first claim after the jump has handed it out anew, and its new lease is not over.
            assert_eq!(attempts, 2, "{offset}");
            assert_eq!(late.unwrap_err().code().map(|code| code.code()), Some("55000"), "{offset}");
        } else {
            assert_eq!((late.unwrap().as_str(), attempts), ("accepted", 1), "{offset}");
            // The step with a delay, of a task from before the jump.
            let early = format!("stepwise.steps WHERE step_id = 2 AND attempts > 0 AND task_id = {}", held.task_id);
            assert_eq!(count(&mut client, &early), 0, "{offset}");
        }
        client.batch_execute("RESET stepwise.clock_offset").unwrap();
        let wrong = "SELECT string_agg(v::text, chr(10)) FROM stepwise.verify() AS v";
        assert_eq!(one::<Option<String>>(&mut client, wrong, &[]), None, "{offset}");
        let all =
            "SELECT stepwise.cancel_task(task_id) FROM stepwise.tasks WHERE finished_at IS NULL OR state = 'error'";
        client.batch_execute(all).unwrap();
    }
}

/// JSON texts, made in the server.
const PAYLOADS: [&str; 19] = [
    "'{}'",
    "'null'",
    "'\"\"'",
    "'0'",
    "to_json(repeat('x', 1990))::text",
    "to_json(repeat('x', 1999))::text",
    "to_json(repeat('x', 2000))::text",
    "to_json(repeat('x', 2001))::text",
    "to_json(repeat('x', 2048))::text",
    "(SELECT to_json(string_agg(md5(i::text), ''))::text FROM generate_series(1, 32768) AS i)",
    "(SELECT to_json(string_agg(md5(i::text), ''))::text FROM generate_series(1, 200000) AS i)",
    "repeat('[', 1000) || repeat(']', 1000)",
    "repeat('[', 10000) || repeat(']', 10000)",
    "repeat('[', 1000000) || repeat(']', 1000000)",
    "'{\"n\": 123456789012345678901234567890.123456789012345678901234567890}'",
    "'{\"n\": 1e400, \"m\": -1e-400, \"z\": -0.0, \"k\": 1.10}'",
    "'{\"n\": 1e200000}'",
    "'{\"a\": 1, \"a\": 2, \"A\": 3, \"\": 4}'",
    "'{\"u\": \"\\u0000\"}'",
];

#[test]
fn payloads_are_kept_as_postgresql_itself_keeps_them() {
    let server = Server::start();
    let database = server.database("payloads");
    let mut client = database.connect();
    templates::register(&mut client, &templates::chain("chain", &["a", "b"]));
    let mut kept = 0;
    for payload in PAYLOADS {
        let text: String = one(&mut client, &format!("SELECT ({payload})::text"), &[]);
        // What PostgreSQL takes for jsonb is taken, and what it refuses is refused with its own error.
        let own = client.query_one("SELECT $1::text::jsonb::text, md5($1::text::jsonb::text)", &[&text]);
        let own = match own {
            Ok(row) => Ok(row.get::<_, String>(1)),
            Err(error) => Err(error.code().map(|code| code.code().to_owned())),
        };
        let create = client.query_one("SELECT stepwise.create_task('chain', $1::text::jsonb)", &[&text]);
        let task_id: i64 = match (own, create) {
            (Ok(digest), Ok(row)) => {
                let task_id = row.get(0);
                let stored: String =
                    one(&mut client, "SELECT md5(context::text) FROM stepwise.tasks WHERE task_id = $1", &[&task_id]);
                assert_eq!(stored, digest, "{payload}");
                task_id
            }
            (Err(expected), Err(error)) => {
                assert_eq!(error.code().map(|code| code.code().to_owned()), expected, "{payload}");
                continue;
            }
            (own, create) => panic!("{payload}: {own:?}, but {create:?}"),
        };
        // Results, handed on to the child as they are; an error; the history.
        let whole = "SELECT stepwise.complete_step(receipt, $1::text::jsonb) FROM stepwise.claim_steps('w') WHERE context = $1::text::jsonb";
        assert_eq!(one::<String>(&mut client, whole, &[&text]), "accepted", "{payload}");
        let handed = "SELECT stepwise.fail_step(receipt, $1::text::jsonb, false) FROM stepwise.claim_steps('w') \
            WHERE dependencies = jsonb_build_object('a', $1::text::jsonb) AND context = $1::text::jsonb";
        assert_eq!(one::<String>(&mut client, handed, &[&text]), "accepted", "{payload}");
        let same = "SELECT bool_and(results = $2::text::jsonb OR error = $2::text::jsonb) AND count(*) = 2 FROM stepwise.steps WHERE task_id = $1";
        assert!(one::<bool>(&mut client, same, &[&task_id, &text]), "{payload}");
        let history = "SELECT metadata -> 'error' = $2::text::jsonb FROM stepwise.transitions WHERE task_id = $1 AND step_id = 2 AND to_state = 'error'";
        assert!(one::<bool>(&mut client, history, &[&task_id, &text]), "{payload}");
        kept += 1;
    }
    assert!(kept >= 14, "{kept} payloads were kept");
    assert_eq!(count(&mut client, "stepwise.verify()"), 0);
}

#[test]
fn a_hundred_megabytes_are_kept_as_context_and_as_results() {
    let server = Server::start();
    let database = server.database("large");
    let mut client = database.connect();
    templates::register(&mut client, &templates::chain("chain", &["a", "b"]));
    // All of it stays in the server.
    client.batch_execute("CREATE TABLE large AS SELECT to_jsonb(repeat('x', 100 << 20)) AS payload").unwrap();
    client.batch_execute("SELECT stepwise.create_task('chain', payload) FROM large").unwrap();
    let given = "SELECT stepwise.complete_step(c.receipt, c.context) FROM stepwise.claim_steps('w') AS c, large \
        WHERE c.context = large.payload";
    assert_eq!(one::<String>(&mut client, given, &[]), "accepted");
    let handed = "SELECT stepwise.complete_step(c.receipt) FROM stepwise.claim_steps('w') AS c, large \
        WHERE c.dependencies -> 'a' = large.payload";
    assert_eq!(one::<String>(&mut client, handed, &[]), "accepted");
    let kept = "stepwise.tasks AS t JOIN stepwise.steps AS s USING (task_id), large \
        WHERE t.state = 'complete' AND t.context = payload AND s.results = payload";
    assert_eq!(count(&mut client, kept), 1);
    assert_eq!(count(&mut client, "stepwise.verify()"), 0);
}

#[test]
fn definitions_with_odd_values_are_kept_or_refused_with_22023() {
    let server = Server::start();
    let database = server.database("definitions");
    let mut client = database.connect();
    let mut kept = 0;
    for payload in PAYLOADS {
        let sql = format!(
            "SELECT stepwise.register_template(('{{\"name\": \"odd\", \"version\": \"1.0.{kept}\", \"steps\": [{{\"name\": \"a\", \"config\": ' \
                || {payload} || '}}]}}')::jsonb)"
        );
        let jsonb = format!("SELECT ({payload})::jsonb");
        let own = state(&mut client, &jsonb);
        match state(&mut client, &sql) {
            None => {
                let same = format!(
                    "SELECT config = ({payload})::jsonb OR ({payload})::jsonb = 'null' FROM stepwise.template_steps \
                    ORDER BY template_id DESC LIMIT 1"
                );
                assert!(one::<Option<bool>>(&mut client, &same, &[]).unwrap_or(true), "{payload}");
                kept += 1;
            }
            Some(state) => assert!(state == "22023" || Some(&state) == own.as_ref(), "{payload}: {state}"),
        }
    }
    assert!(kept > 5, "{kept} definitions were kept");
    assert_eq!(count(&mut client, "stepwise.templates"), kept);
}

#[test]
fn a_command_without_its_arguments_is_refused_with_22004() {
    let server = Server::start();
    let database = server.database("no_arguments");
    let mut client = database.connect();
    let sql = "SELECT p.proname::text, p.proname || '(' || string_agg('NULL::' || t.type, ', ' ORDER BY t.n) || ')', \
            p.proname IN (SELECT function_name FROM stepwise.access_matrix WHERE level = 'reader') \
        FROM pg_proc p, unnest(string_to_array(oidvectortypes(p.proargtypes), ', ')) WITH ORDINALITY AS t (type, n) \
        WHERE p.pronamespace = 'stepwise'::regnamespace AND p.pronargs > p.pronargdefaults AND t.n <= p.pronargs - p.pronargdefaults \
            AND p.proname IN (SELECT function_name FROM stepwise.access_matrix WHERE level <> 'owner') \
        GROUP BY p.oid, p.proname ORDER BY 2";
    let calls: Vec<(String, String, bool)> =
        client.query(sql, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert!(calls.len() > 30, "{calls:?}");
    for (name, call, reads) in &calls {
        let state = state(&mut client, &format!("SELECT * FROM stepwise.{call}"));
        if *reads {
            assert!(state.is_none() || state.as_deref() == Some("22004"), "{name}: {call}: {state:?}");
        } else {
            assert_eq!(state.as_deref(), Some("22004"), "{name}: {call}");
        }
    }
    for table in ["templates", "tasks", "steps", "transitions", "queues"] {
        assert_eq!(count(&mut client, &format!("stepwise.{table}")), 0, "{table}");
    }
}

#[test]
fn attempts_at_the_end_of_their_type_are_the_last() {
    let server = Server::start();
    let database = server.database("attempts");
    let mut client = database.connect();
    let definition = json!({"namespace": "test", "name": "stubborn", "steps": [{"name": "a"}],
        "defaults": {"retry_limit": i32::MAX, "timeout": "1h", "backoff": {"base": "1h", "cap": "10h", "jitter": 1}}});
    templates::register(&mut client, &definition);
    let tasks = templates::create(&mut client, "stubborn", 4);
    // As a replica may get them: all but one attempt are used up, or all are, waiting or in a worker's hands.
    let held = claim(&mut client, "before", 2).unwrap();
    client
        .batch_execute(&format!(
            "SET session_replication_role = replica; UPDATE stepwise.steps SET attempts = {max} - (task_id IN ({}, {}))::integer; \
                RESET session_replication_role",
            tasks[0],
            tasks[2],
            max = i32::MAX
        ))
        .unwrap();
    assert_eq!(held.iter().map(|step| step.task_id).collect::<Vec<_>>(), tasks[..2]);
    let state_of = |client: &mut Client, task: i64| -> (String, i32, bool) {
        let sql = "SELECT state, attempts, visible_at IS NULL FROM stepwise.steps WHERE task_id = $1";
        let row = client.query_one(sql, &[&task]).unwrap();
        (row.get(0), row.get(1), row.get(2))
    };
    // A failure of each that is held: the one has an attempt left, the other none.
    let fail = "SELECT stepwise.fail_step($1::text::uuid)";
    for step in &held {
        assert_eq!(one::<String>(&mut client, fail, &[&step.receipt]), "accepted");
    }
    assert_eq!(state_of(&mut client, tasks[0]), ("error".to_owned(), i32::MAX - 1, false));
    assert_eq!(state_of(&mut client, tasks[1]), ("error".to_owned(), i32::MAX, true));
    client.batch_execute("SET stepwise.clock_offset = '20h'").unwrap();
    let last = claim(&mut client, "w", 10).unwrap();
    let mut handed: Vec<(i64, i32)> = last.iter().map(|step| (step.task_id, step.attempt)).collect();
    handed.sort_unstable();
    assert_eq!(handed, [(tasks[0], i32::MAX), (tasks[2], i32::MAX)]);
    // The leases of the last attempts end. What has no attempt left is never handed out.
    client.batch_execute("SET stepwise.clock_offset = '40h'").unwrap();
    assert_eq!(one::<i32>(&mut client, "SELECT expired_leases FROM stepwise.tick()", &[]), 2);
    assert_eq!(claim(&mut client, "w", 10).unwrap().len(), 0);
    for task in &tasks {
        let state = if *task == tasks[3] { ("pending", i32::MAX, false) } else { ("error", i32::MAX, true) };
        assert_eq!(state_of(&mut client, *task), (state.0.to_owned(), state.1, state.2));
        for reader in [
            "get_step_readiness_status($1)",
            "get_task_execution_context($1)",
            "explain_step($1, 'a')",
            "render_task($1, 'html')",
        ] {
            let sql = format!("SELECT * FROM stepwise.{reader}");
            assert!(!client.query(&sql, &[task]).unwrap().is_empty(), "{sql}");
        }
    }
    // Those that the history does not know are found.
    let found = "SELECT count(DISTINCT task_id) FROM stepwise.verify() WHERE invariant = 'attempts'";
    assert_eq!(one::<i64>(&mut client, found, &[]), 4);
}

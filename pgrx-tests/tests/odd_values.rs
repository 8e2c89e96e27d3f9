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
    let mut kept = 0;
    for offset in [
        "1 hour",
        "-1 hour",
        "365 days",
        "-365 days",
        "36500 days",
        "-36500 days",
        "3650000 days",
        "-1500000 days",
        "106000000 days",
        "200000000 days",
        "-200000000 days",
        "9223372036854 seconds",
        "-9223372036854 seconds",
        "9223372036854775807 seconds",
        "1 month",
        "infinity",
        "-infinity",
        "",
        "soon",
    ] {
        client.batch_execute("RESET stepwise.clock_offset").unwrap();
        templates::create(&mut client, "timed", 2);
        let held = claim(&mut client, "before", 1).unwrap().remove(0);
        // What is no span of time, or leads out of what a timestamp can hold, is refused when it is set.
        if let Some(state) = state(&mut client, &format!("SET stepwise.clock_offset = '{offset}'")) {
            assert_eq!(state, "22023", "{offset}");
            continue;
        }
        kept += 1;
        let ahead = !offset.starts_with('-') && !offset.is_empty();
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
        if ahead && attempts > 1 {
            assert_eq!(late.unwrap_err().code().map(|code| code.code()), Some("55000"), "{offset}");
        } else if !ahead {
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
    assert!(kept > 5, "{kept} offsets were taken");
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

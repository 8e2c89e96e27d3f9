//! Calls that are taken back, or prepared and left: each is wholly there or wholly absent, and the backend goes on.
mod cluster;

use cluster::worker::{claim, complete};
use cluster::{Server, count, invariants, one, refusal, rows, templates};
use postgres::Client;
use serde_json::json;

/// What is stored, and what calls change beside it: rights, and the session's own clock.
fn state(client: &mut Client) -> (Vec<(String, String)>, String) {
    let rights = "SELECT md5(concat((SELECT string_agg(proacl::text, ' ' ORDER BY oid) FROM pg_proc WHERE pronamespace = n.oid), \
            (SELECT string_agg(concat(relacl::text, relrowsecurity), ' ' ORDER BY oid) FROM pg_class WHERE relnamespace = n.oid), \
            n.nspacl, current_setting('stepwise.clock_offset'))) \
        FROM pg_namespace n WHERE nspname = 'stepwise'";
    (rows(client), one(client, rights, &[]))
}

/// What a call has come to, without what differs from one time to the next: ids that were drawn, receipts, times.
fn outcome(client: &mut Client) -> String {
    let sql = "SELECT string_agg(line, chr(10) ORDER BY line) FROM ( \
        SELECT concat_ws(' ', 'task', state, total_steps, live_steps, completed_steps, failed_steps, cancelled_steps, identity_key) \
            AS line FROM stepwise.tasks \
        UNION ALL SELECT concat_ws(' ', 'step', template_id, step_id, state, remaining_parents, attempts, retryable, worker, \
            visible_at IS NULL, backoff_request_seconds, results, error, signal) FROM stepwise.steps \
        UNION ALL SELECT concat_ws(' ', 'change', step_id, from_state, to_state, worker) FROM stepwise.transitions \
        UNION ALL SELECT concat_ws(' ', 'queue', name, paused, max_in_flight) FROM stepwise.queues \
        UNION ALL SELECT concat_ws(' ', 'other', (SELECT count(*) FROM stepwise.templates), \
            (SELECT count(*) FROM stepwise.injected_failures), (SELECT count(*) FROM stepwise.access), \
            (SELECT string_agg(s::text, ' ') FROM (SELECT name, position FROM stepwise.subscriptions ORDER BY 1) AS s))) AS lines";
    one(client, sql, &[])
}

/// Calls that change nothing that is stored where nothing else does: they hold what they have found until the transaction ends.
const HOLDS: [&str; 1] = ["claim_events"];

/// Commands that need no call below, and why.
const NO_CALL: [(&str, &str); 1] = [("wake_queue", "announces a queue, and stores nothing")];

/// Tasks in every situation: a step of the first one is held, of the second failed for good, of the third in backoff; the
/// fourth waits for a signal, the fifth has ended, the last two have SQL handlers. Calls that all find something to do.
fn situations(client: &mut Client) -> Vec<String> {
    templates::register(client, &templates::chain("chain", &["a", "b"]));
    let waiting =
        json!({"namespace": "test", "name": "waiting", "steps": [{"name": "w", "kind": "wait", "timeout": "1h"}]});
    templates::register(client, &waiting);
    let tasks = templates::create(client, "chain", 3);
    let steps = claim(client, "w", 3).unwrap();
    let of = |task: i64| steps.iter().find(|step| step.task_id == task).expect("its step is held").receipt.clone();
    client.execute("SELECT stepwise.fail_step($1::text::uuid, '1', false)", &[&of(tasks[1])]).unwrap();
    client.execute("SELECT stepwise.fail_step($1::text::uuid, '1', retry_after => '1h')", &[&of(tasks[2])]).unwrap();
    let waiting = templates::create(client, "waiting", 1)[0];
    let ended = templates::create(client, "chain", 2);
    client.execute("SELECT stepwise.cancel_task($1)", &[&ended[0]]).unwrap();
    client
        .batch_execute(
            "CREATE SCHEMA app; CREATE TABLE app.entries (task_id bigint); \
            CREATE FUNCTION app.enter(given stepwise.step_context) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN \
                INSERT INTO app.entries VALUES (given.task_id); RETURN '1'; END $$; \
            CREATE ROLE some_reader; CREATE ROLE some_worker; SELECT stepwise.grant_access('some_worker', 'worker'); \
            SELECT stepwise.create_subscription('all', start_from => 'start'); \
            SELECT stepwise.create_subscription('rest', start_from => 'start')",
        )
        .unwrap();
    let inside = json!({"namespace": "test", "name": "inside", "defaults": {"queue": "inside"},
        "steps": [{"name": "h", "handler": {"sql": "app.enter"}}]});
    templates::register(client, &inside);
    let inside = templates::create(client, "inside", 2)[0];
    let mut elsewhere = templates::chain("elsewhere", &["a"]);
    elsewhere["defaults"] = json!({"queue": "elsewhere"});
    templates::register(client, &elsewhere);
    client.batch_execute("SELECT stepwise.pause_queue('elsewhere')").unwrap();
    let (held, failed, backoff, receipt) = (tasks[0], tasks[1], tasks[2], of(tasks[0]));
    vec![
        "SELECT stepwise.register_template('{\"name\": \"new\", \"steps\": [{\"name\": \"a\"}]}')".to_owned(),
        "SELECT stepwise.create_task('chain', identity_key => 'k')".to_owned(),
        "SELECT count(*) FROM stepwise.create_tasks('chain', '{\"{}\",\"{}\"}')".to_owned(),
        "SELECT count(*) FROM stepwise.claim_steps('w')".to_owned(),
        format!("SELECT stepwise.inject_failure({held}, 'b')"),
        format!("SELECT stepwise.extend_lease('{receipt}')"),
        format!("SELECT stepwise.complete_step('{receipt}', '1')"),
        format!("SELECT outcome FROM stepwise.complete_steps('{{{receipt}}}')"),
        format!("SELECT stepwise.fail_step('{receipt}', '1')"),
        format!("SELECT outcome FROM stepwise.fail_steps('{{{receipt}}}', retryable => '{{f}}')"),
        format!("SELECT count(*) FROM stepwise.report_and_claim('w', completed => '{{{receipt}}}', max_steps => 10)"),
        format!("SELECT stepwise.release_step('{receipt}')"),
        format!("SELECT stepwise.signal_step({waiting}, 'w')"),
        format!("SELECT stepwise.run_task({inside})"),
        "SELECT stepwise.run_steps('inside')".to_owned(),
        format!("SELECT stepwise.set_backoff({backoff}, 'a', '5h')"),
        format!("SELECT stepwise.release_backoff({backoff})"),
        format!("SELECT stepwise.resolve_step({held}, 'a')"),
        format!("SELECT stepwise.reset_step({failed}, 'a')"),
        format!("SELECT stepwise.retry_task({failed})"),
        format!("SELECT stepwise.cancel_step({held}, 'b')"),
        format!("SELECT stepwise.cancel_task({held})"),
        "SELECT stepwise.set_queue_limit('test', 3)".to_owned(),
        "SELECT stepwise.pause_queue('test')".to_owned(),
        "SELECT stepwise.resume_queue('elsewhere')".to_owned(),
        "SELECT stepwise.create_subscription('another')".to_owned(),
        "SELECT count(*) FROM stepwise.claim_events('all')".to_owned(),
        "SELECT stepwise.ack_events('all', 3)".to_owned(),
        "SELECT stepwise.ack_events(name, (SELECT max(event_id) FROM stepwise.transitions)) FROM stepwise.subscriptions; \
            SELECT stepwise.purge_tasks('0')"
            .to_owned(),
        "SELECT stepwise.drop_subscription('rest')".to_owned(),
        "SELECT stepwise.set_namespace_private('test')".to_owned(),
        "SELECT stepwise.grant_access('some_reader', 'reader', '{test}')".to_owned(),
        "SELECT stepwise.revoke_access('some_worker')".to_owned(),
        "SELECT stepwise.advance_clock('10h'); SELECT stepwise.tick()".to_owned(),
        format!("UPDATE stepwise.steps SET state = 'complete' WHERE task_id = {held} AND step_id = 1"),
        format!("UPDATE stepwise.tasks SET state = 'resolved_manually' WHERE task_id = {held}"),
    ]
}

#[test]
fn every_call_that_is_taken_back_is_as_if_never_made() {
    let server = Server::start_with(&["max_prepared_transactions=2", "autovacuum=off"]);
    let database = server.database("taken_back");
    let mut client = database.connect();
    let calls = situations(&mut client);
    let commands = "SELECT DISTINCT p.proname::text FROM stepwise.access_matrix m JOIN pg_proc p ON p.proname = m.function_name \
        WHERE p.pronamespace = 'stepwise'::regnamespace AND p.provolatile = 'v' AND p.prorettype <> 'trigger'::regtype \
            AND m.function_name NOT IN (SELECT function_name FROM stepwise.access_matrix WHERE level = 'reader')";
    for row in client.query(commands, &[]).unwrap() {
        let name: String = row.get(0);
        let is_called = calls.iter().any(|call| call.contains(&format!("stepwise.{name}(")));
        assert!(is_called != NO_CALL.iter().any(|(other, _)| *other == name), "which call of {name} shall be made?");
    }
    let mut fresh = database.connect();
    let before = state(&mut client);
    for call in &calls {
        let of_a_fresh_backend = {
            fresh.batch_execute(&format!("BEGIN; {call}")).unwrap_or_else(|error| panic!("{call}: {error:?}"));
            let outcome = outcome(&mut fresh);
            fresh.batch_execute("ROLLBACK").unwrap();
            outcome
        };
        for (begin, back) in [
            ("BEGIN", "ROLLBACK"),
            ("BEGIN; SAVEPOINT s", "ROLLBACK TO s; COMMIT"),
            ("BEGIN; SAVEPOINT s", "ROLLBACK TO s; SAVEPOINT s; SELECT 1; RELEASE s; COMMIT"),
            ("BEGIN; SET LOCAL stepwise.notify = off", "PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p'"),
        ] {
            // A setting is the session's, and PREPARE ends the session's transaction as COMMIT does.
            if call.contains("advance_clock") && back.contains("PREPARE") {
                continue;
            }
            client.batch_execute(begin).unwrap();
            client.batch_execute(call).unwrap_or_else(|error| panic!("{call}: {error:?}"));
            if !HOLDS.iter().any(|name| call.contains(&format!("stepwise.{name}("))) {
                assert_ne!(state(&mut client), before, "{call} changes nothing");
            }
            // Nothing of the times before is in the backend's memory: it comes to the same as elsewhere.
            assert_eq!(outcome(&mut client), of_a_fresh_backend, "{call}");
            for statement in back.split("; ") {
                client.batch_execute(statement).unwrap_or_else(|error| panic!("{call}, {statement}: {error:?}"));
            }
            assert_eq!(state(&mut client), before, "{call}, {back}");
        }
        // Nothing is held any more.
        fresh
            .batch_execute(
                "BEGIN; SELECT FROM stepwise.steps, stepwise.tasks, stepwise.subscriptions FOR UPDATE NOWAIT; ROLLBACK",
            )
            .unwrap_or_else(|error| panic!("{call}: {error:?}"));
    }
    invariants::assert_sound(&mut client);

    // Each once more, to stay, one after the other; those are refused that come too late for their step or task.
    let mut refused = Vec::new();
    for call in &calls {
        if let Err(error) = client.batch_execute(&format!("BEGIN; {call}; COMMIT")) {
            client.batch_execute("ROLLBACK").unwrap();
            assert_eq!(error.code().map(|code| code.code()), Some("55000"), "{call}: {error:?}");
            refused.push(call.split(['(', '=']).next().unwrap_or(call));
        }
    }
    let too_late = ["SELECT stepwise.fail_step", "SELECT stepwise.release_step", "SELECT stepwise.resolve_step"];
    assert_eq!(refused, too_late);
    assert_eq!(count(&mut client, "stepwise.verify()"), 0);
}

#[test]
fn a_prepared_transaction_outlives_its_session_and_a_restart() {
    let mut server = Server::start_with(&["max_prepared_transactions=2"]);
    let database = server.database("prepared");
    let mut client = database.connect();
    templates::register(&mut client, &templates::chain("chain", &["a", "b"]));
    templates::create(&mut client, "chain", 2);
    let held = claim(&mut client, "w", 1).unwrap().remove(0);
    let report = format!("SELECT stepwise.complete_step('{}')", held.receipt);

    // A transaction that has notified cannot be prepared; the error is PostgreSQL's, and all of it is rolled back.
    client.batch_execute(&format!("BEGIN; {report}")).unwrap();
    assert_eq!(refusal(&mut client, "PREPARE TRANSACTION 'p'", &[]), "0A000");
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(count(&mut client, "stepwise.steps WHERE state = 'complete'"), 0);

    client.batch_execute(&format!("SET stepwise.notify = off; BEGIN; {report}; PREPARE TRANSACTION 'p'")).unwrap();
    drop(client);
    server.kill_all();
    server.launch();
    let mut client = database.connect();
    invariants::assert_sound(&mut client);
    // What it holds is passed over; what waits for it waits.
    assert_eq!(claim(&mut client, "w", 10).unwrap().len(), 1);
    client.batch_execute("SET lock_timeout = '1ms'").unwrap();
    assert_eq!(refusal(&mut client, "SELECT stepwise.cancel_task($1)", &[&held.task_id]), "55P03");
    client.batch_execute("RESET lock_timeout").unwrap();
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    assert_eq!(complete(&mut client, &held.receipt, "2").unwrap(), "already_done");
    assert_eq!(claim(&mut client, "w", 10).unwrap().len(), 1);
    invariants::assert_sound(&mut client);
}

#[test]
fn a_full_queue_of_notifications_stops_no_work_that_announces_nothing() {
    let mut version = cluster::server::program("postgres");
    version.arg("--version");
    let version = String::from_utf8(cluster::server::run(version)).unwrap();
    // Before 17 its size is fixed, 8 GB; there it is only kept from being emptied.
    let can_be_small = ["17", "18"].iter().any(|major| version.contains(&format!(") {major}.")));
    let server = Server::start_with(if can_be_small { &["max_notify_queue_pages=64"] } else { &[] });
    let database = server.database("full_queue");
    let mut listener = database.connect();
    // It listens from its commit on; what it has not read stays in the queue.
    listener.batch_execute("LISTEN stepwise_step").unwrap();
    listener.batch_execute("BEGIN; SELECT 1").unwrap();
    let mut client = database.connect();
    templates::register(&mut client, &templates::chain("chain", &["a", "b"]));
    templates::create(&mut client, "chain", 300);
    let held = claim(&mut client, "w", 300).unwrap();
    let mut refused = None;
    let fill = "SELECT count(pg_notify('ballast', i || repeat('x', 7000))) FROM generate_series(1, 20) AS i";
    for _ in 0..if can_be_small { 100 } else { 1 } {
        refused = refused.or(client.query(fill, &[]).err());
    }
    assert_eq!(refused.is_some(), can_be_small);
    if can_be_small {
        for step in &held[..200] {
            let sql = format!("SELECT stepwise.complete_step('{}')", step.receipt);
            if let Err(error) = client.query(&sql, &[]) {
                assert_eq!(error.code().map(|code| code.code()), Some("54000"), "{error:?}");
                refused = None;
                break;
            }
        }
        assert!(refused.is_none(), "the queue never was full for a report");
        invariants::assert_sound(&mut client);
    }
    client.batch_execute("SET stepwise.notify = off").unwrap();
    for step in &held[200..] {
        assert_eq!(complete(&mut client, &step.receipt, "1").unwrap(), "accepted");
    }
    listener.batch_execute("COMMIT").unwrap();
    // Who finds it full makes no room in it; this does, of what has been read.
    let usage = "SELECT pg_notification_queue_usage()";
    let has_room = (0..1000).any(|_| {
        listener.batch_execute("").unwrap();
        one::<f64>(&mut client, usage, &[]) < 0.5
    });
    assert!(has_room, "the listener has read nothing");
    client.batch_execute("RESET stepwise.notify").unwrap();
    assert!(claim(&mut client, "w", 300).unwrap().len() >= 100);
    invariants::assert_sound(&mut client);
}

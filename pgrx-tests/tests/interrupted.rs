//! Calls that are taken back, cut off, or prepared and left: each is wholly there or wholly absent, and the backend goes on.
mod cluster;

use cluster::random::Random;
use cluster::worker::{Claimed, claim, complete, receipts};
use cluster::{Database, Server, count, invariants, one, refusal, templates};
use postgres::Client;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Every row of every table of the extension.
fn contents(client: &mut Client) -> String {
    let tables = "SELECT string_agg(format('SELECT %L || t::text AS line FROM stepwise.%I t', relname, relname), ' UNION ALL ') \
        FROM pg_class WHERE relnamespace = 'stepwise'::regnamespace AND relkind = 'r'";
    let tables: String = one(client, tables, &[]);
    one(client, &format!("SELECT md5(string_agg(line, chr(10) ORDER BY line)) FROM ({tables}) AS lines"), &[])
}

/// Tasks in every situation: a step of the first one is held, of the second failed for good, of the third in backoff; the
/// fourth waits for a signal, the fifth has ended. Calls that all find something to do.
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
    let (held, failed, backoff, receipt) = (tasks[0], tasks[1], tasks[2], of(tasks[0]));
    vec![
        "SELECT stepwise.register_template('{\"name\": \"new\", \"steps\": [{\"name\": \"a\"}]}')".to_owned(),
        "SELECT stepwise.create_task('chain', identity_key => 'k')".to_owned(),
        "SELECT count(*) FROM stepwise.create_tasks('chain', '{\"{}\",\"{}\"}')".to_owned(),
        "SELECT count(*) FROM stepwise.claim_steps('w')".to_owned(),
        format!("SELECT stepwise.complete_step('{receipt}', '1')"),
        format!("SELECT outcome FROM stepwise.complete_steps('{{{receipt}}}')"),
        format!("SELECT stepwise.fail_step('{receipt}', '1')"),
        format!("SELECT outcome FROM stepwise.fail_steps('{{{receipt}}}', retryable => '{{f}}')"),
        format!("SELECT count(*) FROM stepwise.report_and_claim('w', completed => '{{{receipt}}}', max_steps => 10)"),
        format!("SELECT stepwise.extend_lease('{receipt}')"),
        format!("SELECT stepwise.release_step('{receipt}')"),
        format!("SELECT stepwise.signal_step({waiting}, 'w')"),
        format!("SELECT stepwise.set_backoff({backoff}, 'a', '5h')"),
        format!("SELECT stepwise.release_backoff({backoff})"),
        format!("SELECT stepwise.resolve_step({held}, 'a')"),
        format!("SELECT stepwise.reset_step({failed}, 'a')"),
        format!("SELECT stepwise.retry_task({failed})"),
        format!("SELECT stepwise.cancel_step({held}, 'b')"),
        format!("SELECT stepwise.cancel_task({held})"),
        "SELECT stepwise.set_queue_limit('test', 3)".to_owned(),
        "SELECT stepwise.pause_queue('test')".to_owned(),
        "SELECT stepwise.purge_tasks('0')".to_owned(),
        "SET LOCAL stepwise.clock_offset = '10h'; SELECT stepwise.tick()".to_owned(),
        format!("UPDATE stepwise.steps SET state = 'complete' WHERE task_id = {held} AND step_id = 1"),
        format!("UPDATE stepwise.tasks SET state = 'resolved_manually' WHERE task_id = {held}"),
    ]
}

#[test]
fn every_call_that_is_taken_back_is_as_if_never_made() {
    let server = Server::start_with(&["max_prepared_transactions=2"]);
    let database = server.database("taken_back");
    let mut client = database.connect();
    let calls = situations(&mut client);
    let before = contents(&mut client);
    for call in &calls {
        for (begin, back) in [
            ("BEGIN", "ROLLBACK"),
            ("BEGIN; SAVEPOINT s", "ROLLBACK TO s; COMMIT"),
            ("BEGIN; SAVEPOINT s", "ROLLBACK TO s; SAVEPOINT s; SELECT 1; RELEASE s; COMMIT"),
            ("BEGIN; SET LOCAL stepwise.notify = off", "PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p'"),
        ] {
            client.batch_execute(begin).unwrap();
            client.batch_execute(call).unwrap_or_else(|error| panic!("{call}: {error:?}"));
            assert_ne!(contents(&mut client), before, "{call} changes nothing");
            for statement in back.split("; ") {
                client.batch_execute(statement).unwrap_or_else(|error| panic!("{call}, {statement}: {error:?}"));
            }
            assert_eq!(contents(&mut client), before, "{call}, {back}");
        }
    }
    invariants::assert_sound(&mut client);
    // Nothing of it is in the backend's memory either: each is made again, one after the other, as far as they go together.
    let made = calls.iter().filter(|call| {
        client.batch_execute(&format!("BEGIN; {call}; COMMIT")).is_ok() || {
            client.batch_execute("ROLLBACK").unwrap();
            false
        }
    });
    assert!(made.count() > 12);
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

/// Calls with a time limit that many of them do not keep; how many were cut off.
fn call_in_haste(database: &Database, seed: u64) -> (usize, usize) {
    let mut client = database.connect();
    let (mut random, mut held, mut cut_off, mut done) = (Random(seed), Vec::<Claimed>::new(), 0, 0);
    for _ in 0..250 {
        let micros = 300 + random.below(6000);
        let limit = ["statement_timeout", "lock_timeout"][usize::from(random.percent(20))];
        client.batch_execute(&format!("SET {limit} = '{micros}us'")).unwrap();
        let result = match random.below(10) {
            0 => client
                .execute("SELECT stepwise.create_tasks('ladder', array_fill('{}'::jsonb, ARRAY[20]))", &[])
                .map(|_| ()),
            1..=3 => claim(&mut client, "w", 30).map(|steps| held.extend(steps)),
            4 => client.execute("SELECT stepwise.tick(), stepwise.purge_tasks('0', 5)", &[]).map(|_| ()),
            _ => {
                let batch: Vec<Claimed> = held.iter().take(1 + random.below(40) as usize).cloned().collect();
                let function = if random.percent(90) { "complete_steps" } else { "fail_steps" };
                let sql = format!("SELECT outcome FROM stepwise.{function}($1::text[]::uuid[])");
                client.query(&sql, &[&receipts(&batch)]).map(|rows| {
                    assert!(
                        rows.iter().all(|row| row.get::<_, &str>(0) == "accepted"),
                        "a report that was cut off was stored"
                    );
                    held.drain(..batch.len());
                })
            }
        };
        // That may be cut off, too.
        let reset = format!("RESET {limit}");
        let is_reset = (0..1000).any(|_| client.batch_execute(&reset).is_ok());
        assert!(is_reset, "no time for {reset}");
        match result {
            Ok(()) => done += 1,
            Err(error) => {
                let state = error.code().map(|code| code.code().to_owned());
                assert!(["57014", "55P03"].map(str::to_owned).contains(state.as_ref().expect("a code")), "{error:?}");
                cut_off += 1;
            }
        }
    }
    (cut_off, done)
}

#[test]
fn calls_that_are_cut_off_anywhere_store_nothing_and_their_backends_go_on() {
    let server = Server::start();
    let database = server.database("cut_off");
    let mut client = database.connect();
    templates::register(&mut client, &templates::ladder("ladder", 5));
    templates::create(&mut client, "ladder", 50);
    let (cut_off, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for seed in 1..=4 {
            let (database, cut_off, done) = (&database, &cut_off, &done);
            scope.spawn(move || {
                let (cut, finished) = call_in_haste(database, seed);
                cut_off.fetch_add(cut, Ordering::Relaxed);
                done.fetch_add(finished, Ordering::Relaxed);
            });
        }
    });
    let (cut_off, done) = (cut_off.into_inner(), done.into_inner());
    println!("{cut_off} calls cut off, {done} not");
    assert!(cut_off > 20 && done > 100, "{cut_off} calls cut off, {done} not");
    invariants::assert_sound(&mut client);
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(one::<i64>(&mut client, deadlocks, &[]), 0);
}

#[test]
fn long_calls_answer_a_cancel_on_their_way() {
    let server = Server::start();
    let database = server.database("long_calls");
    let mut client = database.connect();
    let register = "SELECT stepwise.register_template(jsonb_build_object('namespace', 'test', 'name', $1::text, 'steps', \
        (SELECT jsonb_agg(jsonb_build_object('name', 's' || i, 'depends_on', \
            CASE WHEN i = 1 THEN '[]' ELSE jsonb_build_array('s' || i - 1) END)) FROM generate_series(1, 50000) AS i)))";
    let create = "SELECT count(*) FROM stepwise.create_tasks('long', array_fill('{}'::jsonb, ARRAY[2]))";
    let cancel = "SELECT stepwise.cancel_task((SELECT min(task_id) FROM stepwise.tasks))";
    let verify = "SELECT count(*) FROM stepwise.verify()";
    let time = |client: &mut Client, sql: &str, limit: Option<Duration>| {
        let millis = limit.map_or(0, |limit| limit.as_millis().max(1));
        client.batch_execute(&format!("SET statement_timeout = '{millis}ms'")).unwrap();
        let begin = Instant::now();
        let result = client.batch_execute(&format!("BEGIN; {}; ROLLBACK", sql.replace("$1", "'long'")));
        let elapsed = begin.elapsed();
        if let Err(error) = result {
            assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{sql}: {error:?}");
            assert!(limit.is_some());
            client.batch_execute("ROLLBACK").unwrap();
        }
        client.batch_execute("RESET statement_timeout").unwrap();
        elapsed
    };
    for (sql, keep) in [(register, true), (create, true), (cancel, false), (verify, false)] {
        let whole = time(&mut client, sql, None);
        // Told so after a tenth of its way, it does not go on to its end.
        let cut = time(&mut client, sql, Some(whole / 10));
        println!("{sql:.40}: whole {whole:?}, cut off after {cut:?}");
        assert!(cut * 10 < whole * 8, "{sql}: {cut:?} of {whole:?}");
        if keep {
            client.batch_execute(&sql.replace("$1", "'long'")).unwrap();
        }
    }
}

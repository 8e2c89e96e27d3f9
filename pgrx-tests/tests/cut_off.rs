//! Calls that a time limit ends, anywhere on their way: nothing of them is stored, the backend goes on, and a long one does
//! not run on to its end.
mod cluster;

use cluster::random::Random;
use cluster::worker::{Claimed, claim, receipts};
use cluster::{Database, Server, invariants, one, templates};
use postgres::Client;
use std::thread;
use std::time::{Duration, Instant};

/// Sets a limit, or takes it back. That may be cut off, too: by the limit, or by the end of the one before it.
fn set(client: &mut Client, sql: &str) {
    let is_set = (0..1000).any(|_| client.batch_execute(sql).is_ok());
    assert!(is_set, "no time for {sql}");
}

/// Calls with a time limit that many of them do not keep; how many were cut off, and how many were not. The limit follows
/// what the calls take on this machine: it shrinks with each that keeps it, and grows with each that does not.
fn call_in_haste(database: &Database, seed: u64) -> (usize, usize) {
    let mut client = database.connect();
    let (mut random, mut held, mut cut_off, mut done) = (Random(seed), Vec::<Claimed>::new(), 0, 0);
    let mut usual = 4.0;
    while cut_off + done < 250 || cut_off < 25 || done < 100 {
        // Where even the shortest limit there is, a millisecond, is kept by all, the calls become larger.
        let tasks = 20 * (1 + (cut_off + done) / 250);
        assert!(tasks <= 400, "{cut_off} calls cut off, {done} not");
        let millis = 1 + random.below(2 * usual as u64);
        let limit = ["statement_timeout", "lock_timeout"][usize::from(random.percent(20))];
        set(&mut client, &format!("SET {limit} = {millis}"));
        let result = match random.below(10) {
            0 => client
                .execute(
                    &format!("SELECT stepwise.create_tasks('ladder', array_fill('{{}}'::jsonb, ARRAY[{tasks}]))"),
                    &[],
                )
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
        set(&mut client, &format!("RESET {limit}"));
        match result {
            Ok(()) => {
                done += 1;
                usual = f64::max(usual * 0.95, 1.0);
            }
            Err(error) => {
                let state = error.code().map(|code| code.code().to_owned());
                assert!(["57014", "55P03"].map(str::to_owned).contains(state.as_ref().expect("a code")), "{error:?}");
                cut_off += 1;
                usual *= 1.2;
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
    thread::scope(|scope| {
        let sessions: Vec<_> = (1..=4)
            .map(|seed| {
                let database = &database;
                scope.spawn(move || call_in_haste(database, seed))
            })
            .collect();
        for session in sessions {
            let (cut_off, done) = session.join().expect("a session that ends");
            println!("{cut_off} calls cut off, {done} not");
        }
    });
    invariants::assert_sound(&mut client);
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(one::<i64>(&mut client, deadlocks, &[]), 0);
}

/// A chain of so many steps, as SQL.
fn chain(name: &str, steps: u32) -> String {
    format!(
        "jsonb_build_object('namespace', 'test', 'name', '{name}', 'steps', \
            (SELECT jsonb_agg(jsonb_build_object('name', 's' || i, 'depends_on', \
                CASE WHEN i = 1 THEN '[]' ELSE jsonb_build_array('s' || i - 1) END)) FROM generate_series(1, {steps}) AS i))"
    )
}

/// Runs a call that is rolled back, with a limit or without: how long it took, and whether the limit has ended it.
fn run(client: &mut Client, before: &str, call: &str, limit: Option<Duration>) -> (Duration, bool) {
    let millis = limit.map_or(0, |limit| limit.as_millis());
    client.batch_execute(&format!("BEGIN; {before}; SET LOCAL statement_timeout = {millis}")).unwrap();
    let begin = Instant::now();
    let result = client.batch_execute(call);
    let elapsed = begin.elapsed();
    if let Err(error) = &result {
        assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{call}: {error:?}");
        assert!(limit.is_some(), "{call}: {error:?}");
    }
    client.batch_execute("ROLLBACK").unwrap();
    (elapsed, result.is_err())
}

/// Fails unless the call ends soon after it was told to, be that at its begin, in its middle or towards its end. How soon is
/// a part of how long it takes; where a busy machine has kept it waiting, it is asked again.
#[track_caller]
fn assert_it_can_be_ended(client: &mut Client, before: &str, call: &str) {
    // The first time plans and caches are filled.
    run(client, before, call, None);
    let mut whole = run(client, before, call, None).0;
    let mut overruns = Vec::new();
    for tenths in [1, 4, 7] {
        let overrun = (0..6).find_map(|_| {
            // What a limit can be, whole milliseconds.
            let limit = Duration::from_millis((whole * tenths / 10).as_millis().max(1) as u64);
            let (elapsed, was_ended) = run(client, before, call, Some(limit));
            let overrun = elapsed.saturating_sub(limit);
            let is_soon = was_ended && overrun < whole / 4;
            // It may have been kept waiting when it was measured.
            whole = if was_ended { whole } else { whole.min(elapsed) };
            is_soon.then_some(overrun)
        });
        assert!(overrun.is_some(), "{call}: told to end after {tenths} tenths of {whole:?}, it has gone on");
        overruns.extend(overrun);
    }
    println!("{call:.60}: {whole:?}, went on for {overruns:?}");
}

#[test]
fn long_calls_answer_a_cancel_on_their_way() {
    let server = Server::start_with(&["autovacuum=off"]);
    let database = server.database("long_calls");
    let mut client = database.connect();
    let client = &mut client;

    // A chain, as a template, as a picture of what it would do, and as a task.
    let register = format!("SELECT stepwise.register_template({})", chain("long", 10_000));
    assert_it_can_be_ended(client, "", &register);
    client.batch_execute(&register).unwrap();
    let simulate = format!(
        "SELECT count(*) FROM stepwise.simulate_template({} || '{{\"defaults\": {{\"retry_limit\": 20}}}}', \
            (SELECT jsonb_object_agg('s' || i, 19) FROM generate_series(1, 1000) AS i))",
        chain("other", 1000)
    );
    assert_it_can_be_ended(client, "", &simulate);
    let create = "SELECT count(*) FROM stepwise.create_tasks('long', array_fill('{}'::jsonb, ARRAY[2]))";
    assert_it_can_be_ended(client, "", create);
    client.batch_execute(create).unwrap();
    let cancel = "SELECT stepwise.cancel_task((SELECT min(task_id) FROM stepwise.tasks))";
    assert_it_can_be_ended(client, "", cancel);
    assert_it_can_be_ended(client, "", "SELECT count(*) FROM stepwise.verify()");
    client.batch_execute(cancel).unwrap();
    assert_it_can_be_ended(client, "", "SELECT stepwise.purge_tasks('0')");
    client.batch_execute(&cancel.replace("min", "max")).unwrap();

    // Many steps beside each other, claimed, reported and taken back to work.
    let wide = "SELECT stepwise.register_template(jsonb_build_object('namespace', 'test', 'name', 'wide', 'steps', \
        (SELECT jsonb_agg(jsonb_build_object('name', 's' || i)) FROM generate_series(1, 5000) AS i)))";
    client.batch_execute(wide).unwrap();
    client.batch_execute("SELECT stepwise.create_task('wide')").unwrap();
    assert_it_can_be_ended(client, "", "SELECT count(*) FROM stepwise.claim_steps('w', max_steps => 1000)");
    let hold = "CREATE TABLE held AS SELECT receipt FROM generate_series(1, 5), \
        LATERAL stepwise.claim_steps('w', max_steps => 1000 + 0 * generate_series)";
    client.batch_execute(hold).unwrap();
    let complete = "SELECT count(*) FROM stepwise.complete_steps(ARRAY(SELECT receipt FROM held))";
    assert_it_can_be_ended(client, "", complete);
    let fail = "SELECT count(*) FROM stepwise.fail_steps(ARRAY(SELECT receipt FROM held), \
        retryable => array_fill(false, ARRAY[5000]))";
    assert_it_can_be_ended(client, "", fail);
    assert_it_can_be_ended(client, "SET LOCAL stepwise.clock_offset = '10h'", "SELECT stepwise.tick()");
    client.batch_execute(fail).unwrap();
    let retry = "SELECT stepwise.retry_task((SELECT max(task_id) FROM stepwise.tasks))";
    assert_it_can_be_ended(client, "", retry);
    assert_eq!(one::<i64>(client, "SELECT count(*) FROM stepwise.verify()", &[]), 0);
}

//! Many clients want the same at the same moment: one gets it, the others are told so, and nobody deadlocks.
mod cluster;

use cluster::random::Random;
use cluster::worker::{Claimed, MANNERS, Worker, claim};
use cluster::{Database, Server, count, invariants, one, templates};
use postgres::Client;
use serde_json::json;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;

/// The same from so many connections at once; what each came to.
fn at_once<T: Send>(
    database: &Database,
    clients: usize,
    prepare: &str,
    act: impl Fn(&mut Client, usize) -> T + Sync,
) -> Vec<T> {
    let barrier = Barrier::new(clients);
    let run = |number: usize| {
        let mut client = database.connect();
        client.batch_execute(prepare).expect("the preparation");
        barrier.wait();
        act(&mut client, number)
    };
    thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..clients).map(|number| scope.spawn(move || run(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the client ends")).collect()
    })
}

#[track_caller]
fn assert_no_deadlock(client: &mut Client) {
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(one::<i64>(client, deadlocks, &[]), 0);
}

#[test]
fn the_step_of_a_lost_worker_goes_to_one_of_twenty_after_its_lease() {
    let server = Server::start();
    let database = server.database("lost_worker");
    let mut client = database.connect();
    let definition = json!({"namespace": "test", "name": "one", "steps": [{"name": "only", "retry_limit": 3}],
        "defaults": {"timeout": "1h", "backoff": {"base": "1ms", "cap": "1ms"}}});
    templates::register(&mut client, &definition);
    templates::create(&mut client, "one", 1);
    assert_eq!(claim(&mut client, "lost", 1).unwrap().len(), 1);
    // Nobody gets it before the end of the lease; then one of twenty, as long as an attempt is left.
    for (minutes, expected) in [(59, 0), (61, 1), (90, 0), (125, 1), (190, 0), (300, 0)] {
        let prepare = format!("SET stepwise.clock_offset = '{minutes} minutes'");
        let claimed = at_once(&database, 20, &prepare, |client, number| {
            claim(client, &format!("worker {number}"), 10).expect("a claim").len()
        });
        assert_eq!(claimed.iter().sum::<usize>(), expected, "after {minutes} minutes");
    }
    assert_eq!(count(&mut client, "stepwise.tasks WHERE state = 'error'"), 1);
    let lost =
        "stepwise.transitions WHERE step_id = 1 AND to_state = 'error' AND metadata ->> 'reason' = 'lease_expired'";
    assert_eq!(count(&mut client, lost), 3);
    assert_eq!(count(&mut client, "stepwise.steps WHERE attempts = 3"), 1);
    invariants::assert_sound(&mut client);
    assert_no_deadlock(&mut client);
}

#[test]
fn sixteen_clients_report_the_same_steps_in_any_order_and_each_counts_once() {
    let server = Server::start();
    let database = server.database("shuffled");
    let mut client = database.connect();
    templates::register(&mut client, &templates::ladder("ladder", 4));
    templates::create(&mut client, "ladder", 60);
    let mut rounds = 0;
    loop {
        let held = claim(&mut client, "w", 150).unwrap();
        if held.is_empty() && count(&mut client, "stepwise.tasks WHERE finished_at IS NULL") == 0 {
            break;
        }
        let accepted =
            at_once(&database, 16, "", |client, number| report_shuffled(client, &held, rounds * 16 + number as u64));
        assert_eq!(accepted.iter().sum::<usize>(), held.len());
        rounds += 1;
    }
    assert!(rounds > 3);
    invariants::assert_sound(&mut client);
    assert_no_deadlock(&mut client);
}

/// Reports all of the steps in batches of some, completed or failed, some of them twice; how many reports were accepted.
fn report_shuffled(client: &mut Client, held: &[Claimed], seed: u64) -> usize {
    let mut random = Random(seed);
    let mut receipts: Vec<&str> =
        held.iter().chain(&held[..held.len() / 4]).map(|step| step.receipt.as_str()).collect();
    for last in (1..receipts.len()).rev() {
        receipts.swap(last, random.below(last as u64 + 1) as usize);
    }
    let mut accepted = 0;
    for batch in receipts.chunks(1 + random.below(40) as usize) {
        let function = if random.percent(90) { "complete_steps" } else { "fail_steps" };
        let sql = format!("SELECT outcome FROM stepwise.{function}($1::text[]::uuid[])");
        let rows = client.query(&sql, &[&batch]).expect("a batch");
        for row in &rows {
            let outcome: String = row.get(0);
            assert!(["accepted", "already_done", "stale"].contains(&outcome.as_str()), "{outcome}");
            accepted += usize::from(outcome == "accepted");
        }
    }
    accepted
}

#[test]
fn twenty_callers_with_one_identity_key_get_one_task() {
    let server = Server::start();
    let database = server.database("identity");
    let mut client = database.connect();
    templates::register(&mut client, &templates::chain("chain", &["first", "second"]));
    for key in 0..10 {
        // Half of them in a batch that has the key twice.
        let ids = at_once(&database, 20, "", |client, number| {
            let key = format!("key {key}");
            let sql = match number % 2 {
                0 => "SELECT stepwise.create_task('chain', identity_key => $1)",
                _ => {
                    "SELECT max(id) FROM stepwise.create_tasks('chain', '{\"{}\",\"{}\"}', identity_keys => ARRAY[$1, $1]) AS id"
                }
            };
            one::<i64>(client, sql, &[&key])
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
    assert_eq!(count(&mut client, "stepwise.tasks"), 10);
    assert_eq!(count(&mut client, "stepwise.steps"), 20);
    invariants::assert_sound(&mut client);
    assert_no_deadlock(&mut client);
}

#[test]
fn a_purge_under_load_takes_only_what_has_ended() {
    let server = Server::start();
    let database = server.database("purge");
    let mut client = database.connect();
    templates::register(&mut client, &templates::ladder("ladder", 4));
    templates::create(&mut client, "ladder", 300);
    let (done, purged) = (AtomicBool::new(false), AtomicI64::new(0));
    thread::scope(|scope| {
        let workers: Vec<_> = (1..)
            .zip(MANNERS)
            .map(|(seed, manner)| {
                let mut worker = Worker {
                    client: database.connect(),
                    name: format!("worker {seed}"),
                    manner,
                    random: Random(seed),
                    failures_percent: 10,
                    releases_percent: 2,
                };
                scope.spawn(move || worker.run())
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = database.connect();
                while !done.load(Ordering::Relaxed) {
                    let most = one::<i32>(&mut client, "SELECT stepwise.purge_tasks('0', 20)", &[]);
                    purged.fetch_add(i64::from(most), Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            let mut client = database.connect();
            while !done.load(Ordering::Relaxed) {
                // One statement sees a task with all that belongs to it, or nothing of it.
                let partial = "(SELECT t.task_id FROM stepwise.tasks t LEFT JOIN stepwise.steps s USING (task_id) \
                    GROUP BY t.task_id, t.total_steps HAVING count(s.step_id) <> t.total_steps) AS t";
                assert_eq!(count(&mut client, partial), 0);
                assert_eq!(count(&mut client, "stepwise.verify()"), 0);
            }
        });
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "a worker was disturbed");
    });
    while one::<i32>(&mut client, "SELECT stepwise.purge_tasks('0')", &[]) > 0 {}
    let errors = count(&mut client, "stepwise.tasks");
    assert_eq!(count(&mut client, "stepwise.tasks WHERE state <> 'error'"), 0);
    assert!(purged.into_inner() > 50 && errors < 100);
    for table in ["steps", "transitions"] {
        let dangling =
            format!("stepwise.{table} x WHERE NOT EXISTS (SELECT FROM stepwise.tasks t WHERE t.task_id = x.task_id)");
        assert_eq!(count(&mut client, &dangling), 0, "{table}");
    }
    invariants::assert_sound(&mut client);
    assert_no_deadlock(&mut client);
}

#[test]
fn work_goes_on_beside_a_long_transaction() {
    let server = Server::start();
    let database = server.database("long_transaction");
    let mut client = database.connect();
    templates::register(&mut client, &templates::ladder("ladder", 4));
    templates::create(&mut client, "ladder", 150);
    // No dead row can be removed from here on.
    let mut reader = database.connect();
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM stepwise.tasks").unwrap();
    thread::scope(|scope| {
        for (seed, manner) in (1..).zip(MANNERS) {
            let mut worker = Worker {
                client: database.connect(),
                name: format!("worker {seed}"),
                manner,
                random: Random(seed),
                failures_percent: 10,
                releases_percent: 2,
            };
            scope.spawn(move || worker.run());
        }
    });
    assert_eq!(count(&mut client, "stepwise.tasks WHERE finished_at IS NULL"), 0);
    // The other one sees all as it was, and sound.
    assert_eq!(count(&mut reader, "stepwise.tasks WHERE state = 'pending'"), 150);
    assert_eq!(count(&mut reader, "stepwise.verify()"), 0);
    reader.batch_execute("COMMIT").unwrap();
    invariants::assert_sound(&mut client);
    assert_no_deadlock(&mut client);
}

//! Many clients want the same at the same moment: one gets it, the others are told so, and nobody deadlocks.
mod cluster;

use cluster::random::Random;
use cluster::worker::{Claimed, MANNERS, Worker, claim, complete};
use cluster::{Database, Server, count, invariants, one, templates};
use postgres::Client;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

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

/// Once, or again and again for so many seconds (`make contention`).
fn repeat(mut round: impl FnMut(u64)) {
    let seconds = std::env::var("PG_STEPWISE_CONTENTION_SECONDS").ok().filter(|text| !text.is_empty());
    let seconds = seconds.map_or(0, |text| text.parse().expect("PG_STEPWISE_CONTENTION_SECONDS is a number"));
    let end = Instant::now() + Duration::from_secs(seconds);
    for number in 1.. {
        round(number);
        if Instant::now() >= end {
            println!("{number} rounds");
            return;
        }
    }
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
    server.assert_no_deadlock();
}

#[test]
fn twenty_claimers_take_each_of_many_steps_once() {
    let server = Server::start();
    let database = server.database("claimers");
    let mut client = database.connect();
    templates::register(&mut client, &templates::ladder("ladder", 2));
    repeat(|_| {
        let tasks = templates::create(&mut client, "ladder", 200);
        let before: i64 = one(&mut client, CLAIMS, &[]);
        let claimed: Vec<Vec<Claimed>> = at_once(&database, 20, "", |client, number| {
            let mut mine = Vec::new();
            loop {
                let steps = claim(client, &format!("worker {number}"), 10).expect("a claim");
                // What others are about to take is passed over: an empty answer is not the end.
                if steps.is_empty() && count(client, READY) == 0 {
                    return mine;
                }
                mine.extend(steps);
            }
        });
        let busy = claimed.iter().filter(|mine| !mine.is_empty()).count();
        assert!(busy > 1, "one took all");
        let all: Vec<&Claimed> = claimed.iter().flatten().collect();
        let steps: BTreeSet<(i64, i32)> = all.iter().map(|step| (step.task_id, step.step_id)).collect();
        let receipts: BTreeSet<&str> = all.iter().map(|step| step.receipt.as_str()).collect();
        // The first two steps of each task, each to one, and never a step whose parents are open.
        let expected: BTreeSet<(i64, i32)> = tasks.iter().flat_map(|&task| [(task, 1), (task, 2)]).collect();
        assert_eq!((all.len(), receipts.len()), (400, 400));
        assert_eq!(steps, expected);
        assert!(all.iter().all(|step| step.attempt == 1));
        // The history says the same: each was claimed once, by the worker that was told so.
        assert_eq!(one::<i64>(&mut client, CLAIMS, &[]) - before, 400);
        for (number, mine) in claimed.iter().enumerate() {
            let of_worker = format!("stepwise.steps WHERE state = 'in_progress' AND worker = 'worker {number}'");
            assert_eq!(count(&mut client, &of_worker), mine.len() as i64);
        }
        for step in all {
            assert_eq!(complete(&mut client, &step.receipt, "1").unwrap(), "accepted");
        }
        client
            .batch_execute("SELECT stepwise.cancel_task(task_id) FROM stepwise.tasks WHERE finished_at IS NULL")
            .unwrap();
    });
    invariants::assert_sound(&mut client);
    server.assert_no_deadlock();
}

const READY: &str = "stepwise.steps WHERE state = 'pending' AND visible_at <= stepwise.now()";
const CLAIMS: &str = "SELECT count(*) FROM stepwise.transitions WHERE step_id IS NOT NULL AND to_state = 'in_progress'";

#[test]
fn sixteen_clients_report_the_same_steps_in_any_order_and_each_counts_once() {
    let server = Server::start();
    let database = server.database("shuffled");
    let mut client = database.connect();
    templates::register(&mut client, &templates::ladder("ladder", 4));
    let mut rounds = 0;
    repeat(|turn| {
        templates::create(&mut client, "ladder", 60);
        loop {
            let held = claim(&mut client, "w", 150).unwrap();
            if held.is_empty() && count(&mut client, "stepwise.tasks WHERE finished_at IS NULL") == 0 {
                break;
            }
            let accepted = at_once(&database, 16, "", |client, number| {
                report_shuffled(client, &held, rounds * 16 + number as u64)
            });
            assert_eq!(accepted.iter().sum::<usize>(), held.len());
            rounds += 1;
        }
        assert!(rounds > 3 * turn);
    });
    invariants::assert_sound(&mut client);
    server.assert_no_deadlock();
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
    server.assert_no_deadlock();
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
    server.assert_no_deadlock();
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
    server.assert_no_deadlock();
}

//! The durable stream: whatever writers and readers do and suffer, a subscription is given each event at least once, those
//! of a task in their order, and none is left out.
mod cluster;

use cluster::random::Random;
use cluster::server::{program, run};
use cluster::{Database, Server, count, invariants, one, templates, wait};
use postgres::Client;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Name, event id, task.
type Event = (String, i64, i64);

fn read(client: &mut Client, call: &str) -> Result<Vec<Event>, postgres::Error> {
    let rows = client.query(&format!("SELECT event, event_id, task_id FROM stepwise.{call}"), &[])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// The changes that events tell of: all but a step's that was given back and a backoff that was ended.
const TOLD: &str = "stepwise.transitions WHERE (from_state, to_state) IS DISTINCT FROM ('in_progress', 'pending') \
    AND (from_state IS DISTINCT FROM to_state OR retry)";

fn told(client: &mut Client, after: i64) -> Vec<i64> {
    let sql = format!("SELECT event_id FROM {TOLD} AND event_id > $1 ORDER BY event_id");
    client.query(&sql, &[&after]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// All that is left for a subscription, acknowledged as it is read.
fn drain(client: &mut Client, subscription: &str) -> Vec<Event> {
    let mut events = Vec::new();
    wait::until("the subscription is read to its end", || {
        let next = read(client, &format!("read_events('{subscription}', 200)")).unwrap();
        if let Some((_, last, _)) = next.last() {
            client.execute("SELECT stepwise.ack_events($1, $2)", &[&subscription, last]).unwrap();
        }
        events.extend(next);
        let sql = "SELECT safe_event = last_event FROM stepwise.subscription_lag() WHERE subscription = $1";
        let all_safe: bool = one(client, sql, &[&subscription]);
        let rest = read(client, &format!("read_events('{subscription}', 1)")).unwrap();
        (all_safe && rest.is_empty()).then_some(())
    });
    events
}

/// Asserts that events of one task ascend.
fn assert_in_order(events: &[Event]) {
    let mut last: BTreeMap<i64, i64> = BTreeMap::new();
    for (event, event_id, task_id) in events {
        let before = last.insert(*task_id, *event_id).unwrap_or(0);
        assert!(before <= *event_id, "{event} {event_id} of task {task_id} after {before}");
    }
}

/// Transactions of every length and end: committed, rolled back, prepared and decided by another one. So many, and on a slow
/// machine some more, until the readers have had their share.
fn write(database: &Database, seed: u64, rounds: usize, share: &(dyn Fn(&mut Client) -> bool + Sync)) {
    let mut random = Random(seed);
    let mut client = database.connect();
    client.batch_execute("SET stepwise.notify = off").unwrap();
    let end = Instant::now() + wait::DEADLINE;
    for round in 0.. {
        if round >= rounds {
            if share(&mut client) || Instant::now() > end {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        client.batch_execute("BEGIN").unwrap();
        let mut done = true;
        for _ in 0..1 + random.below(3) {
            let sql = match random.below(4) {
                0 => "SELECT stepwise.create_task('two')",
                1 => {
                    "SELECT count(stepwise.fail_step(receipt, retry_after => '0')) FROM stepwise.claim_steps('w', NULL, 1)"
                }
                _ => "SELECT count(stepwise.complete_step(receipt)) FROM stepwise.claim_steps('w', NULL, 2)",
            };
            done &= client.execute(sql, &[]).is_ok();
            thread::sleep(Duration::from_micros(random.below(3000)));
        }
        let prepared = format!("{seed}/{round}");
        match random.below(6) {
            0 => client.batch_execute("ROLLBACK").unwrap(),
            1 | 2 if done => {
                client.batch_execute(&format!("PREPARE TRANSACTION '{prepared}'")).unwrap();
                thread::sleep(Duration::from_micros(random.below(8000)));
                let end = if random.percent(30) { "ROLLBACK" } else { "COMMIT" };
                client.batch_execute(&format!("{end} PREPARED '{prepared}'")).unwrap();
            }
            _ => client.batch_execute("COMMIT").unwrap(),
        }
    }
}

/// Handles events in the transaction that acknowledges them, at a place of its own in the order.
fn handle_once(database: &Database, stop: &AtomicBool, lost: &AtomicUsize) {
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let client: &mut Client = connection.get_or_insert_with(|| database.connect());
        let sql = "WITH e AS MATERIALIZED (SELECT * FROM stepwise.claim_events('once', 20)), \
                h AS (INSERT INTO handled (event, event_id, task_id) SELECT event, event_id, task_id FROM e) \
            SELECT stepwise.ack_events('once', max(event_id)) FROM e HAVING count(*) > 0";
        if client.execute(sql, &[]).is_err() {
            lost.fetch_add(1, Ordering::Relaxed);
            connection = None;
        }
    }
}

/// Handles events, then acknowledges: after it was cut off, some come again. What it handled, in its order.
fn handle(database: &Database, stop: &AtomicBool, lost: &AtomicUsize, read_so_far: &AtomicUsize) -> Vec<Vec<Event>> {
    let mut lives = vec![Vec::new()];
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let client: &mut Client = connection.get_or_insert_with(|| database.connect());
        let Ok(events) = read(client, "read_events('again', 20)") else {
            (connection, _) = (None, lost.fetch_add(1, Ordering::Relaxed));
            lives.push(Vec::new());
            continue;
        };
        let last = events.last().map(|(_, last, _)| *last);
        read_so_far.fetch_add(events.len(), Ordering::Relaxed);
        lives.last_mut().unwrap().extend(events);
        let acked = last.map(|last| client.execute("SELECT stepwise.ack_events('again', $1)", &[&last]));
        if acked.is_some_and(|acked| acked.is_err()) {
            (connection, _) = (None, lost.fetch_add(1, Ordering::Relaxed));
            lives.push(Vec::new());
        }
    }
    lives
}

#[test]
fn every_event_comes_at_least_once_and_in_order() {
    let server = Server::start_with(&["max_prepared_transactions=20"]);
    let database = server.database("stream");
    let mut client = database.connect();
    templates::register(&mut client, &templates::chain("two", &["a", "b"]));
    client
        .batch_execute("CREATE TABLE handled (place bigserial, event text, event_id bigint, task_id bigint)")
        .unwrap();
    for name in ["once", "again"] {
        client.execute("SELECT stepwise.create_subscription($1)", &[&name]).unwrap();
    }
    let (stop, lost, read_so_far) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    // Some come twice, so that this is more than the quarter of them that is asked for below.
    let share = |client: &mut Client| {
        let read = read_so_far.load(Ordering::Relaxed) as i64;
        lost.load(Ordering::Relaxed) > 10 && read * 2 > count(client, TOLD)
    };
    let lives = thread::scope(|scope| {
        let again: Vec<_> = (0..2).map(|_| scope.spawn(|| handle(&database, &stop, &lost, &read_so_far))).collect();
        for _ in 0..2 {
            scope.spawn(|| handle_once(&database, &stop, &lost));
        }
        let killer = scope.spawn(|| {
            let mut client = database.connect();
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE query ~ '_events' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1";
            while !stop.load(Ordering::Relaxed) {
                client.query(sql, &[]).unwrap();
                thread::sleep(Duration::from_millis(15));
            }
        });
        let writers: Vec<_> = (1..=4)
            .map(|seed| {
                scope.spawn({
                    let (database, share) = (&database, &share);
                    move || write(database, seed, 120, share)
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        stop.store(true, Ordering::Relaxed);
        killer.join().unwrap();
        again.into_iter().flat_map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(lost.load(Ordering::Relaxed) > 10, "readers were cut off {lost:?} times only");
    let all = told(&mut client, 0);
    assert!(all.len() > 300, "{} changes", all.len());
    // They worked while the writers did, not only when all was over.
    let so_far: BTreeSet<i64> = lives.iter().flatten().map(|(_, event_id, _)| *event_id).collect();
    assert!(so_far.len() * 4 > all.len(), "{} of {} read meanwhile", so_far.len(), all.len());

    lives.iter().for_each(|life| assert_in_order(life));
    let rest = drain(&mut client, "again");
    assert_in_order(&rest);
    let seen: BTreeSet<i64> = lives.iter().flatten().chain(&rest).map(|(_, event_id, _)| *event_id).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);

    let rest = drain(&mut client, "once");
    let handled = "SELECT event, event_id, task_id FROM handled ORDER BY place";
    let mut once: Vec<Event> =
        client.query(handled, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    once.extend(rest);
    assert!(once.is_sorted_by_key(|(_, event_id, _)| *event_id), "one reader at a time reads in order");
    assert_eq!(once.iter().collect::<BTreeSet<_>>().len(), once.len(), "an event was handled twice");
    let mut ids: Vec<i64> = once.iter().map(|(_, event_id, _)| *event_id).collect();
    ids.dedup();
    assert_eq!(ids, all);
    invariants::assert_sound(&mut client);
}

fn burn_transaction_ids(client: &mut Client, many: i32) {
    let sql = format!("DO $$ BEGIN FOR n IN 1..{many} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$");
    client.batch_execute(&sql).unwrap();
}

fn next_xid(client: &mut Client) -> i64 {
    one(client, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint", &[])
}

#[test]
fn a_restored_subscription_goes_on_where_it_was() {
    let (from, lower, higher) = (Server::start(), Server::start(), Server::start());
    let database = from.database("origin");
    let mut client = database.connect();
    burn_transaction_ids(&mut client, 20_000);
    templates::register(&mut client, &templates::chain("two", &["a", "b"]));
    client.execute("SELECT stepwise.create_subscription('reader', start_from => 'start')", &[]).unwrap();
    templates::create(&mut client, "two", 10);
    let position = read(&mut client, "read_events('reader', 4)").unwrap()[3].1;
    client.execute("SELECT stepwise.ack_events('reader', $1)", &[&position]).unwrap();
    // One that is at work while the dump is made has early ids, and is not in it; a reader waits for it.
    let mut slow = database.connect();
    slow.batch_execute("BEGIN; SELECT stepwise.create_task('two')").unwrap();
    templates::create(&mut client, "two", 5);
    read(&mut client, "read_events('reader', 4)").unwrap();
    assert_eq!(count(&mut client, "stepwise.subscriptions WHERE mark_xid IS NOT NULL"), 1);
    let mut dump = program("pg_dump");
    dump.args(["-U", "postgres", "-h"]).arg(&database.socket).arg(&database.name);
    let dump = run(dump);
    slow.batch_execute("COMMIT").unwrap();

    let dumped = told(&mut client, position);
    let (expected, last) = (dumped.len() - 1, dumped[dumped.len() - 1]);
    for (server, burnt) in [(&lower, 0), (&higher, 40_000)] {
        let to = server.empty_database("restored");
        let mut client = to.connect();
        burn_transaction_ids(&mut client, burnt);
        let mut psql = program("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]).arg(&to.socket).arg(&to.name);
        let mut psql = psql.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        psql.stdin.take().unwrap().write_all(&dump).unwrap();
        assert!(psql.wait().unwrap().success());
        let mark: i64 = one(&mut client, "SELECT mark_xid FROM stepwise.subscriptions", &[]);
        assert_eq!(mark > next_xid(&mut client), burnt == 0, "the ids of the other cluster are lower and higher");
        // Somebody is always at work: the reader has to go by marks.
        let mut busy = [to.connect(), to.connect()];
        busy[0].batch_execute("BEGIN; SELECT stepwise.create_task('two')").unwrap();
        let mut seen = Vec::new();
        for turn in 1..=6 {
            seen.extend(read(&mut client, "read_events('reader', 1000)").unwrap());
            busy[turn % 2].batch_execute("BEGIN; SELECT stepwise.create_task('two')").unwrap();
            busy[(turn + 1) % 2].batch_execute("COMMIT").unwrap();
            if let Some((_, last, _)) = seen.last() {
                client.execute("SELECT stepwise.ack_events('reader', $1)", &[last]).unwrap();
            }
        }
        assert!(seen.len() > expected, "{} events while others work", seen.len());
        drop(busy);
        seen.extend(drain(&mut client, "reader"));
        assert_in_order(&seen);
        let ids: Vec<i64> = seen.iter().map(|(_, event_id, _)| *event_id).collect();
        assert_eq!(ids, told(&mut client, position));
        assert_eq!(ids.iter().filter(|id| **id <= last).count(), expected);
    }
}

#[test]
fn a_standby_is_given_what_is_safe_on_the_primary() {
    let server = Server::start();
    let database = server.database("events");
    let mut primary = database.connect();
    templates::register(&mut primary, &templates::chain("two", &["a", "b"]));
    primary.execute("SELECT stepwise.create_subscription('reader')", &[]).unwrap();
    let standby = server.standby();
    let mut reader = standby.connect("events");
    // An early id is drawn, and nothing of its transaction has reached the standby.
    let mut slow = database.connect();
    slow.batch_execute("BEGIN; SELECT stepwise.create_task('two')").unwrap();
    templates::create(&mut primary, "two", 3);
    primary.execute("SELECT stepwise.tick()", &[]).unwrap();
    wait::until("the standby has the later tasks", || (count(&mut reader, "stepwise.tasks") == 3).then_some(()));
    assert_eq!(read(&mut reader, "read_events('reader')").unwrap(), []);
    slow.batch_execute("COMMIT").unwrap();
    let seen = wait::until("the standby is given all", || {
        primary.execute("SELECT stepwise.tick()", &[]).unwrap();
        Some(read(&mut reader, "read_events('reader')").unwrap()).filter(|events| events.len() == 4)
    });
    let ids: Vec<i64> = seen.iter().map(|(_, event_id, _)| *event_id).collect();
    assert_eq!(ids, told(&mut primary, 0));
    // Acknowledged on the primary.
    primary.execute("SELECT stepwise.ack_events('reader', $1)", &[&ids[2]]).unwrap();
    wait::until("the standby sees the acknowledgement", || {
        (read(&mut reader, "read_events('reader')").unwrap().len() == 1).then_some(())
    });
}

//! `examples/listener` as a process with a real server: whatever happens to it, its table has every event once.
mod cluster;

use cluster::example_worker::{ExampleWorker, Language};
use cluster::{Server, count, one, templates};
use postgres::Client;

const SCHEMA: &str = include_str!("../../examples/listener/schema.sql");

/// Tasks of two steps that are done, the first of each after a failure.
fn happen(client: &mut Client, tasks: i32) {
    templates::create(client, "two", tasks);
    let fail = "SELECT stepwise.fail_step(receipt, retry_after => '0') FROM stepwise.claim_steps('w', NULL, 100)";
    client.execute(fail, &[]).unwrap();
    for _ in 0..2 {
        let complete = "SELECT stepwise.complete_step(receipt) FROM stepwise.claim_steps('w', NULL, 100)";
        client.execute(complete, &[]).unwrap();
    }
}

/// What the subscription of the example wants, by the states alone: four changes of a task, of which the last has three
/// events, and of its steps three.
fn expected(tasks: i64) -> i64 {
    tasks * (1 + 1 + 3 + 3)
}

fn until_entries(listener: &mut ExampleWorker, client: &mut Client, entries: i64) {
    listener.until("the events are handled", || (count(client, "feed.entries") >= entries).then_some(()));
    assert_eq!(count(client, "feed.entries"), entries);
}

#[test]
fn a_listener_that_was_away_misses_nothing() {
    let mut server = Server::start();
    let database = server.database("listener");
    let mut client = database.connect();
    templates::register(&mut client, &templates::chain("two", &["a", "b"]));
    // Before there was a listener.
    happen(&mut client, 3);
    client.batch_execute(SCHEMA).unwrap();
    let start = || {
        ExampleWorker::script(Language::Python, "listener/listener.py", &database, "event_listener", &["--batch", "7"])
    };
    let mut listener = start();
    until_entries(&mut listener, &mut client, expected(3));
    // While it listens: it need not wait for 30 s.
    happen(&mut client, 2);
    until_entries(&mut listener, &mut client, expected(5));

    // Killed in the middle of its work: it has claimed, and written nothing yet.
    let mut holder = database.connect();
    holder.batch_execute("BEGIN; LOCK TABLE feed.entries IN SHARE MODE").unwrap();
    happen(&mut client, 4);
    let blocked = "pg_stat_activity WHERE application_name = 'listener' AND wait_event_type = 'Lock'";
    listener.until("it is at the locked table", || (count(&mut client, blocked) == 1).then_some(()));
    listener.kill();
    holder.batch_execute("ROLLBACK").unwrap();
    // While it is away.
    happen(&mut client, 5);
    assert_eq!(count(&mut client, "feed.entries"), expected(5));
    let mut listener = start();
    until_entries(&mut listener, &mut client, expected(14));

    // The server goes, and comes back.
    drop((client, holder));
    server.kill();
    server.launch();
    let mut client = database.connect();
    happen(&mut client, 1);
    until_entries(&mut listener, &mut client, expected(15));
    let unordered = "(SELECT event_id < lag(event_id) OVER (ORDER BY place) AS back FROM feed.entries) e WHERE back";
    assert_eq!(count(&mut client, unordered), 0);
    let missing = "SELECT count(*) FROM stepwise.transitions t WHERE (t.step_id IS NULL OR t.to_state IN ('complete', 'error')) \
        AND NOT EXISTS (SELECT FROM feed.entries e WHERE e.event_id = t.event_id)";
    assert_eq!(one::<i64>(&mut client, missing, &[]), 0);
    listener.terminate();
    assert_eq!(listener.until_exit().code(), Some(0));
}

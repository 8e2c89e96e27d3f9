//! The workers of `examples/workers`, each as a process with a real server: what docs/worker-protocol.md asks of a worker
//! holds for them, whatever happens to the worker, its connection or the server.
mod cluster;

use cluster::example_worker::{
    ExampleWorker, Language, add_order, assert_one_entry_per_step, claims, create_task, prepare, until_ended,
};
use cluster::{Database, Server, count, invariants, one};
use postgres::Client;
use serde_json::json;

/// A handler that is to stop half-way finds the row of its order locked by this session: its entry is written by then, and
/// not committed.
fn lock_orders(database: &Database) -> Client {
    let mut holder = database.connect();
    holder.batch_execute("BEGIN; SELECT FROM shop.orders FOR NO KEY UPDATE").unwrap();
    holder
}

/// A new order and a task of one step for it; the task's id.
fn create_entry(client: &mut Client) -> i64 {
    let order_id = add_order(client, 10);
    create_task(client, "entry", order_id, json!({}))
}

fn release(mut holder: Client) {
    holder.batch_execute("ROLLBACK").unwrap();
}

/// What whoever creates a task may have been called with.
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn runs_tasks_with_failures_to_their_ends(language: Language) {
    let server = Server::start();
    let database = server.database("ends");
    let mut client = database.connect();
    prepare(&mut client);
    let mut worker =
        ExampleWorker::start(language, &database, "worker", "--queue shop --batch 3 --lease 60 --poll 300");
    worker.until_idle(&mut client);
    for _ in 0..4 {
        let order_id = add_order(&mut client, 10);
        create_task(&mut client, "order", order_id, json!({"charge": 1, "ship": 2}));
    }
    let order_id = add_order(&mut client, 10);
    let context = json!({"order_id": order_id, "failures": {"charge": 1, "ship": 2}}).to_string();
    let create = "SELECT stepwise.create_task('order', $1::text::jsonb, traceparent => $2)";
    let traced: i64 = one(&mut client, create, &[&context, &TRACEPARENT]);
    let without_amount = add_order(&mut client, 0);
    let bad = create_task(&mut client, "order", without_amount, json!({}));
    // It waits for longer than this does where neither a notification nor next_visible_at ends that.
    until_ended(&mut worker, &mut client, "true");

    assert_eq!(count(&mut client, "stepwise.tasks WHERE state = 'complete'"), 5);
    assert_eq!(claims(&mut client, None), 5 * (4 + 1 + 2) + 1);
    assert_eq!(count(&mut client, "shop.entries"), 5 * 3);
    let handed_on = format!("shop.entries WHERE traceparent = '{TRACEPARENT}' AND task_id = {traced}");
    assert_eq!(count(&mut client, &handed_on), 3);
    assert_eq!(count(&mut client, "shop.entries WHERE traceparent IS NULL"), 4 * 3);
    assert_one_entry_per_step(&mut client);
    // An outage is worth another attempt, a bad input is not.
    let outages = "stepwise.transitions WHERE metadata -> 'error' ->> 'message' = 'the service is not available' \
        AND metadata -> 'error' ->> 'type' <> '' AND metadata -> 'retryable' = 'true'";
    assert_eq!(count(&mut client, outages), 5 * 3);
    let error = "SELECT error #>> '{type}' FROM stepwise.steps WHERE task_id = $1 AND state = 'error' AND attempts = 1";
    assert_eq!(one::<String>(&mut client, error, &[&bad]), "BadInput");
    worker.terminate();
    assert_eq!(worker.until_exit().code(), Some(0));
    invariants::assert_sound(&mut client);
}

fn what_a_killed_worker_held_is_done_once_after_the_lease(language: Language) {
    let server = Server::start();
    let database = server.database("killed");
    let mut client = database.connect();
    prepare(&mut client);
    for _ in 0..2 {
        create_entry(&mut client);
    }
    let holder = lock_orders(&database);
    let mut first = ExampleWorker::start(language, &database, "first", "--batch 2 --lease 1.5");
    first.until_blocked(&mut client);
    // While a handler takes longer than the lease, the worker keeps its step, and the one that waits for its turn.
    let kept = "stepwise.steps WHERE state = 'in_progress' AND visible_at > last_attempted_at + interval '3 seconds'";
    first.until("the leases are extended", || (count(&mut client, kept) == 2).then_some(()));
    assert_eq!(claims(&mut client, None), 2);
    first.kill();
    let end: f64 = one(&mut client, "SELECT extract(epoch FROM min(visible_at))::float8 FROM stepwise.steps", &[]);

    let mut second = ExampleWorker::start(language, &database, "second", "--batch 1 --lease 60");
    second.until_blocked(&mut client);
    let again = "SELECT extract(epoch FROM min(at))::float8 FROM stepwise.transitions WHERE worker = 'second'";
    assert!(one::<f64>(&mut client, again, &[]) >= end, "claimed before the lease had ended");
    assert_eq!(count(&mut client, "shop.entries"), 0);
    release(holder);
    until_ended(&mut second, &mut client, "true");

    assert_eq!(count(&mut client, "stepwise.tasks WHERE state = 'complete'"), 2);
    assert_eq!(claims(&mut client, None), 4);
    let lost = "stepwise.transitions WHERE worker = 'first' AND metadata ->> 'reason' = 'lease_expired'";
    assert_eq!(count(&mut client, lost), 2);
    assert_eq!(count(&mut client, "shop.entries WHERE worker = 'second' AND attempt = 2"), 2);
    assert_one_entry_per_step(&mut client);
    invariants::assert_sound(&mut client);
}

fn a_worker_that_is_stopped_finishes_its_step_and_gives_the_others_back(language: Language) {
    let server = Server::start();
    let database = server.database("stopped");
    let mut client = database.connect();
    prepare(&mut client);
    for _ in 0..4 {
        create_entry(&mut client);
    }
    let holder = lock_orders(&database);
    let mut worker = ExampleWorker::start(language, &database, "worker", "--batch 3 --lease 60");
    worker.until_blocked(&mut client);
    assert_eq!(count(&mut client, "stepwise.steps WHERE state = 'in_progress'"), 3);
    worker.terminate();
    release(holder);
    assert_eq!(worker.until_exit().code(), Some(0));

    assert_eq!(count(&mut client, "stepwise.steps WHERE state = 'complete' AND attempts = 1"), 1);
    let ready = "stepwise.steps WHERE state = 'pending' AND attempts = 0 AND visible_at <= stepwise.now()";
    assert_eq!(count(&mut client, ready), 3);
    assert_eq!(claims(&mut client, None), 3);
    let released = "stepwise.transitions WHERE from_state = 'in_progress' AND to_state = 'pending'";
    assert_eq!(count(&mut client, released), 2);
    assert_one_entry_per_step(&mut client);
    invariants::assert_sound(&mut client);
}

fn a_lost_connection_costs_no_attempt(language: Language) {
    let mut server = Server::start();
    let database = server.database("lost");
    let mut client = database.connect();
    prepare(&mut client);
    let mut worker = ExampleWorker::start(language, &database, "worker", "--lease 600");
    worker.until_idle(&mut client);

    // While it waits.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'worker'";
    assert_eq!(one::<i64>(&mut client, end, &[]), 1);
    create_entry(&mut client);
    until_ended(&mut worker, &mut client, "true");

    // In the middle of a handler.
    let orders = [add_order(&mut client, 10), add_order(&mut client, 10)];
    let holder = lock_orders(&database);
    for order_id in orders {
        create_task(&mut client, "entry", order_id, json!({}));
    }
    let before = worker.until_blocked(&mut client);
    assert_eq!(one::<i64>(&mut client, end, &[]), 1);
    worker.until("the worker is back", || {
        let blocked = format!("pg_stat_activity WHERE wait_event_type = 'Lock' AND pid <> {before}");
        (count(&mut client, &blocked) == 1).then_some(())
    });

    // And with the whole server.
    drop((holder, client));
    server.kill();
    server.launch();
    let mut client = database.connect();
    until_ended(&mut worker, &mut client, "true");
    assert_eq!(count(&mut client, "stepwise.steps WHERE state = 'complete' AND attempts = 1"), 3);
    assert_eq!(claims(&mut client, None), 3);
    assert_one_entry_per_step(&mut client);
    invariants::assert_sound(&mut client);
}

fn what_was_decided_meanwhile_is_not_done_again(language: Language) {
    let server = Server::start();
    let database = server.database("decided");
    let mut client = database.connect();
    prepare(&mut client);
    let mut worker = ExampleWorker::start(language, &database, "worker", "--lease 60");
    // This completes the step with the worker's receipt: to the worker it looks like a report of its own whose answer
    // it has not seen. The second takes the step away.
    for decision in
        ["UPDATE stepwise.steps SET state = 'complete' WHERE task_id = $1", "SELECT stepwise.cancel_task($1)"]
    {
        let order_id = add_order(&mut client, 10);
        let holder = lock_orders(&database);
        let task_id = create_task(&mut client, "entry", order_id, json!({}));
        worker.until_blocked(&mut client);
        client.execute(decision, &[&task_id]).unwrap();
        release(holder);
        // It goes on with the next step.
        let next = create_entry(&mut client);
        until_ended(&mut worker, &mut client, &format!("task_id = {next}"));
        assert_eq!(count(&mut client, &format!("shop.entries WHERE task_id = {task_id}")), 0);
        assert_eq!(count(&mut client, &format!("shop.entries WHERE task_id = {next}")), 1);
    }
    assert_eq!(claims(&mut client, None), 4);
    let log = worker.log();
    assert!(log.contains("complete_step: already_done"), "not recognised as done");
    assert!(log.contains("fail_step: "), "not recognised as lost");
    invariants::assert_sound(&mut client);
}

macro_rules! in_each_language {
    ($($scenario:ident)*) => {
        in_each_language!(python Python; $($scenario)*);
        in_each_language!(node Node; $($scenario)*);
        in_each_language!(ruby Ruby; $($scenario)*);
    };
    ($module:ident $language:ident; $($scenario:ident)*) => {
        mod $module {
            $(#[test]
            fn $scenario() {
                super::$scenario(super::Language::$language);
            })*
        }
    };
}

in_each_language! {
    runs_tasks_with_failures_to_their_ends
    what_a_killed_worker_held_is_done_once_after_the_lease
    a_worker_that_is_stopped_finishes_its_step_and_gives_the_others_back
    a_lost_connection_costs_no_attempt
    what_was_decided_meanwhile_is_not_done_again
}

//! Limits under concurrency: many workers in every manner, and never more steps in progress than may be; nothing is kept
//! from running for ever.
mod cluster;

use cluster::random::Random;
use cluster::worker::{MANNERS, Manner, Worker};
use cluster::{Server, count, invariants, one, templates};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Of every limit how many steps are in progress, beyond what may be.
const EXCEEDED: &str = "SELECT concat_ws(' ', what, id, steps, most) FROM (
    SELECT 'queue' AS what, q.name AS id, count(*) AS steps, q.max_in_flight AS most
    FROM stepwise.steps s JOIN stepwise.queues q USING (queue_id)
    WHERE s.state = 'in_progress' AND q.max_in_flight > 0 GROUP BY q.name, q.max_in_flight
    UNION ALL
    SELECT 'task', s.task_id::text, count(*), x.max_parallel_steps
    FROM stepwise.steps s JOIN stepwise.templates x USING (template_id)
    WHERE s.state = 'in_progress' AND x.max_parallel_steps > 0 GROUP BY s.task_id, x.max_parallel_steps
    UNION ALL
    SELECT 'key', t.concurrency_key, count(*), x.max_per_key
    FROM stepwise.steps s JOIN stepwise.tasks t USING (task_id) JOIN stepwise.templates x ON x.template_id = t.template_id
    WHERE s.state = 'in_progress' AND t.concurrency_key IS NOT NULL GROUP BY t.concurrency_key, x.max_per_key
) AS held WHERE steps > most";

#[test]
fn no_limit_is_exceeded_and_every_task_ends() {
    let server = Server::start();
    let database = server.database("limits");
    let mut client = database.connect();
    let mut definition = templates::ladder("limited", 4);
    definition["max_parallel_steps"] = json!(2);
    definition["concurrency_key"] = json!("/customer");
    definition["max_per_key"] = json!(3);
    templates::register(&mut client, &definition);
    let contexts: Vec<String> = (0..120).map(|number| json!({"customer": number % 7}).to_string()).collect();
    let sql = "SELECT count(*) FROM stepwise.create_tasks('limited', $1::text[]::jsonb[])";
    assert_eq!(one::<i64>(&mut client, sql, &[&contexts]), 120);
    let queue: String = one(&mut client, "SELECT name FROM stepwise.queues", &[]);
    client.execute("SELECT stepwise.set_queue_limit($1, 9)", &[&queue]).unwrap();

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut client = database.connect();
            while !done.load(Ordering::Relaxed) {
                let exceeded: Vec<String> = client.query(EXCEEDED, &[]).unwrap().iter().map(|row| row.get(0)).collect();
                assert!(exceeded.is_empty(), "{exceeded:?}");
            }
        });
        let workers: Vec<_> = (1..)
            .zip(MANNERS.into_iter().filter(|manner| *manner != Manner::ByUpdate).cycle().take(6))
            .map(|(seed, manner)| {
                let mut worker = Worker {
                    client: database.connect(),
                    name: format!("worker {seed}"),
                    manner,
                    random: Random(seed),
                    failures_percent: 10,
                    releases_percent: 5,
                };
                scope.spawn(move || worker.run())
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
    });

    assert_eq!(count(&mut client, "stepwise.tasks WHERE finished_at IS NULL"), 0);
    assert_eq!(count(&mut client, "stepwise.slots WHERE task_id IS NOT NULL"), 0);
    // What the watcher may have missed: a place is free for others once its release is committed, so the order of events
    // shows how many steps were in progress at any time. The first claim takes all that there are.
    let most = "SELECT max(running)::integer FROM (SELECT sum((to_state = 'in_progress')::integer \
        - coalesce(from_state = 'in_progress', false)::integer) OVER (ORDER BY event_id) AS running \
        FROM stepwise.transitions WHERE step_id IS NOT NULL) AS r";
    assert_eq!(one::<i32>(&mut client, most, &[]), 9);
    server.assert_no_deadlock();
    invariants::assert_sound(&mut client);
}

/// At REPEATABLE READ a claim sees an old snapshot: it takes a place that is free, or fails with 40001, never one too many.
#[test]
fn an_old_snapshot_takes_no_place_that_is_taken() {
    let server = Server::start();
    let database = server.database("snapshots");
    let (mut first, mut second) = (database.connect(), database.connect());
    templates::register(&mut first, &json!({"namespace": "n", "name": "t", "steps": [{"name": "a"}, {"name": "b"}]}));
    templates::create(&mut first, "t", 2);
    first.batch_execute("SELECT stepwise.set_queue_limit('n', 1)").unwrap();
    second.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM stepwise.steps").unwrap();
    let claim = "SELECT count(*) FROM stepwise.claim_steps('w', '{n}', 2)";
    assert_eq!(one::<i64>(&mut first, claim, &[]), 1);
    let late = second.query_one(claim, &[]).map(|row| row.get::<_, i64>(0));
    match late {
        Ok(taken) => assert_eq!(taken, 0),
        Err(error) => assert_eq!(error.code().map(|code| code.code()), Some("40001")),
    }
    second.batch_execute("ROLLBACK").unwrap();
    assert_eq!(count(&mut first, "stepwise.steps WHERE state = 'in_progress'"), 1);
}

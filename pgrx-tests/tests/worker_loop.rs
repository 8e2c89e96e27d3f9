//! Several workers at once, from the creation of many tasks to the end of the last: nothing is lost, done twice or
//! miscounted, and nobody deadlocks.
mod cluster;

use cluster::random::Random;
use cluster::worker::{MANNERS, Worker};
use cluster::{Server, count, invariants, templates};
use std::thread;

#[test]
fn four_workers_run_a_thousand_tasks_to_their_ends() {
    let server = Server::start();
    let database = server.database("worker_loop");
    let mut client = database.connect();
    templates::register(&mut client, &templates::ladder("ladder", 5));
    let tasks = templates::create(&mut client, "ladder", 1000);
    assert_eq!(tasks.len(), 1000);
    invariants::assert_sound(&mut client);

    thread::scope(|scope| {
        for (seed, manner) in (1..).zip(MANNERS) {
            let mut worker = Worker {
                client: database.connect(),
                name: format!("worker {seed}"),
                manner,
                random: Random(seed),
                failures_percent: 12,
                releases_percent: 3,
            };
            scope.spawn(move || worker.run());
        }
    });

    assert_eq!(count(&mut client, "stepwise.tasks WHERE state NOT IN ('complete', 'error')"), 0);
    invariants::assert_sound(&mut client);
    // Some two steps in a thousand fail three times, so that both ends occur among 10,000 steps.
    assert!(count(&mut client, "stepwise.tasks WHERE state = 'complete'") > 900);
    assert!(count(&mut client, "stepwise.tasks WHERE state = 'error'") > 0);
    assert!(count(&mut client, "stepwise.steps WHERE state = 'complete' AND attempts > 1") > 500);
    let workers = "(SELECT DISTINCT worker FROM stepwise.transitions WHERE worker IS NOT NULL) AS workers";
    assert!(count(&mut client, workers) > 1);
    // A deadlock would have failed its worker; this also counts those that a worker might have survived.
    server.assert_no_deadlock();
}

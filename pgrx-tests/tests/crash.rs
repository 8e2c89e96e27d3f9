//! Processes end with SIGKILL, without a word: what was acknowledged is there afterwards, everything else is wholly
//! there or not at all, and work goes on.
mod cluster;

use cluster::worker::{Claimed, claim, complete};
use cluster::{Database, Server, count, invariants, one, templates, wait};
use std::sync::mpsc::{Sender, channel};
use std::thread;

#[test]
fn the_step_of_a_killed_backend_can_be_claimed_again() {
    let server = Server::start();
    let database = server.database("crash_backend");
    let mut client = database.connect();
    templates::register(&mut client, &templates::chain("one", &["only"]));
    templates::create(&mut client, "one", 2);
    let held = claim(&mut client, "w", 1).unwrap().remove(0);

    // A claim and a report, neither of them committed.
    let mut doomed = database.connect();
    doomed.batch_execute("BEGIN").unwrap();
    assert_eq!(claim(&mut doomed, "doomed", 5).unwrap().len(), 1);
    assert_eq!(complete(&mut doomed, &held.receipt, "1").unwrap(), "accepted");
    let pid: i32 = one(&mut doomed, "SELECT pg_backend_pid()", &[]);
    server.kill_backend(pid);
    assert!(doomed.batch_execute("COMMIT").is_err());

    // The server ends all its other backends after that, and begins anew.
    wait::until("the server has noticed", || client.batch_execute("SELECT 1").err());
    let mut client = wait::until("the server is back", || database.try_connect());
    invariants::assert_sound(&mut client);
    assert_eq!(count(&mut client, "stepwise.steps WHERE state = 'complete' OR worker = 'doomed'"), 0);
    let again = claim(&mut client, "w", 5).unwrap();
    assert_eq!(again.iter().map(|step| step.attempt).collect::<Vec<_>>(), [1]);
    assert_eq!(complete(&mut client, &again[0].receipt, "2").unwrap(), "accepted");
    assert_eq!(complete(&mut client, &held.receipt, "2").unwrap(), "accepted");
    assert_eq!(count(&mut client, "stepwise.tasks WHERE state = 'complete'"), 2);
    invariants::assert_sound(&mut client);
}

/// One completion, with the results that no other has.
#[derive(Clone)]
struct Report {
    step: Claimed,
    results: String,
}

/// What a worker knew when its connection broke.
#[derive(Default)]
struct Known {
    acknowledged: Vec<Report>,
    /// Sent, but no answer came.
    in_doubt: Option<Report>,
    /// Claimed, not yet reported.
    held: Vec<Claimed>,
}

/// Completes steps until the server is gone, telling `progress` of every answer.
fn work_until_killed(database: &Database, name: &str, mut held: Vec<Claimed>, progress: Sender<()>) -> Known {
    let mut known = Known::default();
    let mut client = database.connect();
    loop {
        while let Some(step) = held.pop() {
            let results = format!(r#"{{"by": "{name}", "of": [{}, {}]}}"#, step.task_id, step.step_id);
            let report = Report { step, results };
            match complete(&mut client, &report.step.receipt, &report.results) {
                Ok(outcome) => {
                    assert_eq!(outcome, "accepted");
                    known.acknowledged.push(report);
                    // Nobody listens any more once the server has been killed.
                    let _ = progress.send(());
                }
                Err(error) => {
                    assert!(
                        error.as_db_error().is_none_or(|error| error.code().code().starts_with("57P")),
                        "{error:?}"
                    );
                    known.in_doubt = Some(report);
                    known.held = held;
                    return known;
                }
            }
        }
        match claim(&mut client, name, 5) {
            Ok(steps) => held = steps,
            Err(_) => return known,
        }
    }
}

#[test]
fn acknowledged_completions_survive_the_kill_of_the_server() {
    const WORKERS: usize = 3;
    let mut server = Server::start();
    let database = server.database("crash_server");
    let mut client = database.connect();
    templates::register(&mut client, &templates::ladder("ladder", 5));
    templates::create(&mut client, "ladder", 400);

    let mut acknowledged: Vec<Report> = Vec::new();
    let mut held: Vec<Vec<Claimed>> = vec![Vec::new(); WORKERS];
    for cycle in 0..5 {
        let (progress, answers) = channel();
        let known: Vec<Known> = thread::scope(|scope| {
            let workers: Vec<_> = held
                .drain(..)
                .enumerate()
                .map(|(worker, held)| {
                    let (database, progress) = (&database, progress.clone());
                    let name = format!("worker {worker} of cycle {cycle}");
                    scope.spawn(move || work_until_killed(database, &name, held, progress))
                })
                .collect();
            // In the middle of the work, at another place each time.
            for _ in 0..100 + 37 * cycle {
                answers.recv().expect("the workers work");
            }
            server.kill();
            workers.into_iter().map(|worker| worker.join().expect("the worker ends with the server")).collect()
        });
        server.launch();

        client = database.connect();
        invariants::assert_sound(&mut client);
        for mut known in known {
            // The same report again: stored before the kill or not, it counts once.
            if let Some(report) = known.in_doubt {
                let outcome = complete(&mut client, &report.step.receipt, &report.results).unwrap();
                assert!(["accepted", "already_done"].contains(&outcome.as_str()), "{outcome}");
                known.acknowledged.push(report);
            }
            acknowledged.append(&mut known.acknowledged);
            held.push(known.held);
        }
        assert_eq!(missing(&mut client, &acknowledged), 0);
    }

    // Claims whose answer was lost come back when their leases end.
    client.batch_execute("SET stepwise.clock_offset = '2 hours'").unwrap();
    loop {
        let steps = claim(&mut client, "last", 1000).unwrap();
        if steps.is_empty() {
            break;
        }
        let sql = "SELECT count(*) FROM stepwise.complete_steps($1::text[]::uuid[]) WHERE outcome <> 'accepted'";
        assert_eq!(one::<i64>(&mut client, sql, &[&cluster::worker::receipts(&steps)]), 0);
    }
    assert_eq!(count(&mut client, "stepwise.tasks WHERE state = 'complete'"), 400);
    assert_eq!(missing(&mut client, &acknowledged), 0);
    invariants::assert_sound(&mut client);
}

/// Acknowledged completions that are not stored.
fn missing(client: &mut postgres::Client, acknowledged: &[Report]) -> i64 {
    let task_ids: Vec<i64> = acknowledged.iter().map(|report| report.step.task_id).collect();
    let step_ids: Vec<i32> = acknowledged.iter().map(|report| report.step.step_id).collect();
    let results: Vec<&str> = acknowledged.iter().map(|report| report.results.as_str()).collect();
    let sql = "SELECT count(*) FROM unnest($1::bigint[], $2::integer[], $3::text[]) AS a (task_id, step_id, results) \
        WHERE NOT EXISTS (SELECT FROM stepwise.steps s JOIN stepwise.transitions h USING (task_id, step_id) \
            WHERE s.task_id = a.task_id AND s.step_id = a.step_id AND s.state = 'complete' \
            AND s.results = a.results::jsonb AND h.to_state = 'complete')";
    one(client, sql, &[&task_ids, &step_ids, &results])
}

//! Processes end with SIGKILL, without a word: what was acknowledged is there afterwards, everything else is wholly
//! there or not at all, and work goes on. `make crash CYCLES=200` kills the server more often.
#[path = "../cluster/mod.rs"]
mod cluster;
mod ledger;

use cluster::random::Random;
use cluster::server::program;
use cluster::worker::{claim, complete};
use cluster::{Database, Server, count, invariants, one, rows, templates, wait};
use ledger::{Entry, Worker};
use postgres::{Client, Error};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};

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

/// A completion that waits in its middle: it has changed the step and its child when it has to wait for the task's row, which
/// `holder` keeps. Its backend, and what will come of it.
fn call_that_waits(
    database: &Database,
    watcher: &mut Client,
    holder: &mut Client,
    receipt: &str,
) -> (i32, JoinHandle<(Error, Client)>) {
    holder.batch_execute("BEGIN; SELECT FROM stepwise.tasks FOR UPDATE").unwrap();
    let mut doomed = database.connect();
    let pid: i32 = one(&mut doomed, "SELECT pg_backend_pid()", &[]);
    let receipt = receipt.to_owned();
    let call = thread::spawn(move || (complete(&mut doomed, &receipt, "1").unwrap_err(), doomed));
    wait::until("the call waits", || {
        one::<bool>(watcher, "SELECT cardinality(pg_blocking_pids($1)) > 0", &[&pid]).then_some(())
    });
    (pid, call)
}

#[test]
fn a_call_that_is_cut_off_in_its_middle_leaves_no_trace_and_no_lock() {
    let server = Server::start();
    let database = server.database("crash_call");
    let mut client = database.connect();
    templates::register(&mut client, &templates::chain("chain", &["first", "second"]));
    templates::create(&mut client, "chain", 1);
    let held = claim(&mut client, "w", 1).unwrap().remove(0);
    let before = rows(&mut client);

    for cut in ["pg_terminate_backend", "pg_cancel_backend", "SIGKILL"] {
        let mut holder = database.connect();
        let (pid, call) = call_that_waits(&database, &mut client, &mut holder, &held.receipt);
        if cut == "SIGKILL" {
            server.kill_backend(pid);
        } else {
            assert!(one::<bool>(&mut client, &format!("SELECT {cut}($1)"), &[&pid]));
        }
        let (error, mut doomed) = call.join().unwrap();
        // The farewell of one that was ended may be overtaken by the end of its connection; one that was killed says none.
        let code = error.code().map(|code| code.code());
        let is_expected = match cut {
            "pg_cancel_backend" => code == Some("57014"),
            "pg_terminate_backend" => code.is_none_or(|code| code == "57P01"),
            _ => code.is_none(),
        };
        assert!(is_expected && (code.is_some() || error.is_closed()), "{cut}: {error:?}");
        // A backend that was only told to leave off goes on.
        assert_eq!(doomed.batch_execute("SELECT stepwise.now()").is_ok(), cut == "pg_cancel_backend");
        if cut == "SIGKILL" {
            // The server ends all its other backends after that, and begins anew.
            wait::until("the server has noticed", || client.batch_execute("SELECT 1").err());
            client = wait::until("the server is back", || database.try_connect());
        } else {
            holder.batch_execute("ROLLBACK").unwrap();
        }
        assert_eq!(rows(&mut client), before, "{cut}");
        invariants::assert_sound(&mut client);
        // Nothing is locked any more.
        client.batch_execute("BEGIN; SELECT FROM stepwise.steps, stepwise.tasks FOR UPDATE NOWAIT; ROLLBACK").unwrap();
    }
    assert_eq!(complete(&mut client, &held.receipt, "2").unwrap(), "accepted");
    assert_eq!(complete(&mut client, &held.receipt, "3").unwrap(), "already_done");
    let second = claim(&mut client, "w", 1).unwrap().remove(0);
    assert_eq!(complete(&mut client, &second.receipt, "4").unwrap(), "accepted");
    assert_eq!(count(&mut client, "stepwise.tasks WHERE state = 'complete'"), 1);
    invariants::assert_sound(&mut client);
}

/// Every table and index of the extension, entry by entry, where the server has the extension that can; how often that was.
fn check_storage(database: &Database, client: &mut Client) -> u32 {
    let is_there = count(client, "pg_available_extensions WHERE name = 'amcheck'") == 1;
    // The packages of 16 that the tests install leave it out.
    let may_be_missing = one::<String>(client, "SHOW server_version", &[]).starts_with("16");
    assert!(is_there || may_be_missing, "amcheck is not installed with this server");
    if !is_there {
        return 0;
    }
    let mut command = program("pg_amcheck");
    command.args([
        "-U",
        "postgres",
        "--install-missing",
        "--schema=stepwise",
        "--heapallindexed",
        "--parent-check",
        "-h",
    ]);
    let output = command.arg(&database.socket).arg(&database.name).output().expect("pg_amcheck starts");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.is_empty(), "pg_amcheck: {said}{complained}");
    1
}

#[test]
fn acknowledged_calls_survive_the_kill_of_the_server_again_and_again() {
    const WORKERS: usize = 4;
    let cycles: u64 = std::env::var("CYCLES").map_or(5, |cycles| cycles.parse().expect("CYCLES is a number"));
    let mut server = Server::start();
    let database = server.database("crash_server");
    let mut client = database.connect();
    assert_eq!(one::<String>(&mut client, "SHOW synchronous_commit", &[]), "on");
    client.batch_execute(ledger::PREPARE).unwrap();
    templates::register(&mut client, &templates::ladder("ladder", 5));
    templates::create(&mut client, "ladder", 50);

    let (mut entries, mut acknowledged): (Vec<Entry>, usize) = (Vec::new(), 0);
    let (mut held, mut random, mut checked) = (vec![Vec::new(); WORKERS], Random(7), 0);
    for cycle in 1..=cycles {
        let (progress, answers) = channel();
        let mut workers: Vec<Worker> = held
            .drain(..)
            .enumerate()
            .map(|(number, held)| Worker {
                database: &database,
                name: format!("worker {number} of cycle {cycle}"),
                random: Random(cycle * 100 + number as u64),
                entries: Vec::new(),
                held,
                in_doubt: None,
            })
            .collect();
        thread::scope(|scope| {
            for worker in &mut workers {
                let progress = progress.clone();
                // Nobody listens any more once the server has been killed.
                scope.spawn(move || worker.run(|| progress.send(()).unwrap_or_default()));
            }
            // Where every worker has failed, nobody is left to wait for.
            drop(progress);
            // In the middle of the work, at another place each time.
            for _ in 0..50 + random.below(150) {
                answers.recv().expect("the workers work");
            }
            server.kill_all();
        });
        server.launch();

        client = database.connect();
        let (mut found, mut known) = (0, 0);
        for worker in &mut workers {
            found += ledger::check(&mut client, &worker.entries);
            worker.repeat_what_is_in_doubt(&mut client);
            known += worker.entries.iter().filter(|entry| entry.acknowledged).count();
            entries.append(&mut worker.entries);
            held.push(std::mem::take(&mut worker.held));
        }
        assert!(found > 0 && found as usize <= known);
        acknowledged += known;
        // All that there is, as long as that is quick.
        if cycle <= 5 || cycle % 10 == 0 || cycle == cycles {
            invariants::assert_sound(&mut client);
            checked += check_storage(&database, &mut client);
        }
        if cycle % 10 == 0 && cycle < cycles {
            println!("{cycle} of {cycles} cycles, {acknowledged} calls acknowledged, {}", entries.len());
        }
    }

    // Claims whose answer was lost come back when their leases end, and all goes on to its end.
    client.batch_execute("SET stepwise.clock_offset = '2 hours'").unwrap();
    loop {
        let steps = claim(&mut client, "last", 1000).unwrap();
        if steps.is_empty() {
            break;
        }
        let sql = "SELECT count(*) FROM stepwise.complete_steps($1::text[]::uuid[]) WHERE outcome <> 'accepted'";
        assert_eq!(one::<i64>(&mut client, sql, &[&cluster::worker::receipts(&steps)]), 0);
    }
    assert_eq!(count(&mut client, "stepwise.tasks WHERE finished_at IS NULL"), 0);
    let found = ledger::check(&mut client, &entries);
    assert_eq!(found as usize, acknowledged);
    invariants::assert_sound(&mut client);
    let kinds: Vec<(&str, usize)> = ledger::KINDS
        .iter()
        .map(|&kind| (kind, entries.iter().filter(|entry| entry.kind == kind && entry.acknowledged).count()))
        .collect();
    assert!(kinds.iter().all(|(_, calls)| *calls > 0), "{kinds:?}");
    let storage = match checked {
        0 => "amcheck is not installed with this server: storage was not checked entry by entry".to_owned(),
        times => format!("pg_amcheck found nothing, {times} times"),
    };
    println!("{kinds:?}");
    println!(
        "{cycles} cycles survived; {} calls sent, {acknowledged} acknowledged, {found} of these found; {storage}",
        entries.len()
    );
}

//! A database that is dumped while its tasks are under way, and restored elsewhere, runs them to their ends there.
mod cluster;

use cluster::server::{program, run};
use cluster::worker::{Claimed, claim, complete, receipts};
use cluster::{Database, Server, count, invariants, one, templates};
use postgres::Client;
use std::io::Write;
use std::process::Stdio;

/// Tasks in every stage: done, failed for good, running, backing off, waiting, delayed; a receipt that is still good.
fn in_mid_flight(client: &mut Client) -> Claimed {
    templates::register(client, &templates::ladder("ladder", 3));
    templates::register(client, &templates::chain("chain", &["first", "second"]));
    templates::create(client, "chain", 3);
    let steps = claim(client, "w", 10).unwrap();
    complete(client, &steps[0].receipt, "1").unwrap();
    let fail = "SELECT stepwise.fail_step($1::text::uuid, '\"no\"', retryable => false)";
    client.execute(fail, &[&steps[1].receipt]).unwrap();
    let back_off = "SELECT stepwise.fail_step($1::text::uuid, retry_after => '10 minutes')";
    client.execute(back_off, &[&steps[2].receipt]).unwrap();
    for step in claim(client, "w", 10).unwrap() {
        complete(client, &step.receipt, "2").unwrap();
    }
    templates::create(client, "ladder", 3);
    let later =
        "SELECT stepwise.create_task('ladder', '{\"n\": 1}', identity_key => 'k', run_at => now() + interval '1 day')";
    client.execute(later, &[]).unwrap();
    let running = claim(client, "w", 2).unwrap();
    assert_eq!(running.len(), 2);
    invariants::assert_sound(client);
    running[0].clone()
}

fn dump(database: &Database, options: &[&str]) -> Vec<u8> {
    let mut command = program("pg_dump");
    command.args(["-U", "postgres", "-h"]).arg(&database.socket).args(options).arg(&database.name);
    run(command)
}

fn restore(database: &Database, dump: &[u8]) {
    let mut command = program("psql");
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]).arg(&database.socket);
    command.arg(&database.name).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut psql = command.spawn().expect("psql starts");
    psql.stdin.take().expect("a pipe").write_all(dump).expect("psql reads");
    let output = psql.wait_with_output().expect("psql ends");
    assert!(output.status.success(), "restore failed:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// The contents of every table of the extension, and where its sequences stand.
fn contents(client: &mut Client) -> Vec<(String, String)> {
    let relations = "SELECT c.relname::text, c.relkind = 'S' FROM pg_class c \
        WHERE c.relnamespace = 'stepwise'::regnamespace AND c.relkind IN ('r', 'S') ORDER BY c.relname";
    let relations: Vec<(String, bool)> =
        client.query(relations, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    relations
        .into_iter()
        .map(|(name, is_sequence)| {
            let rows = if is_sequence {
                format!("SELECT (last_value, is_called)::text FROM stepwise.{name}")
            } else {
                format!("SELECT coalesce(string_agg(r::text, chr(10) ORDER BY r::text), '') FROM stepwise.{name} r")
            };
            let rows = one(client, &rows, &[]);
            (name, rows)
        })
        .collect()
}

fn runs_to_the_end(client: &mut Client, receipt: &Claimed) {
    invariants::assert_sound(client);
    // A worker that held a step through all of this can still report.
    assert_eq!(complete(client, &receipt.receipt, "3").unwrap(), "accepted");
    // New tasks get new ids, and a key is still taken.
    let highest: i64 = one(client, "SELECT max(task_id) FROM stepwise.tasks", &[]);
    assert!(templates::create(client, "chain", 1)[0] > highest);
    let again = "SELECT stepwise.create_task('ladder', identity_key => 'k')";
    assert_eq!(one::<i64>(client, again, &[]), highest);
    // After leases, backoffs and delays.
    client.batch_execute("SET stepwise.clock_offset = '2 days'").unwrap();
    loop {
        let steps = claim(client, "after", 100).unwrap();
        if steps.is_empty() {
            break;
        }
        let sql = "SELECT count(*) FROM stepwise.complete_steps($1::text[]::uuid[]) WHERE outcome <> 'accepted'";
        assert_eq!(one::<i64>(client, sql, &[&receipts(&steps)]), 0);
    }
    assert_eq!(count(client, "stepwise.tasks WHERE state = 'complete'"), 7);
    assert_eq!(count(client, "stepwise.tasks WHERE state = 'error'"), 1);
    assert_eq!(count(client, "stepwise.tasks"), 8);
    invariants::assert_sound(client);
}

#[test]
fn a_restored_dump_runs_its_tasks_to_the_end() {
    let server = Server::start();
    let from = server.database("dump_from");
    let mut client = from.connect();
    let receipt = in_mid_flight(&mut client);
    let before = contents(&mut client);
    let to = server.empty_database("dump_to");
    restore(&to, &dump(&from, &[]));
    let mut client = to.connect();
    assert_eq!(contents(&mut client), before);
    runs_to_the_end(&mut client, &receipt);
}

/// With pg_restore, from an archive.
fn restore_archive(database: &Database, dump: &[u8]) {
    let file = std::env::temp_dir().join(format!("pgsw-{}-{}.dump", std::process::id(), database.name));
    std::fs::write(&file, dump).expect("the dump can be written");
    let mut command = program("pg_restore");
    command.args(["--exit-on-error", "-U", "postgres", "-h"]).arg(&database.socket);
    command.args(["-d", &database.name]).arg(&file);
    run(command);
    std::fs::remove_file(file).expect("the dump was there");
}

#[test]
fn a_restored_archive_runs_its_tasks_to_the_end() {
    let server = Server::start();
    let from = server.database("archive_from");
    let mut client = from.connect();
    let receipt = in_mid_flight(&mut client);
    let before = contents(&mut client);
    // Whole, into nothing; data alone, into a new extension.
    for (name, options) in [("archive_whole", vec!["-Fc"]), ("archive_data", vec!["-Fc", "--data-only"])] {
        let to = if options.len() == 1 { server.empty_database(name) } else { server.database(name) };
        restore_archive(&to, &dump(&from, &options));
        let mut client = to.connect();
        assert_eq!(contents(&mut client), before);
        runs_to_the_end(&mut client, &receipt);
    }
}

/// What a role that is kept to a namespace sees.
fn seen_by_kept(client: &mut Client) -> (i64, i64, i64) {
    client.batch_execute("SET ROLE kept").unwrap();
    let sql = "SELECT count(*) FROM stepwise.get_task_execution_contexts_batch(ARRAY[1, 2, 3, 4, 5, 6, 7, 8])";
    let seen = (count(client, "stepwise.tasks"), count(client, "stepwise.step_transitions"), one(client, sql, &[]));
    client.batch_execute("RESET ROLE").unwrap();
    seen
}

#[test]
fn a_restored_dump_keeps_roles_to_their_namespaces() {
    let server = Server::start();
    let from = server.database("kept_from");
    let mut client = from.connect();
    in_mid_flight(&mut client);
    let register = "SELECT stepwise.register_template('{\"namespace\": \"own\", \"name\": \"t\", \
        \"steps\": [{\"name\": \"a\"}]}')";
    client.execute(register, &[]).unwrap();
    client.execute("SELECT stepwise.create_task('t')", &[]).unwrap();
    client.batch_execute("CREATE ROLE kept").unwrap();
    client.execute("SELECT stepwise.grant_access('kept', 'operator', '{own}')", &[]).unwrap();
    claim(&mut client, "w", 1000).unwrap();
    let before = seen_by_kept(&mut client);
    assert_eq!((before.0, before.1 > 0, before.2), (1, true, 1));
    let to = server.empty_database("kept_to");
    restore(&to, &dump(&from, &[]));
    assert_eq!(seen_by_kept(&mut to.connect()), before);
}

#[test]
fn a_data_only_dump_fits_a_new_extension() {
    let server = Server::start();
    let from = server.database("data_from");
    let mut client = from.connect();
    let receipt = in_mid_flight(&mut client);
    let before = contents(&mut client);
    let to = server.database("data_to");
    // A backend that has seen the empty tables must notice what has been loaded.
    let mut early = to.connect();
    assert!(claim(&mut early, "early", 1).unwrap().is_empty());
    restore(&to, &dump(&from, &["--data-only"]));
    assert_eq!(contents(&mut early), before);
    runs_to_the_end(&mut early, &receipt);
}

//! A database that is dumped while its tasks are under way, and restored elsewhere, runs them to their ends there.
mod cluster;

use cluster::server::{program, run};
use cluster::worker::claim;
use cluster::{Database, Server, contents, count, in_flight, one};
use postgres::Client;
use std::io::Write;
use std::process::Stdio;

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

#[test]
fn a_restored_dump_runs_its_tasks_to_the_end() {
    let server = Server::start();
    let from = server.database("dump_from");
    let mut client = from.connect();
    let begun = in_flight::begin(&mut client);
    let before = contents(&mut client);
    let to = server.empty_database("dump_to");
    restore(&to, &dump(&from, &[]));
    let mut client = to.connect();
    assert_eq!(contents(&mut client), before);
    in_flight::runs_to_its_end(&mut client, &begun);
}

/// With pg_restore, from an archive.
fn restore_archive(database: &Database, dump: &[u8], jobs: u32) {
    let file = std::env::temp_dir().join(format!("pgsw-{}-{}.dump", std::process::id(), database.name));
    std::fs::write(&file, dump).expect("the dump can be written");
    let mut command = program("pg_restore");
    command.args(["--exit-on-error", "-U", "postgres", "-h"]).arg(&database.socket);
    command.args(["-d", &database.name, &format!("--jobs={jobs}")]).arg(&file);
    run(command);
    std::fs::remove_file(file).expect("the dump was there");
}

#[test]
fn a_restored_archive_runs_its_tasks_to_the_end() {
    let server = Server::start();
    let from = server.database("archive_from");
    let mut client = from.connect();
    let begun = in_flight::begin(&mut client);
    let before = contents(&mut client);
    // Whole, into nothing; data alone, into a new extension; tables one after the other, and all at once.
    for (name, options, jobs) in [
        ("archive_whole", vec!["-Fc"], 1),
        ("archive_jobs", vec!["-Fc"], 4),
        ("archive_data", vec!["-Fc", "--data-only"], 1),
    ] {
        let to = if options.len() == 1 { server.empty_database(name) } else { server.database(name) };
        restore_archive(&to, &dump(&from, &options), jobs);
        let mut client = to.connect();
        assert_eq!(contents(&mut client), before);
        in_flight::runs_to_its_end(&mut client, &begun);
    }
}

/// What a role that is kept to a namespace sees.
fn seen_by_kept(client: &mut Client) -> (i64, i64, i64) {
    client.batch_execute("SET ROLE kept").unwrap();
    let sql = "SELECT count(*) FROM stepwise.get_task_execution_contexts_batch(ARRAY(SELECT generate_series(1, 20)))";
    let seen = (count(client, "stepwise.tasks"), count(client, "stepwise.step_transitions"), one(client, sql, &[]));
    client.batch_execute("RESET ROLE").unwrap();
    seen
}

#[test]
fn a_restored_dump_keeps_roles_to_their_namespaces() {
    let server = Server::start();
    let from = server.database("kept_from");
    let mut client = from.connect();
    in_flight::begin(&mut client);
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
    let begun = in_flight::begin(&mut client);
    let before = contents(&mut client);
    let to = server.database("data_to");
    // A backend that has seen the empty tables must notice what has been loaded.
    let mut early = to.connect();
    assert!(claim(&mut early, "early", 1).unwrap().is_empty());
    restore(&to, &dump(&from, &["--data-only"]));
    assert_eq!(contents(&mut early), before);
    in_flight::runs_to_its_end(&mut early, &begun);
}

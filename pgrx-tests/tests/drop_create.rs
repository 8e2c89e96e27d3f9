//! Backends remember plans and templates. What they remember must not outlive what it was about.
mod cluster;

use cluster::worker::{claim, complete};
use cluster::{Server, count, invariants, one, refusal, templates};
use postgres::Client;
use serde_json::json;

/// Uses every kind of call, so that the backend has plans for them and the template in its memory; the names of the
/// steps, as they then are there.
fn warm_up(client: &mut Client, template: &str) -> Vec<String> {
    let task = templates::create(client, template, 1)[0];
    while let Some(step) = claim(client, "w", 1).unwrap().pop() {
        assert_eq!(complete(client, &step.receipt, "1").unwrap(), "accepted");
    }
    assert_eq!(state(client, task), "complete");
    names(client, task)
}

fn state(client: &mut Client, task: i64) -> String {
    one(client, "SELECT status FROM stepwise.get_task_execution_context($1)", &[&task])
}

/// Names of the steps as a reader gives them, which has them from the backend's memory.
fn names(client: &mut Client, task: i64) -> Vec<String> {
    let sql = "SELECT name FROM stepwise.get_step_readiness_status($1) ORDER BY step_id";
    client.query(sql, &[&task]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn an_extension_created_anew_is_not_mistaken_for_the_old_one() {
    let server = Server::start();
    let database = server.database("drop_create");
    let (mut admin, mut client) = (database.connect(), database.connect());
    templates::register(&mut client, &templates::chain("old", &["a", "b", "c"]));
    warm_up(&mut client, "old");

    admin.batch_execute("DROP EXTENSION pg_stepwise").unwrap();
    // No schema, or no function in it: undefined either way.
    for sql in
        ["SELECT stepwise.create_task('old')", "SELECT stepwise.now()", "SELECT * FROM stepwise.claim_steps('w')"]
    {
        assert!(["3F000", "42883"].contains(&refusal(&mut client, sql, &[]).as_str()), "{sql}");
    }
    admin.batch_execute("CREATE EXTENSION pg_stepwise").unwrap();

    // Ids start again: the first template has the id of the old one, and is another.
    let definition = json!({"namespace": "test", "name": "new", "version": "1.0.0", "steps": [
        {"name": "x", "queue": "first"}, {"name": "y", "queue": "second", "depends_on": "x"}]});
    assert_eq!(templates::register(&mut admin, &definition), 1);
    let task = templates::create(&mut client, "new", 1)[0];
    assert_eq!(names(&mut client, task), ["x", "y"]);
    warm_up(&mut client, "new");
    assert_eq!(state(&mut client, task), "complete");
    assert_eq!(refusal(&mut client, "SELECT stepwise.create_task('old')", &[]), "P0002");
    invariants::assert_sound(&mut client);
}

#[test]
fn an_update_by_hand_notices_the_new_extension() {
    let server = Server::start();
    let database = server.database("drop_create_update");
    let (mut admin, mut client) = (database.connect(), database.connect());
    templates::register(&mut client, &templates::chain("old", &["a"]));
    warm_up(&mut client, "old");
    admin.batch_execute("DROP EXTENSION pg_stepwise; CREATE EXTENSION pg_stepwise").unwrap();
    templates::register(&mut admin, &templates::chain("new", &["x", "y", "z"]));
    templates::create(&mut admin, "new", 1);
    // The triggers alone, without any function of the extension before.
    for step in [1, 2, 3] {
        for state in ["in_progress", "complete"] {
            let sql = "UPDATE stepwise.steps SET state = $1 WHERE step_id = $2";
            assert_eq!(client.execute(sql, &[&state, &step]).unwrap(), 1);
        }
    }
    assert_eq!(count(&mut client, "stepwise.tasks WHERE state = 'complete'"), 1);
    invariants::assert_sound(&mut client);
}

#[test]
fn a_create_that_rolls_back_leaves_the_old_extension_in_use() {
    let server = Server::start();
    let database = server.database("drop_rollback");
    let mut client = database.connect();
    templates::register(&mut client, &templates::chain("old", &["a", "b"]));
    warm_up(&mut client, "old");
    client.batch_execute("BEGIN; DROP EXTENSION pg_stepwise; CREATE EXTENSION pg_stepwise").unwrap();
    templates::register(&mut client, &templates::chain("new", &["x", "y", "z"]));
    assert_eq!(warm_up(&mut client, "new"), ["x", "y", "z"]);
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(warm_up(&mut client, "old"), ["a", "b"]);
    assert_eq!(refusal(&mut client, "SELECT stepwise.create_task('new')", &[]), "P0002");
    invariants::assert_sound(&mut client);
}

#[test]
fn a_template_that_rolled_back_after_its_use_is_forgotten() {
    let server = Server::start();
    let database = server.database("register_rollback");
    let (mut other, mut client) = (database.connect(), database.connect());
    for (begin, rollback) in [("BEGIN", "ROLLBACK"), ("BEGIN; SAVEPOINT s", "ROLLBACK TO s; COMMIT")] {
        client.batch_execute(begin).unwrap();
        templates::register(&mut client, &templates::chain("draft", &["a", "b", "c"]));
        warm_up(&mut client, "draft");
        client.batch_execute(rollback).unwrap();
        assert_eq!(refusal(&mut client, "SELECT stepwise.create_task('draft')", &[]), "P0002");
    }
    // The same name and version with other content, from another backend.
    templates::register(&mut other, &templates::chain("draft", &["x", "y"]));
    assert_eq!(warm_up(&mut client, "draft"), ["x", "y"]);
    assert_eq!(count(&mut client, "stepwise.tasks"), 1);
    invariants::assert_sound(&mut client);
}

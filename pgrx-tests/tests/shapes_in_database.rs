//! Every graph of the conformance table, with SQL handlers: inline, with failures of the handlers and with injected ones,
//! and in the background; each to its end in exactly the number of claims that the table says.
mod cluster;

use cluster::handlers::{self, PREPARE, wait_for_tasks};
use cluster::shapes::{Shape, shapes};
use cluster::{Server, invariants, one, templates};
use postgres::Client;
use serde_json::{Value, json};

fn register(client: &mut Client) -> Vec<Shape> {
    client.batch_execute(PREPARE).unwrap();
    let shapes = shapes();
    assert_eq!(shapes.len(), 9);
    for shape in &shapes {
        let mut definition = shape.template();
        for step in definition["steps"].as_array_mut().unwrap() {
            step["handler"] = json!({"sql": "app.enter"});
        }
        templates::register(client, &definition);
    }
    shapes
}

fn create(client: &mut Client, shape: &Shape, context: &Value) -> i64 {
    let sql = "SELECT stepwise.create_task($1, $2::text::jsonb, namespace => 'shapes')";
    one(client, sql, &[&shape.name, &context.to_string()])
}

fn assert_ran(client: &mut Client, shape: &Shape, task_id: i64) {
    let state = "SELECT state FROM stepwise.tasks WHERE task_id = $1";
    assert_eq!(one::<String>(client, state, &[&task_id]), "complete", "{}", shape.name);
    let claims = "SELECT count(*) FROM stepwise.transitions \
        WHERE task_id = $1 AND step_id IS NOT NULL AND to_state = 'in_progress'";
    assert_eq!(one::<i64>(client, claims, &[&task_id]), shape.claims_to_finish, "{}", shape.name);
    let failed = "SELECT coalesce(jsonb_object_agg(name, attempts - 1) FILTER (WHERE attempts > 1), '{}')::text \
        FROM stepwise.steps JOIN stepwise.template_steps USING (template_id, step_id) WHERE task_id = $1";
    let failed: Value = one::<String>(client, failed, &[&task_id]).parse().unwrap();
    assert_eq!(failed, json!(shape.failures), "{}", shape.name);
    let entries = "SELECT count(*) FROM app.entries WHERE task_id = $1";
    assert_eq!(one::<i64>(client, entries, &[&task_id]), shape.steps.len() as i64, "{}", shape.name);
}

#[test]
fn inline() {
    let server = Server::start();
    let mut client = server.database("inline").connect();
    let shapes = register(&mut client);
    let run = "SELECT status FROM stepwise.run_task($1, wait_for_backoff => true)";
    for shape in &shapes {
        let task_id = create(&mut client, shape, &json!(shape.failures));
        assert_eq!(one::<String>(&mut client, run, &[&task_id]), "complete", "{}", shape.name);
        assert_ran(&mut client, shape, task_id);
    }
    client.batch_execute("SET stepwise.testing = on").unwrap();
    for shape in &shapes {
        let task_id = create(&mut client, shape, &json!({}));
        for (step, times) in &shape.failures {
            client.execute("SELECT stepwise.inject_failure($1, $2, $3)", &[&task_id, step, times]).unwrap();
        }
        assert_eq!(one::<String>(&mut client, run, &[&task_id]), "complete", "{}", shape.name);
        assert_ran(&mut client, shape, task_id);
    }
    invariants::assert_sound(&mut client);
}

#[test]
fn in_the_background() {
    let server = handlers::server("background");
    let mut client = server.database("background").connect();
    let shapes = register(&mut client);
    let tasks: Vec<i64> = shapes.iter().map(|shape| create(&mut client, shape, &json!(shape.failures))).collect();
    wait_for_tasks(&mut client);
    for (shape, task_id) in shapes.iter().zip(tasks) {
        assert_ran(&mut client, shape, task_id);
    }
    invariants::assert_sound(&mut client);
}

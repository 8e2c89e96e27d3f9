//! A worker outside of the database runs every graph of the conformance table to its end, with the failures that the
//! table gives, in exactly as many claims as it says.
mod cluster;

use cluster::example_worker::{self, ExampleWorker, Language};
use cluster::shapes::shapes;
use cluster::{Server, invariants, one, templates};
use serde_json::json;

#[test]
fn every_shape_ends_after_its_number_of_claims() {
    let server = Server::start();
    let database = server.database("shapes");
    let mut client = database.connect();
    example_worker::prepare(&mut client);
    let mut tasks = Vec::new();
    for shape in shapes() {
        let mut definition = shape.template();
        for step in definition["steps"].as_array_mut().unwrap() {
            step["handler"] = json!("enter");
        }
        templates::register(&mut client, &definition);
        let order_id = example_worker::add_order(&mut client, 1);
        let task_id = example_worker::create_task(&mut client, shape.name, order_id, json!(shape.failures));
        tasks.push((shape, task_id));
    }
    assert_eq!(tasks.len(), 9);

    let options = "--queue shapes --batch 3 --lease 3600";
    let mut worker = ExampleWorker::start(Language::Python, &database, "external", options);
    example_worker::until_ended(&mut worker, &mut client, "true");

    for (shape, task_id) in tasks {
        let state = "SELECT state FROM stepwise.tasks WHERE task_id = $1";
        assert_eq!(one::<String>(&mut client, state, &[&task_id]), "complete", "{}", shape.name);
        let claims = example_worker::claims(&mut client, Some(task_id));
        assert_eq!(claims, shape.claims_to_finish, "{}", shape.name);
        let failed = "SELECT coalesce(jsonb_object_agg(name, attempts - 1) FILTER (WHERE attempts > 1), '{}')::text \
            FROM stepwise.steps JOIN stepwise.template_steps USING (template_id, step_id) WHERE task_id = $1";
        let failed: serde_json::Value = one::<String>(&mut client, failed, &[&task_id]).parse().unwrap();
        assert_eq!(failed, json!(shape.failures), "{}", shape.name);
    }
    example_worker::assert_one_entry_per_step(&mut client);
    invariants::assert_sound(&mut client);
}

//! Workflows to test with.
use super::database::one;
use postgres::Client;
use serde_json::{Value, json};

/// Two rails of steps; each level waits for both steps of the level before it, so every level but the first is a join.
/// Leases are long, because a busy machine is no reason for a second attempt; backoffs are short.
pub fn ladder(name: &str, levels: usize) -> Value {
    let steps: Vec<Value> = (1..=levels)
        .flat_map(|level| {
            let parents: Vec<String> = if level == 1 {
                Vec::new()
            } else {
                ["left", "right"].map(|rail| format!("{rail}{}", level - 1)).into()
            };
            ["left", "right"].map(|rail| json!({"name": format!("{rail}{level}"), "depends_on": parents}))
        })
        .collect();
    json!({
        "namespace": "test", "name": name, "version": "1.0.0",
        "defaults": {"retry_limit": 3, "timeout": "1h", "backoff": {"base": "1ms", "cap": "10ms"}},
        "steps": steps
    })
}

/// Steps one after the other.
pub fn chain(name: &str, steps: &[&str]) -> Value {
    let steps: Vec<Value> = (0..steps.len())
        .map(|i| match i {
            0 => json!({"name": steps[0]}),
            _ => json!({"name": steps[i], "depends_on": [steps[i - 1]]}),
        })
        .collect();
    json!({"namespace": "test", "name": name, "version": "1.0.0", "steps": steps})
}

pub fn register(client: &mut Client, definition: &Value) -> i64 {
    one(client, "SELECT stepwise.register_template($1::text::jsonb)", &[&definition.to_string()])
}

/// Creates tasks in one call; their ids.
pub fn create(client: &mut Client, template: &str, tasks: i32) -> Vec<i64> {
    let sql = "SELECT stepwise.create_tasks($1, array_fill('{}'::jsonb, ARRAY[$2::integer]))";
    client.query(sql, &[&template, &tasks]).expect("tasks are created").iter().map(|row| row.get(0)).collect()
}

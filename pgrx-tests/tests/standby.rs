//! A hot standby: whoever may read can read there; whatever writes is refused as PostgreSQL refuses it.
mod cluster;

use cluster::worker::{claim, complete};
use cluster::{Server, count, invariants, one, refusal, templates, wait};
use postgres::Client;

/// A value for every argument without a default, by its name, such that a writer finds something to write.
fn value(function: &str, argument: &str, receipt: &str) -> String {
    let text = match argument {
        "task_id" | "step_id" | "attempts" | "max" | "position" | "event_id" | "max_in_flight" => "1",
        "names" | "label_values" => "{a}",
        "since" => "2026-01-01",
        "argument" => "since",
        "otherwise" => "1 hour",
        "first_task" => "1",
        "last_task" => "2",
        "task_ids" => "{1,2}",
        // A step's number and its name.
        "step" => "1",
        "template" => "chain",
        "contexts" => r#"{"{}"}"#,
        "worker" => "w",
        "receipt" => receipt,
        "level" => "reader",
        "namespace" => "test",
        "template_id" | "queue_id" => "1",
        "receipts" => return format!("{{{receipt}}}"),
        "payload" | "outcomes" => "{}",
        "definition" => r#"{"name": "another", "steps": [{"name": "a"}]}"#,
        "reason" => "because",
        "backoff" | "lease" => "1 minute",
        "older_than" => "0",
        "queue" => "test",
        "sequence" => "stepwise.tasks_task_id_seq",
        "queues" => "{test}",
        "format" => "mermaid",
        "subscription" | "name" => "events",
        "state" => "pending",
        "finished" => "false",
        count if count.ends_with("_steps") || count == "remaining_parents" => "0",
        _ => panic!("which value shall be passed for argument {argument} of {function}?"),
    };
    text.to_owned()
}

/// A function, a call of it, and whether it only reads.
struct Call {
    name: String,
    sql: String,
    reads: bool,
}

/// A call of every function that somebody may be granted.
fn calls(client: &mut Client, receipt: &str) -> Vec<Call> {
    let sql = "SELECT p.proname::text, \
            coalesce(p.proargnames[:p.pronargs - p.pronargdefaults], '{}'), \
            string_to_array(oidvectortypes(p.proargtypes), ', '), \
            p.proname IN (SELECT function_name FROM stepwise.access_matrix WHERE level = 'reader') \
        FROM pg_proc p WHERE p.pronamespace = 'stepwise'::regnamespace \
            AND p.proname IN (SELECT function_name FROM stepwise.access_matrix WHERE level <> 'owner') \
        ORDER BY p.oid";
    let rows = client.query(sql, &[]).unwrap();
    rows.iter()
        .map(|row| {
            let (name, arguments, types): (String, Vec<String>, Vec<String>) = (row.get(0), row.get(1), row.get(2));
            let values: Vec<String> = arguments
                .iter()
                .zip(types)
                .map(|(argument, kind)| match (argument.as_str(), kind.as_str()) {
                    ("step", "text") => "'first'".to_owned(),
                    _ => format!("'{}'::{kind}", value(&name, argument, receipt)),
                })
                .collect();
            // For workers too: asking for the time, or when to come back, writes nothing.
            let reads = row.get::<_, bool>(3) || name == "now" || name == "next_visible_at";
            Call { sql: format!("SELECT * FROM stepwise.{name}({})", values.join(", ")), name, reads }
        })
        .collect()
}

#[test]
fn readers_work_on_a_standby_and_writers_are_refused() {
    let server = Server::start();
    let database = server.database("standby");
    let mut primary = database.connect();
    templates::register(&mut primary, &templates::chain("chain", &["first", "second"]));
    primary.execute("SELECT stepwise.create_subscription('events')", &[]).unwrap();
    // The first task has failed, the second is done, the others are to be worked on.
    let tasks = templates::create(&mut primary, "chain", 5);
    let failed = claim(&mut primary, "w", 1).unwrap().remove(0);
    assert_eq!(failed.task_id, tasks[0]);
    let fail = "SELECT stepwise.fail_step($1::text::uuid, retryable => false)";
    primary.execute(fail, &[&failed.receipt]).unwrap();
    primary.execute("UPDATE stepwise.tasks SET state = 'cancelled' WHERE task_id = $1", &[&tasks[1]]).unwrap();
    let held = claim(&mut primary, "w", 1).unwrap().remove(0);
    let calls = calls(&mut primary, &held.receipt);
    assert!(calls.iter().any(|call| call.reads) && calls.iter().any(|call| !call.reads));

    let standby = server.standby();
    let mut reader = standby.connect("standby");
    assert!(one::<bool>(&mut reader, "SELECT pg_is_in_recovery()", &[]));
    let mut answers = 0;
    for Call { name, sql, reads } in &calls {
        if *reads {
            let rows = reader.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            answers += usize::from(!rows.is_empty());
        } else {
            assert_eq!(refusal(&mut reader, sql, &[]), "25006", "{name}: {sql}");
        }
    }
    assert!(answers > 5, "{answers} readers found something");

    // What happens on the primary is seen here, through the memory of the same backend.
    primary.execute("SELECT stepwise.complete_step($1::text::uuid)", &[&held.receipt]).unwrap();
    templates::register(&mut primary, &templates::chain("younger", &["a", "b", "c"]));
    let task = templates::create(&mut primary, "younger", 1)[0];
    wait::until("the standby has caught up", || (count(&mut reader, "stepwise.tasks") == 6).then_some(()));
    let sql = "SELECT completed_steps FROM stepwise.get_task_execution_context($1)";
    assert_eq!(one::<i32>(&mut reader, sql, &[&held.task_id]), 1);
    let sql = "SELECT count(*) FROM stepwise.get_step_readiness_status($1)";
    assert_eq!(one::<i64>(&mut reader, sql, &[&task]), 3);

    // The standby becomes a primary and goes on with the work.
    assert!(one::<bool>(&mut reader, "SELECT pg_promote()", &[]));
    let mut steps = claim(&mut reader, "w", 10).unwrap();
    assert_eq!(steps.len(), 4);
    while !steps.is_empty() {
        for step in &steps {
            assert_eq!(complete(&mut reader, &step.receipt, "1").unwrap(), "accepted");
        }
        steps = claim(&mut reader, "w", 10).unwrap();
    }
    assert_eq!(count(&mut reader, "stepwise.tasks WHERE finished_at IS NULL"), 0);
    assert_eq!(count(&mut reader, "stepwise.tasks WHERE state = 'complete'"), 4);
    invariants::assert_sound(&mut reader);
    // A report whose answer the old primary has given, and one that it has not.
    assert_eq!(complete(&mut reader, &held.receipt, "2").unwrap(), "already_done");
    assert_eq!(refusal(&mut reader, "SELECT stepwise.complete_step($1::text::uuid)", &[&failed.receipt]), "55000");
}

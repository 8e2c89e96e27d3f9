//! What a client that LISTENs receives: the documented payloads after a commit, nothing after a rollback, and only as
//! much as `stepwise.notify` asks for.
mod cluster;

use cluster::{Server, count, one, templates, wait};
use pg_stepwise_cluster_tests::engine::event;
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use serde_json::{Value, json};

/// Channel and payload.
type Heard = (String, String);

fn listener(database: &cluster::Database) -> Client {
    let mut client = database.connect();
    client.batch_execute("LISTEN stepwise_task; LISTEN stepwise_step; LISTEN stepwise_ready; LISTEN test_end").unwrap();
    client
}

/// All that `speaker` has caused to be sent: notifications arrive in the order of the commits, so what comes before
/// its own last word is complete.
fn hear(listener: &mut Client, speaker: &mut Client) -> Vec<Heard> {
    speaker.batch_execute("NOTIFY test_end").unwrap();
    let mut heard = Vec::new();
    let mut notifications = listener.notifications();
    let mut incoming = notifications.timeout_iter(wait::DEADLINE);
    loop {
        let next = incoming.next().unwrap().expect("the speaker's last word is heard");
        if next.channel() == "test_end" {
            return heard;
        }
        heard.push((next.channel().to_owned(), next.payload().to_owned()));
    }
}

fn on<'a>(heard: &'a [Heard], channel: &'a str) -> impl Iterator<Item = &'a str> {
    heard.iter().filter(move |(name, _)| name == channel).map(|(_, payload)| payload.as_str())
}

fn events(heard: &[Heard], channel: &str) -> Vec<String> {
    on(heard, channel)
        .map(|payload| serde_json::from_str::<Value>(payload).unwrap()["event"].as_str().unwrap().to_owned())
        .collect()
}

/// The schema of docs/, as a program that receives payloads would use it.
fn schema() -> jsonschema::Validator {
    let text = include_str!("../../docs/event.schema.json");
    jsonschema::validator_for(&serde_json::from_str(text).unwrap()).expect("a JSON Schema")
}

#[track_caller]
fn assert_valid(schema: &jsonschema::Validator, payload: &Value) {
    let errors: Vec<String> = schema.iter_errors(payload).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{payload}: {errors:?}");
}

/// One task of one step: fails for now, is claimed again, completes.
fn run_a_task(client: &mut Client, template: &str) {
    let sql = "SELECT stepwise.create_task($1)";
    client.execute(sql, &[&template]).unwrap();
    client.execute("SELECT stepwise.fail_step(receipt) FROM stepwise.claim_steps('w')", &[]).unwrap();
    client.batch_execute("SET stepwise.clock_offset = '1 minute'").unwrap();
    client.execute("SELECT stepwise.complete_step(receipt) FROM stepwise.claim_steps('w')", &[]).unwrap();
    client.batch_execute("RESET stepwise.clock_offset").unwrap();
}

#[test]
fn payloads_have_the_documented_keys_and_agree_with_the_history() {
    let server = Server::start();
    let database = server.database("listen_keys");
    let (mut listener, mut client) = (listener(&database), database.connect());
    templates::register(&mut client, &templates::chain("one", &["only"]));
    run_a_task(&mut client, "one");
    let heard = hear(&mut listener, &mut client);

    assert_eq!(on(&heard, "stepwise_ready").collect::<Vec<_>>(), ["test"]);
    assert_eq!(
        events(&heard, "stepwise_step"),
        ["step.execution_requested", "step.failed", "step.backoff", "step.retry_requested", "step.completed"]
    );
    assert_eq!(
        events(&heard, "stepwise_task"),
        [
            "task.initialize_requested",
            "task.start_requested",
            "task.finalization_started",
            "task.completed",
            "task.finalization_completed"
        ]
    );

    let of_step = ["event", "event_id", "task_id", "step_id", "step", "template", "from", "to", "attempt", "at"];
    let of_task = ["event", "event_id", "task_id", "template", "from", "to", "at"];
    for (channel, keys) in [("stepwise_step", of_step.as_slice()), ("stepwise_task", of_task.as_slice())] {
        for payload in on(&heard, channel) {
            let payload: Value = serde_json::from_str(payload).unwrap();
            let mut found: Vec<&str> = payload.as_object().unwrap().keys().map(String::as_str).collect();
            let mut expected = keys.to_vec();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{payload}");
            assert_eq!(payload["template"], "test/one@1.0.0");
            let sql = "SELECT count(*) FROM stepwise.transitions h, \
                    jsonb_to_record($1::text::jsonb) AS p (event_id bigint, task_id bigint, step_id integer, \
                        \"from\" text, \"to\" text, attempt integer, at timestamptz) \
                WHERE (h.event_id, h.task_id, h.step_id, h.from_state, h.to_state, h.attempt, h.at) \
                    IS NOT DISTINCT FROM (p.event_id, p.task_id, p.step_id, p.from, p.to, p.attempt, p.at)";
            assert_eq!(one::<i64>(&mut client, sql, &[&payload.to_string()]), 1, "{payload}");
        }
    }
    for payload in on(&heard, "stepwise_step") {
        assert_eq!(serde_json::from_str::<Value>(payload).unwrap()["step"], "only");
    }
}

#[test]
fn payloads_carry_the_trace_of_their_task_as_the_schema_says() {
    let server = Server::start();
    let database = server.database("listen_traces");
    let (mut listener, mut client) = (listener(&database), database.connect());
    templates::register(&mut client, &templates::chain("one", &["only"]));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    client.execute("SELECT stepwise.create_task('one', traceparent => $1)", &[&trace]).unwrap();
    client.execute("SELECT stepwise.complete_step(receipt) FROM stepwise.claim_steps('w')", &[]).unwrap();
    let heard = hear(&mut listener, &mut client);
    let schema = schema();
    let payloads = ["stepwise_step", "stepwise_task"].map(|channel| on(&heard, channel).collect::<Vec<_>>()).concat();
    assert!(payloads.len() > 5, "{payloads:?}");
    for payload in payloads {
        let mut payload: Value = serde_json::from_str(payload).unwrap();
        assert_eq!(payload["traceparent"], trace);
        assert_valid(&schema, &payload);
        for no_trace in ["", &trace.to_uppercase(), &trace.replace("00-", "01-"), &"0".repeat(55)] {
            payload["traceparent"] = (*no_trace).into();
            assert!(!schema.is_valid(&payload), "{payload}");
        }
    }
}

/// Everything that can be announced.
fn cause_every_event(client: &mut Client) {
    templates::register(client, &templates::chain("two", &["a", "b"]));
    client.execute("SELECT stepwise.create_tasks('two', array_fill('{}'::jsonb, ARRAY[4]))", &[]).unwrap();
    for sql in [
        // The first task: a failure, a backoff that is set, changed and ended, a failure for good, a reset, the end by an
        // operator.
        "SELECT stepwise.fail_step(receipt) FROM stepwise.claim_steps('w', NULL, 1)",
        "SELECT stepwise.set_backoff(1, 'a', '1 hour')",
        "SELECT stepwise.release_backoff(1)",
        "SELECT stepwise.cancel_step(2, 'b')",
        "SELECT stepwise.resolve_step(3, 'a', '{}')",
        "UPDATE stepwise.steps SET state = 'skipped' WHERE task_id = 3 AND step_id = 2",
        "UPDATE stepwise.tasks SET state = 'resolved_manually' WHERE task_id = 4",
        "SELECT stepwise.complete_step(receipt) FROM stepwise.claim_steps('w', NULL, 10) WHERE task_id = 2",
        "SELECT stepwise.fail_step(receipt, retryable => false) FROM stepwise.claim_steps('w', NULL, 1)",
        "UPDATE stepwise.steps SET state = 'error', retryable = false WHERE task_id = 1 AND state = 'in_progress'",
        "SELECT stepwise.reset_step(1, 'a')",
        "SELECT stepwise.release_step(receipt) FROM stepwise.claim_steps('w', NULL, 1)",
        "SELECT stepwise.complete_step(receipt) FROM stepwise.claim_steps('w', NULL, 1)",
        "SELECT stepwise.cancel_task(1)",
    ] {
        client.execute(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

#[test]
fn every_payload_meets_the_schema_and_the_stream_tells_the_same() {
    let server = Server::start();
    let database = server.database("listen_schema");
    let (mut listener, mut client) = (listener(&database), database.connect());
    client.execute("SELECT stepwise.create_subscription('all')", &[]).unwrap();
    cause_every_event(&mut client);
    let heard = hear(&mut listener, &mut client);
    let payloads: Vec<Value> = heard
        .iter()
        .filter(|(channel, _)| channel != "stepwise_ready")
        .map(|(channel, payload)| {
            let payload: Value = serde_json::from_str(payload).unwrap();
            assert!(payload["event"].as_str().unwrap().starts_with(&channel["stepwise_".len()..]), "{channel}");
            payload
        })
        .collect();
    let schema = schema();
    for payload in &payloads {
        assert_valid(&schema, payload);
        // Nothing that the schema does not speak of, and nothing that it could do without.
        for key in payload.as_object().unwrap().keys() {
            let mut without = payload.clone();
            without.as_object_mut().unwrap().remove(key);
            assert!(!schema.is_valid(&without), "{key} is not asked for in {payload}");
        }
    }
    let told: std::collections::BTreeSet<&str> =
        payloads.iter().map(|payload| payload["event"].as_str().unwrap()).collect();
    let all = event::TASK_EVENTS.iter().chain(&event::STEP_EVENTS).copied().collect();
    assert_eq!(told, all, "every event was caused");

    let sql = "SELECT (jsonb_build_object('event', event, 'event_id', event_id, 'task_id', task_id, \
            'template', namespace || '/' || template || '@' || version, 'from', from_state, 'to', to_state, \
            'at', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')) \
        || CASE WHEN step_id IS NULL THEN '{}' \
            ELSE jsonb_build_object('step_id', step_id, 'step', step_name, 'attempt', attempt) END)::text \
        FROM stepwise.read_events('all', 1000)";
    let stream: Vec<Value> =
        client.query(sql, &[]).unwrap().iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect();
    assert_eq!(payloads, stream);
}

#[test]
fn payloads_with_the_longest_names_are_whole_and_under_the_limit() {
    let server = Server::start();
    let database = server.database("listen_names");
    let (mut listener, mut client) = (listener(&database), database.connect());
    let schema = schema();
    // Four bytes in UTF-8; two bytes in JSON; six bytes in JSON.
    for widest in ['\u{10ffff}', '"', '\u{1}'] {
        let name = widest.to_string().repeat(255);
        let definition = json!({"namespace": name, "name": name, "version": "1.0.0", "steps": [{"name": name}]});
        templates::register(&mut client, &definition);
        run_a_task(&mut client, &name);
        let heard = hear(&mut listener, &mut client);
        assert_eq!(on(&heard, "stepwise_ready").collect::<Vec<_>>(), [&name]);
        assert_eq!(on(&heard, "stepwise_step").count(), 5);
        assert_eq!(on(&heard, "stepwise_task").count(), 5);
        for (channel, payload) in heard.iter().filter(|(channel, _)| channel != "stepwise_ready") {
            assert!(payload.len() < 8000, "{channel}: {} bytes", payload.len());
            let payload: Value = serde_json::from_str(payload).unwrap();
            assert_valid(&schema, &payload);
            assert_eq!(payload["template"], format!("{name}/{name}@1.0.0"));
            if channel == "stepwise_step" {
                assert_eq!(payload["step"], name);
            }
        }
    }
}

#[test]
fn each_level_announces_what_it_says() {
    let server = Server::start();
    let database = server.database("listen_levels");
    let (mut listener, mut client) = (listener(&database), database.connect());
    templates::register(&mut client, &templates::chain("one", &["only"]));
    for (level, ready, task, step) in [("step", 1, 5, 5), ("task", 1, 5, 0), ("ready", 1, 0, 0), ("off", 0, 0, 0)] {
        client.batch_execute(&format!("SET stepwise.notify = '{level}'")).unwrap();
        run_a_task(&mut client, "one");
        let heard = hear(&mut listener, &mut client);
        let counts = ["stepwise_ready", "stepwise_task", "stepwise_step"].map(|channel| on(&heard, channel).count());
        assert_eq!(counts, [ready, task, step], "{level}");
    }
    // The history is complete at every level.
    assert_eq!(count(&mut client, "stepwise.transitions WHERE step_id IS NOT NULL"), 4 * 4);
    assert_eq!(count(&mut client, "stepwise.transitions WHERE step_id IS NULL"), 4 * 3);
}

#[test]
fn a_queue_is_announced_once_for_each_transaction() {
    let server = Server::start();
    let database = server.database("listen_ready");
    let (mut listener, mut client) = (listener(&database), database.connect());
    client.batch_execute("SET stepwise.notify = 'ready'").unwrap();
    let definition = json!({"namespace": "test", "name": "fan", "version": "1.0.0", "steps": [
        {"name": "root", "queue": "roots"},
        {"name": "a", "queue": "leaves", "depends_on": "root"}, {"name": "b", "queue": "leaves", "depends_on": "root"},
        {"name": "c", "queue": "others", "depends_on": "root"}]});
    templates::register(&mut client, &definition);
    templates::create(&mut client, "fan", 10);
    let heard = hear(&mut listener, &mut client);
    assert_eq!(on(&heard, "stepwise_ready").collect::<Vec<_>>(), ["roots"]);

    let sql =
        "SELECT count(*) FROM stepwise.complete_steps(ARRAY(SELECT receipt FROM stepwise.claim_steps('w', NULL, 10)))";
    assert_eq!(one::<i64>(&mut client, sql, &[]), 10);
    let mut queues: Vec<Heard> = hear(&mut listener, &mut client);
    queues.sort_unstable();
    assert_eq!(on(&queues, "stepwise_ready").collect::<Vec<_>>(), ["leaves", "others"]);
}

#[test]
fn nothing_is_heard_of_what_rolls_back() {
    let server = Server::start();
    let database = server.database("listen_rollback");
    let (mut listener, mut client) = (listener(&database), database.connect());
    templates::register(&mut client, &templates::chain("one", &["only"]));
    client.batch_execute("BEGIN").unwrap();
    run_a_task(&mut client, "one");
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(hear(&mut listener, &mut client), []);
    client.batch_execute("BEGIN; SAVEPOINT before").unwrap();
    run_a_task(&mut client, "one");
    client.batch_execute("ROLLBACK TO before; COMMIT").unwrap();
    assert_eq!(hear(&mut listener, &mut client), []);
}

#[test]
fn the_trace_of_a_task_is_in_each_of_its_events_and_in_no_other() {
    let server = Server::start();
    let database = server.database("listen_trace");
    let (mut listener, mut client) = (listener(&database), database.connect());
    templates::register(&mut client, &templates::chain("one", &["only"]));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let traced: i64 = one(&mut client, "SELECT stepwise.create_task('one', traceparent => $1)", &[&trace]);
    one::<i64>(&mut client, "SELECT stepwise.create_task('one')", &[]);
    // Both in one statement, as a claim and a batch of reports do it.
    let work = "SELECT array_agg(receipt) FROM stepwise.claim_steps('w', max_steps => 2)";
    client.execute(&format!("SELECT stepwise.complete_steps(({work}))"), &[]).unwrap();
    let heard = hear(&mut listener, &mut client);
    for (channel, events) in [("stepwise_step", 2), ("stepwise_task", 5)] {
        let payloads: Vec<Value> = on(&heard, channel).map(|payload| serde_json::from_str(payload).unwrap()).collect();
        let (ours, others): (Vec<&Value>, Vec<&Value>) = payloads.iter().partition(|event| event["task_id"] == traced);
        assert_eq!((ours.len(), others.len()), (events, events), "{channel}");
        assert!(ours.iter().all(|event| event["traceparent"] == trace), "{ours:?}");
        assert!(others.iter().all(|event| event.get("traceparent").is_none()), "{others:?}");
    }
}

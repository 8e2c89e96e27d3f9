//! Names and graphs at their limits, through real calls: a name is kept exactly or refused, wherever it goes; a graph is
//! accepted or refused with its path, however large.
mod cluster;

use cluster::{Server, count, one, refusal, wait};
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use std::time::Duration;

/// Such as are made to be more than names, in SQL, JSON, format strings, markup, terminals and search paths.
const EVIL: [&str; 20] = [
    "'; DROP TABLE stepwise.tasks; --",
    "$$ || pg_sleep(9) || $$",
    "$1",
    "%s%n%I%L",
    "100%",
    "a\"b\"\"c",
    "\\",
    "E'\\x41'",
    "line\nbreak\r\n\ttab",
    "\u{202e}desrever\u{202c}",
    "اسم الخطوة",
    "出荷🚚",
    "e\u{301}\u{200d}\u{feff}",
    "\u{1}\u{7f}\u{85}\u{fffe}\u{10ffff}",
    "NULL",
    "null",
    "{a,b}",
    " leading and trailing ",
    "pg_catalog.now()",
    "</title><script>alert(1)</script>",
];

fn name() -> impl Strategy<Value = String> {
    // What is blank all over counts as empty.
    any_name().prop_filter("a name is not blank", |name| !name.trim().is_empty())
}

fn any_name() -> impl Strategy<Value = String> {
    let any = prop::char::any().prop_filter("text has no NUL", |&c| c != '\0');
    prop_oneof![
        3 => prop::sample::select(EVIL.to_vec()).prop_map(String::from),
        2 => prop::collection::vec(any.clone(), 1..40).prop_map(String::from_iter),
        1 => prop::collection::vec(any, 255).prop_map(String::from_iter),
        1 => prop::sample::select(vec!['ä', '\u{1}', '🚚', '"', '\\']).prop_map(|c| c.to_string().repeat(255)),
    ]
}

/// The names of a run come from `PG_STEPWISE_NAMES_SEED`; without it each major has names of its own, the same each time.
fn runner(client: &mut Client) -> TestRunner {
    let version = "SELECT current_setting('server_version_num')::bigint / 10000";
    let seed = std::env::var("PG_STEPWISE_NAMES_SEED").ok().filter(|text| !text.is_empty());
    let seed: i64 = seed
        .map_or_else(|| one(client, version, &[]), |text| text.parse().expect("PG_STEPWISE_NAMES_SEED is a number"));
    println!("PG_STEPWISE_NAMES_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// Five names; each says where it is used, so that no two of one task are the same.
#[derive(Debug, Clone)]
struct Names {
    namespace: String,
    template: String,
    queue: String,
    step: String,
    worker: String,
}

fn names() -> impl Strategy<Value = Names> {
    (name(), name(), name(), name(), name()).prop_map(|(namespace, template, queue, step, worker)| Names {
        namespace,
        template,
        queue,
        step,
        worker,
    })
}

/// Payloads by channel, until the connection has been silent.
fn heard(listener: &mut Client, marker: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut notifications = listener.notifications();
    let mut incoming = notifications.timeout_iter(Duration::from_secs(30));
    loop {
        let next = incoming.next().unwrap().expect("the marker is heard");
        if next.channel() == marker {
            return found;
        }
        found.push((next.channel().to_owned(), next.payload().to_owned()));
    }
}

/// A task through its life under these names: each is what it was, everywhere.
fn live(client: &mut Client, listener: &mut Client, names: &Names, serial: usize) {
    // The same names may come again: another version is another template.
    let definition = json!({
        "namespace": names.namespace, "name": names.template, "version": format!("1.0.{serial}"),
        "steps": [{"name": names.step, "queue": names.queue, "handler": names.step}],
    });
    let register = "SELECT stepwise.register_template($1::text::jsonb)";
    let template_id: i64 = one(client, register, &[&definition.to_string()]);
    assert_eq!(one::<i64>(client, register, &[&definition.to_string()]), template_id, "registered twice: {names:?}");
    let create = "SELECT stepwise.create_task($1, namespace => $2, identity_key => $3, tags => ARRAY[$4, $3], requested_by => $3)";
    let arguments: [&(dyn postgres::types::ToSql + Sync); 4] =
        [&names.template, &names.namespace, &format!("{serial}"), &names.step];
    let task_id: i64 = one(client, create, &arguments);

    let claim = "SELECT receipt::text, task_name, step_name, namespace, handler, task_id \
        FROM stepwise.claim_steps($1, ARRAY[$2])";
    let row = client.query_one(claim, &[&names.worker, &names.queue]).unwrap();
    let got: [String; 5] = std::array::from_fn(|column| row.get(column));
    assert_eq!(got[1..], [&names.template, &names.step, &names.namespace, &names.step].map(String::clone));
    assert_eq!(row.get::<_, i64>(5), task_id);
    let results = json!({ "name": names.step }).to_string();
    client.execute("SELECT stepwise.complete_step($1::text::uuid, $2::text::jsonb)", &[&got[0], &results]).unwrap();

    let stored = "SELECT q.name = $2 AND r.name = $3 AND s.worker = $4 AND s.results ->> 'name' = $3 \
            AND t.tags[1] = $3 AND (SELECT bool_and(h.worker = $4) FROM stepwise.transitions h \
                WHERE h.task_id = s.task_id AND h.step_id = 1 AND h.worker IS NOT NULL) \
        FROM stepwise.steps s JOIN stepwise.queues q USING (queue_id) JOIN stepwise.template_steps r USING (template_id, step_id) \
        JOIN stepwise.tasks t USING (task_id) WHERE s.task_id = $1";
    assert!(one::<bool>(client, stored, &[&task_id, &names.queue, &names.step, &names.worker]), "{names:?}");
    let by_name = "SELECT count(*) FROM stepwise.explain_step($1, $2) WHERE reason = 'step_ended'";
    assert_eq!(one::<i64>(client, by_name, &[&task_id, &names.step]), 1, "{names:?}");
    let read_back: String =
        one(client, "SELECT stepwise.template_definition($1, $2)::text", &[&names.template, &names.namespace]);
    assert_eq!(serde_json::from_str::<Value>(&read_back).unwrap(), definition);
    for format in ["text", "mermaid", "dot", "svg", "html"] {
        let drawn: String = one(client, "SELECT stepwise.render_task($1, $2)", &[&task_id, &format]);
        let odd = drawn.chars().find(|&c| (c.is_control() && c != '\n') || c == '\u{202e}');
        assert!(odd.is_none(), "{odd:?} in {format}: {names:?}");
        // In plain text, and in the quoted labels of dot, it is only text.
        assert!(["text", "dot"].contains(&format) || !drawn.contains("<script>"), "{format}: {names:?}");
    }

    client.batch_execute("NOTIFY names_end").unwrap();
    let heard = heard(listener, "names_end");
    assert!(heard.iter().any(|(channel, payload)| channel == "stepwise_ready" && *payload == names.queue), "{names:?}");
    let mut steps = 0;
    for (channel, payload) in &heard {
        assert!(payload.len() < 8000, "{} bytes: {names:?}", payload.len());
        if channel != "stepwise_ready" {
            let event: Value = serde_json::from_str(payload).unwrap();
            let label = format!("{}/{}@1.0.{serial}", names.namespace, names.template);
            assert_eq!(event["template"].as_str(), Some(label.as_str()));
            assert!(event.get("step").is_none_or(|step| step.as_str() == Some(names.step.as_str())), "{payload}");
            steps += usize::from(event.get("step").is_some());
        }
    }
    assert_eq!(steps, 2, "{heard:?}");
}

/// What operators and readers of events name.
fn operate(client: &mut Client, listener: &mut Client, names: &Names, serial: usize) {
    // A key has up to 512 characters; whoever asks again gets the same task.
    let key = format!("{serial}{}{}", names.step, names.worker).chars().take(512).collect::<String>();
    let create = "SELECT stepwise.create_task($1, namespace => $2, identity_key => $3, requested_by => $4)";
    let mut create = || one::<i64>(client, create, &[&names.template, &names.namespace, &key, &names.worker]);
    let task_id = create();
    assert_eq!(create(), task_id, "{names:?}");
    let cancel = "SELECT stepwise.cancel_task($1, reason => $2, actor => $3)";
    assert_eq!(one::<i32>(client, cancel, &[&task_id, &names.step, &names.worker]), 1, "{names:?}");
    let stored = "SELECT t.identity_key = $2 AND (SELECT bool_and(h.metadata ->> 'reason' = $3 AND h.actor = $4) \
            FROM stepwise.transitions h WHERE h.task_id = $1 AND h.to_state = 'cancelled') \
        FROM stepwise.tasks t WHERE t.task_id = $1";
    assert!(one::<bool>(client, stored, &[&task_id, &key, &names.step, &names.worker]), "{names:?}");

    // A subscription of this name, to what belongs to these names.
    let filter = json!({"namespace": names.namespace, "template": names.template, "queue": names.queue}).to_string();
    let subscribe = "SELECT stepwise.create_subscription($1, $2::text::jsonb, 'start')";
    one::<i64>(client, subscribe, &[&names.worker, &filter]);
    let read = "SELECT count(*) FROM stepwise.read_events($1, 10000) WHERE task_id = $2";
    wait::until("its events", || (one::<i64>(client, read, &[&names.worker, &task_id]) > 0).then_some(()));
    assert!(one::<bool>(
        client,
        "SELECT bool_or(subscription = $1) FROM stepwise.subscription_lag()",
        &[&names.worker]
    ));
    client.execute("SELECT stepwise.drop_subscription($1)", &[&names.worker]).unwrap();

    let queue = "SELECT stepwise.pause_queue($1) AND stepwise.resume_queue($1)";
    assert!(one::<bool>(client, queue, &[&names.queue]), "{names:?}");
    client.execute("SELECT stepwise.set_queue_limit($1, 3)", &[&names.queue]).unwrap();
    let limited = "SELECT array_agg(name) FROM stepwise.queues WHERE max_in_flight = 3";
    assert_eq!(one::<Vec<String>>(client, limited, &[]), [names.queue.as_str()]);
    client.execute("SELECT stepwise.set_queue_limit($1, 0)", &[&names.queue]).unwrap();

    // A role that is kept to the namespace sees it, and no other.
    client.execute("SELECT stepwise.grant_access('clerk', 'reader', ARRAY[$1])", &[&names.namespace]).unwrap();
    client.batch_execute("SET ROLE clerk").unwrap();
    let seen: Vec<String> = one(client, "SELECT array_agg(name) FROM stepwise.namespaces", &[]);
    client.batch_execute("RESET ROLE").unwrap();
    assert_eq!(seen, [names.namespace.as_str()]);
    client.execute("SELECT stepwise.revoke_access('clerk')", &[]).unwrap();
    client.batch_execute("NOTIFY names_end").unwrap();
    assert!(!heard(listener, "names_end").is_empty());
}

#[test]
fn a_name_is_kept_exactly_wherever_it_goes() {
    let server = Server::start();
    let database = server.database("names");
    let (mut client, mut listener) = (database.connect(), database.connect());
    let channels = "LISTEN stepwise_step; LISTEN stepwise_task; LISTEN stepwise_ready; LISTEN names_end";
    listener.batch_execute(channels).unwrap();
    // No shrinking: what a failed case leaves behind is in the way of the next.
    client.batch_execute("CREATE ROLE clerk").unwrap();
    let mut runner = runner(&mut client);
    for serial in 1..=60 {
        let names = names().new_tree(&mut runner).unwrap().current();
        live(&mut client, &mut listener, &names, serial);
        operate(&mut client, &mut listener, &names, serial);
    }
    assert_eq!(count(&mut client, "stepwise.verify()"), 0);
}

/// Places that take longer texts than names, and how long.
const LONGER: [(&str, usize); 4] = [
    ("SELECT stepwise.create_task('plain', identity_key => $1)", 512),
    ("SELECT id FROM stepwise.create_tasks('plain', ARRAY['{}']::jsonb[], identity_keys => ARRAY[$1]) AS id", 512),
    ("SELECT stepwise.cancel_task(1, reason => $1)", 1000),
    ("SELECT stepwise.set_backoff(1, 'a', '1 s', reason => $1)", 1000),
];

/// Every place that takes a name, given a text by $1.
const TAKERS: [&str; 18] = [
    "SELECT stepwise.create_task('plain', tags => ARRAY[$1])",
    "SELECT stepwise.create_task('plain', requested_by => $1)",
    "SELECT stepwise.claim_steps($1)",
    "SELECT stepwise.report_and_claim($1)",
    "SELECT stepwise.cancel_task(1, reason => 'r', actor => $1)",
    "SELECT stepwise.cancel_step(1, 'a', reason => 'r', actor => $1)",
    "SELECT stepwise.resolve_step(1, 'a', '{}', 'r', $1)",
    "SELECT stepwise.register_template(jsonb_build_object('name', $1, 'steps', '[{\"name\": \"a\"}]'::jsonb))",
    "SELECT stepwise.register_template(jsonb_build_object('name', 'x', 'namespace', $1, 'steps', '[{\"name\": \"a\"}]'::jsonb))",
    "SELECT stepwise.register_template(jsonb_build_object('name', 'x', 'steps', jsonb_build_array(jsonb_build_object('name', $1))))",
    "SELECT stepwise.register_template(jsonb_build_object('name', 'x', 'steps', jsonb_build_array(jsonb_build_object('name', 'a', 'queue', $1))))",
    "SELECT stepwise.register_template(jsonb_build_object('name', 'x', 'steps', jsonb_build_array(jsonb_build_object('name', 'a', 'handler', $1))))",
    "SELECT stepwise.register_template(jsonb_build_object('name', 'x', 'defaults', jsonb_build_object('queue', $1), 'steps', '[{\"name\": \"a\"}]'::jsonb))",
    "SELECT stepwise.create_subscription($1)",
    "SELECT stepwise.create_subscription('s', jsonb_build_object('namespace', $1))",
    "SELECT stepwise.create_subscription('s', jsonb_build_object('queue', jsonb_build_array($1)))",
    "SELECT stepwise.create_subscription('s', jsonb_build_object('template', $1))",
    "SELECT stepwise.grant_access('clerk', 'reader', ARRAY[$1])",
];

#[test]
fn what_is_no_name_is_refused_and_nothing_is_stored() {
    let server = Server::start();
    let database = server.database("no_names");
    let mut client = database.connect();
    let plain = json!({"name": "plain", "steps": [{"name": "a"}]}).to_string();
    one::<i64>(&mut client, "SELECT stepwise.register_template($1::text::jsonb)", &[&plain]);
    one::<i64>(&mut client, "SELECT stepwise.create_task('plain')", &[]);
    let rows = "(SELECT FROM stepwise.tasks UNION ALL SELECT FROM stepwise.templates UNION ALL SELECT FROM stepwise.queues \
        UNION ALL SELECT FROM stepwise.namespaces UNION ALL SELECT FROM stepwise.transitions \
        UNION ALL SELECT FROM stepwise.subscriptions) AS stored";
    client.batch_execute("CREATE ROLE clerk").unwrap();
    let before = count(&mut client, rows);
    let huge = "x".repeat(1 << 20);
    for (taker, most) in TAKERS.into_iter().map(|taker| (taker, 255)).chain(LONGER) {
        let typed = taker.replace("$1", "$1::text");
        let long = "ä".repeat(most + 1);
        for text in ["", &long, &huge] {
            assert_eq!(refusal(&mut client, &typed, &[&text]), "22023", "{} characters: {taker}", text.chars().count());
        }
        // No text of a UTF-8 database: the server itself refuses it, as a parameter and as a result.
        assert_eq!(refusal(&mut client, &typed, &[&"a\0b"]), "22021", "NUL: {taker}");
        for bytes in [r"\xff", r"\xc3", r"\xeda080", r"\xf4908080"] {
            let broken = taker.replace("$1", &format!("convert_from('{bytes}', 'UTF8')"));
            assert_eq!(refusal(&mut client, &broken, &[]), "22021", "{bytes}: {taker}");
        }
        // Just short enough: what is wrong with it then is something else, or nothing.
        client.batch_execute("BEGIN").unwrap();
        let fits = "ä".repeat(most);
        if let Err(error) = client.query(&typed, &[&fits]) {
            assert_ne!(error.code().unwrap().code(), "22023", "{error:?}: {taker}");
        }
        client.batch_execute("ROLLBACK").unwrap();
    }
    // jsonb holds no NUL either.
    let escaped = r#"{"name": "a\u0000b", "steps": [{"name": "a"}]}"#;
    assert_eq!(refusal(&mut client, "SELECT stepwise.register_template($1::text::jsonb)", &[&escaped]), "22P05");
    assert_eq!(count(&mut client, rows), before);
}

/// A definition whose step n depends on the `edges` steps before it.
fn large(name: &str, steps: usize, edges: usize) -> String {
    let step = |n: usize| {
        let parents: Vec<String> = (n.saturating_sub(edges)..n).map(|parent| format!("s{parent}")).collect();
        json!({"name": format!("s{n}"), "depends_on": parents})
    };
    json!({"name": name, "steps": (0..steps).map(step).collect::<Vec<_>>()}).to_string()
}

#[test]
fn the_largest_graphs_are_read_or_refused_with_their_cycle() {
    let server = Server::start();
    let database = server.database("graphs");
    let mut client = database.connect();
    let register = "SELECT stepwise.register_template($1::text::jsonb)";
    // A chain as long as a template may be, and a million edges; no function of the extension goes down along them.
    one::<i64>(&mut client, register, &[&large("chain", 100_000, 1)]);
    one::<i64>(&mut client, register, &[&large("dense", 100_000, 10)]);
    let cycle = large("cycle", 100_000, 1).replacen(
        r#"{"depends_on":[],"name":"s0"}"#,
        r#"{"depends_on":["s99999"],"name":"s0"}"#,
        1,
    );
    assert!(cycle.contains("[\"s99999\"]"));
    let error = client.query(register, &[&cycle]).unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "22023");
    let path = error.detail().unwrap();
    assert!(path.starts_with("s0 → s1 → ") && path.ends_with(" → s99999 → s0") && path.len() < 1000, "{path}");

    let task_id: i64 = one(&mut client, "SELECT stepwise.create_task('chain')", &[]);
    let levels = "SELECT max(dependency_level)::integer FROM stepwise.calculate_dependency_levels($1)";
    assert_eq!(one::<i32>(&mut client, levels, &[&task_id]), 99_999);
    let path = "SELECT count(*) FROM stepwise.critical_path($1)";
    assert_eq!(one::<i64>(&mut client, path, &[&task_id]), 100_000);
    let drawn: String = one(&mut client, "SELECT stepwise.render_task($1, 'text')", &[&task_id]);
    assert_eq!(drawn.lines().count(), 3 + 100_000);
    assert_eq!(refusal(&mut client, "SELECT stepwise.render_task($1, 'svg')", &[&task_id]), "54000");
}

//! `examples/otlp` as a process: ended tasks as spans, sent to a receiver that reads them with the official definitions.
mod cluster;

use cluster::example_worker::python;
use cluster::worker::claim;
use cluster::{Database, Server, one, templates};
use postgres::Client;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

struct Receiver {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    port: String,
}

impl Receiver {
    fn start() -> Receiver {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/otlp/receiver.py");
        let mut process = python(script).stdout(Stdio::piped()).spawn().expect("the receiver starts");
        let mut lines = BufReader::new(process.stdout.take().expect("it has an output")).lines();
        let port = lines.next().expect("it tells its port").expect("it can be read");
        Receiver { process, lines, port }
    }

    /// The spans of one request.
    fn spans(&mut self) -> Vec<Span> {
        let mut spans = Vec::new();
        loop {
            let line: Value = serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap();
            if line == "end" {
                return spans;
            }
            assert!(line.get("refused").is_none(), "{line}");
            spans.push(Span(line));
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Span(Value);

impl Span {
    fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap()
    }
    fn number(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap()
    }
    fn attribute(&self, key: &str) -> &Value {
        &self.0["attributes"][key]
    }
    fn events(&self) -> Vec<&str> {
        self.0["events"].as_array().unwrap().iter().map(|event| event["name"].as_str().unwrap()).collect()
    }
    fn seconds(&self) -> u64 {
        (self.number("end") - self.number("start") + 500_000_000) / 1_000_000_000
    }
}

fn export(database: &Database, receiver: &Receiver, arguments: &[&str]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/otlp/export.py");
    let mut command: Command = python(script);
    command.args(arguments).env("PGHOST", &database.socket).env("PGUSER", "watcher").env("PGDATABASE", &database.name);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", receiver.port));
    command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-token=a%20b");
    command.output().expect("the exporter runs")
}

fn exported(database: &Database, receiver: &mut Receiver, arguments: &[&str]) -> Vec<Span> {
    let output = export(database, receiver, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    receiver.spans()
}

fn create(client: &mut Client, template: &str, flags: &str) -> i64 {
    let traceparent = format!("00-{TRACE}-{PARENT}-{flags}");
    one(client, "SELECT stepwise.create_task($1, traceparent => $2)", &[&template, &traceparent])
}

fn advance(client: &mut Client, seconds: i32) {
    client.batch_execute(&format!("SET stepwise.clock_offset = '{seconds} seconds'")).unwrap();
}

/// A task of two steps. The first fails with a backoff, loses a lease, is released, and completes; the second fails for good.
fn eventful(client: &mut Client) -> i64 {
    let mut definition = templates::chain("eventful", &["first", "second"]);
    definition["defaults"]["retry_limit"] = 3.into();
    templates::register(client, &definition);
    let task_id = create(client, "eventful", "01");
    let held = claim(client, "one", 1).unwrap().remove(0);
    advance(client, 5);
    let fail = "SELECT stepwise.fail_step($1::text::uuid, $2::text::jsonb, retry_after => '30 seconds')";
    client.execute(fail, &[&held.receipt, &r#"{"type": "Busy", "message": "no box"}"#]).unwrap();
    // Ready 30 s after the failure; claimed 5 s after that, and never reported.
    advance(client, 40);
    claim(client, "two", 1).unwrap();
    advance(client, 1000);
    let held = claim(client, "three", 1).unwrap().remove(0);
    client.execute("SELECT stepwise.release_step($1::text::uuid)", &[&held.receipt]).unwrap();
    let held = claim(client, "three", 1).unwrap().remove(0);
    client.execute("SELECT stepwise.complete_step($1::text::uuid)", &[&held.receipt]).unwrap();
    advance(client, 1007);
    let held = claim(client, "four", 1).unwrap().remove(0);
    let fail = "SELECT stepwise.fail_step($1::text::uuid, '\"no\"', retryable => false)";
    client.execute(fail, &[&held.receipt]).unwrap();
    task_id
}

#[test]
fn an_ended_task_is_spans_of_its_trace() {
    let server = Server::start();
    let database = server.database("otlp");
    let mut client = database.connect();
    client.batch_execute("CREATE ROLE watcher LOGIN; SELECT stepwise.grant_access('watcher', 'reader')").unwrap();
    let mut receiver = Receiver::start();
    let task_id = eventful(&mut client);
    let id = task_id.to_string();

    // The receiver is busy at first, so this also sends again.
    let spans = exported(&database, &mut receiver, &[&id]);
    assert_eq!(spans, exported(&database, &mut receiver, &[&id]), "other spans of the same task");
    assert_eq!(spans.len(), 1 + 5 * 3);
    assert!(spans.iter().all(|span| span.text("trace") == TRACE && span.number("flags") & 1 == 1));
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.text("id")).collect();
    assert_eq!(ids.len(), spans.len(), "an id twice");

    let task = &spans[0];
    assert_eq!((task.text("parent"), task.text("name"), task.number("status")), (PARENT, "eventful", 2));
    assert_eq!(task.number("flags"), 0x301, "the parent is elsewhere");
    assert_eq!(task.text("message"), "failed: second");
    assert_eq!(task.attribute("pg_stepwise.task.id"), task_id);
    assert_eq!(task.0["resource"]["service.name"], "test");
    // clock_offset moves the ends, not the statement's start: a second more or less does not matter.
    assert!((1006..=1009).contains(&task.seconds()), "{} s", task.seconds());

    let mut children: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    spans[1..].iter().for_each(|span| children.entry(span.text("parent")).or_default().push(span));
    let attempts = &children[task.text("id")];
    let seen: Vec<_> = attempts
        .iter()
        .map(|span| {
            let outcome = span.attribute("pg_stepwise.outcome").as_str().unwrap();
            (span.text("name"), outcome, span.number("status"), span.attribute("error.type"), span.events())
        })
        .collect();
    let none = Value::Null;
    assert_eq!(
        seen,
        [
            ("first", "error", 2, &json!("Busy"), vec!["exception", "backoff"]),
            ("first", "lease_expired", 2, &json!("lease_expired"), vec!["lease_expired"]),
            ("first", "released", 0, &none, vec![]),
            ("first", "complete", 0, &none, vec![]),
            ("second", "error", 2, &json!("error"), vec!["exception"]),
        ]
    );
    let lengths: Vec<(u64, u64)> = attempts
        .iter()
        .map(|attempt| {
            let [wait, run] = children[attempt.text("id")][..] else { panic!("not two spans below an attempt") };
            assert_eq!(attempt.number("kind"), 5);
            assert_eq!(wait.text("name"), format!("{} wait", attempt.text("name")));
            assert_eq!(run.text("name"), format!("{} run", attempt.text("name")));
            assert_eq!(wait.number("start"), attempt.number("start"));
            assert_eq!((wait.number("end"), run.number("end")), (run.number("start"), attempt.number("end")));
            assert_eq!(run.number("status"), attempt.number("status"));
            assert_eq!(run.attribute("error.type"), attempt.attribute("error.type"));
            (wait.seconds(), run.seconds())
        })
        .collect();
    // The third could be claimed since the lease of the second was over.
    assert_eq!(lengths, [(0, 5), (5, 960), (900, 0), (0, 0), (7, 0)]);
    let backoff = &attempts[0].0["events"][1];
    assert_eq!(backoff["attributes"]["pg_stepwise.backoff.seconds"].as_f64().unwrap().round(), 30.0);
    assert_eq!(attempts[1].attribute("messaging.client.id"), "two");
    assert_eq!(attempts[4].attribute("messaging.message.id"), &json!(format!("{task_id}/2/1")));
}

#[test]
fn what_is_not_sampled_or_not_ended_is_not_sent() {
    let server = Server::start();
    let database = server.database("otlp_choice");
    let mut client = database.connect();
    client.batch_execute("CREATE ROLE watcher LOGIN; SELECT stepwise.grant_access('watcher', 'reader')").unwrap();
    let mut receiver = Receiver::start();
    templates::register(&mut client, &templates::chain("one", &["only"]));
    let quiet = create(&mut client, "one", "00");
    let untraced = templates::create(&mut client, "one", 1)[0];
    for held in claim(&mut client, "w", 2).unwrap() {
        client.execute("SELECT stepwise.complete_step($1::text::uuid)", &[&held.receipt]).unwrap();
    }
    let open = create(&mut client, "one", "01");

    let output = export(&database, &receiver, &[&open.to_string(), &untraced.to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told.trim(), format!("task {open}: there is no finished task with this id"));
    let spans = receiver.spans();
    assert_eq!(spans.len(), 4);
    assert_eq!((spans[0].text("parent"), spans[0].text("trace").len(), spans[0].number("flags")), ("", 32, 0x101));
    assert_ne!(spans[0].text("trace"), TRACE);

    // The same task, and not the other.
    assert_eq!(exported(&database, &mut receiver, &["--since", "1 hour"]), spans);
    let of = |spans: Vec<Span>| spans[0].attribute("pg_stepwise.task.id").as_i64().unwrap();
    assert_eq!(of(exported(&database, &mut receiver, &["--all", &quiet.to_string()])), quiet);

    client.execute("SELECT stepwise.cancel_task($1)", &[&open]).unwrap();
    let spans = exported(&database, &mut receiver, &[&open.to_string()]);
    assert_eq!((spans.len(), spans[0].number("status"), spans[0].events()), (1, 0, vec!["cancelled"]));
}

#[test]
fn a_wait_for_a_signal_is_one_span() {
    let server = Server::start();
    let database = server.database("otlp_signal");
    let mut client = database.connect();
    client.batch_execute("CREATE ROLE watcher LOGIN; SELECT stepwise.grant_access('watcher', 'reader')").unwrap();
    let mut receiver = Receiver::start();
    let mut definition = templates::chain("signed", &["ask", "sign"]);
    definition["steps"][1]["kind"] = "wait".into();
    templates::register(&mut client, &definition);
    let task_id = create(&mut client, "signed", "01");
    let held = claim(&mut client, "w", 1).unwrap().remove(0);
    client.execute("SELECT stepwise.complete_step($1::text::uuid)", &[&held.receipt]).unwrap();
    advance(&mut client, 50);
    client.execute("SELECT stepwise.signal_step($1, 'sign')", &[&task_id]).unwrap();
    let spans = exported(&database, &mut receiver, &[&task_id.to_string()]);
    let names: Vec<&str> = spans.iter().map(|span| span.text("name")).collect();
    assert_eq!(names, ["signed", "ask", "ask wait", "ask run", "sign"]);
    let sign = &spans[4];
    assert_eq!((sign.text("parent"), sign.number("kind")), (spans[0].text("id"), 1));
    assert!((49..=51).contains(&sign.seconds()), "{} s", sign.seconds());
}

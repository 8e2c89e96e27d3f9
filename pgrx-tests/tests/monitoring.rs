//! Insight stays cheap however much has ended, and the files in `contrib` work with the tools that they are for.
mod cluster;

use cluster::monitoring::{Service, encoded, promtool, samples};
use cluster::{Database, Server, count, one, templates, wait};
use postgres::Client;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join(path)
}

/// Steps of every condition, and one that has failed for good.
fn put_to_work(client: &mut Client) {
    let steps: Vec<String> = (1..=10).map(|step| format!("s{step}")).collect();
    templates::register(client, &templates::chain("ladder", &steps.iter().map(String::as_str).collect::<Vec<_>>()));
    let definition = r#"{"namespace": "other", "name": "many", "steps": [{"name": "sign", "kind": "wait"}, {"name": "later", "delay": "1h"},
        {"name": "work", "backoff": {"base": "1h", "cap": "1h"}}]}"#;
    client.execute("SELECT stepwise.register_template($1::text::jsonb)", &[&definition]).unwrap();
    client
        .batch_execute(
            "SELECT stepwise.create_tasks('many', array_fill('{}'::jsonb, ARRAY[20]));
             SELECT stepwise.create_tasks('ladder', array_fill('{}'::jsonb, ARRAY[20]));
             SELECT stepwise.complete_step(receipt) FROM stepwise.claim_steps('done', '{test}', 10);
             SELECT stepwise.fail_step(receipt) FROM stepwise.claim_steps('unlucky', '{other}', 5);
             SELECT stepwise.fail_step(receipt, retryable => false) FROM stepwise.claim_steps('hopeless', '{test}', 5);
             SELECT stepwise.claim_steps('busy', max_steps => 5);
             SELECT stepwise.claim_steps('dead', max_steps => 2, lease => '100 ms');
             SELECT stepwise.pause_queue('other')",
        )
        .unwrap();
    let lost = "stepwise.live_steps WHERE condition = 'lease_expired'";
    wait::until("the leases of the dead worker are over", || (count(client, lost) == 2).then_some(()));
}

/// Adds tasks of ten steps that have ended.
fn finish(client: &mut Client, tasks: i32) {
    let first: i64 = one(client, "SELECT max(task_id) + 1 FROM stepwise.tasks", &[]);
    client.batch_execute(&format!("SET history.first = {first}; SET history.tasks = {tasks}")).unwrap();
    client.batch_execute(include_str!("cluster/finished_history.sql")).unwrap();
    let parts =
        ["VACUUM (ANALYZE) stepwise.tasks", "VACUUM (ANALYZE) stepwise.steps", "VACUUM (ANALYZE) stepwise.transitions"];
    parts.iter().for_each(|vacuum| client.batch_execute(vacuum).unwrap());
}

/// Pages of shared buffers that a query looks at; it must not read a large table from end to end.
fn pages(client: &mut Client, sql: &str) -> i64 {
    let mut transaction = client.transaction().unwrap();
    let scans = "SELECT coalesce(sum(seq_scan), 0)::bigint FROM pg_stat_xact_user_tables \
        WHERE schemaname = 'stepwise' AND relname IN ('tasks', 'steps', 'transitions')";
    let scans_before: i64 = transaction.query_one(scans, &[]).unwrap().get(0);
    // Once before: the first call of a session looks at the catalog.
    transaction.query(sql, &[]).unwrap();
    let plan: String = transaction
        .query(&format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {sql}"), &[])
        .map(|rows| rows[0].get::<_, postgres_json::Text>(0).0)
        .unwrap();
    let scans: i64 = transaction.query_one(scans, &[]).unwrap().get(0);
    transaction.rollback().unwrap();
    assert_eq!(scans - scans_before, 0, "{sql} reads all of a table");
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let blocks = |name: &str| plan[0]["Plan"][name].as_i64().unwrap();
    blocks("Shared Hit Blocks") + blocks("Shared Read Blocks")
}

/// The type json, which the driver knows only with a feature that nothing else needs.
mod postgres_json {
    use postgres::types::{FromSql, Type};
    use std::error::Error;

    pub struct Text(pub String);

    impl<'a> FromSql<'a> for Text {
        fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
            Ok(Text(std::str::from_utf8(raw)?.to_owned()))
        }

        fn accepts(kind: &Type) -> bool {
            *kind == Type::JSON
        }
    }
}

/// What looks at live steps and failed tasks only.
const LIVE: &[&str] = &[
    "SELECT * FROM stepwise.live_steps",
    "SELECT * FROM stepwise.open_tasks",
    "SELECT * FROM stepwise.queue_depths",
    "SELECT * FROM stepwise.failed_steps",
    "SELECT * FROM stepwise.failed_tasks",
];
/// What looks at the history since a time: beside it, at the summaries of the rest.
const WINDOWS: &[&str] = &[
    "SELECT * FROM stepwise.get_step_durations(stepwise.now() - interval '10 min')",
    "SELECT * FROM stepwise.get_failures()",
    "SELECT * FROM stepwise.get_throughput()",
    "SELECT * FROM stepwise.get_workers()",
    "SELECT * FROM stepwise.get_analytics_metrics()",
    "SELECT * FROM stepwise.get_slowest_tasks(stepwise.now() - interval '10 min')",
    "SELECT * FROM stepwise.get_slowest_steps(stepwise.now() - interval '10 min')",
    "SELECT stepwise.metrics_prometheus()",
];

#[test]
fn nothing_grows_with_what_has_ended() {
    let server = Server::start_with(&["max_parallel_workers_per_gather=0", "autovacuum=off"]);
    let mut client = server.database("large").connect();
    put_to_work(&mut client);
    let history = "SELECT pg_relation_size('stepwise.transitions') / 8192";
    let measure = |client: &mut Client| -> BTreeMap<&str, i64> {
        LIVE.iter().chain(WINDOWS).map(|sql| (*sql, pages(client, sql))).collect()
    };
    finish(&mut client, 5_000);
    let (before, history_before) = (measure(&mut client), one::<i64>(&mut client, history, &[]));
    finish(&mut client, 20_000);
    let (after, history_after) = (measure(&mut client), one::<i64>(&mut client, history, &[]));
    let grown = history_after - history_before;
    assert!(grown > 3_000, "the history has grown by {grown} pages");
    for (sql, pages) in &after {
        println!("{sql}: {} then {pages} pages", before[sql]);
        // One level more of an index is a page for each look-up. A scan of any of the tables would be thousands.
        let more = if LIVE.contains(sql) { before[sql] / 2 + 20 } else { before[sql] / 2 + 20 + grown / 50 };
        assert!(*pages <= before[sql] + more, "{sql}: {} pages, then {pages}", before[sql]);
    }

    // Totals: of a large table, a part.
    let health = "SELECT * FROM stepwise.get_system_health_counts()";
    assert!(pages(&mut client, health) < 2_000);
    assert!(!one::<bool>(&mut client, "SELECT totals_estimated FROM stepwise.get_system_health_counts()", &[]));
    client
        .batch_execute(
            "SET session_replication_role = replica;
             INSERT INTO stepwise.tasks (template_id, created_at, finished_at, live_steps, total_steps, completed_steps, cancelled_steps, state, context)
             SELECT 1, now(), now(), 0, 10, CASE WHEN n % 4 > 0 THEN 10 ELSE 0 END, CASE WHEN n % 4 > 0 THEN 0 ELSE 10 END,
                    CASE WHEN n % 4 > 0 THEN 'complete' ELSE 'cancelled' END, jsonb_build_object('filler', repeat('x', 300))
             FROM generate_series(1, 100000) AS n;
             RESET session_replication_role;
             ANALYZE stepwise.tasks",
        )
        .unwrap();
    let seen = pages(&mut client, health);
    println!("{health}: {seen} pages");
    assert!(one::<i64>(&mut client, "SELECT pg_relation_size('stepwise.tasks') / 8192", &[]) > 5_000);
    assert!(seen < 3_500, "{seen} pages");
    let row = client.query_one(health, &[]).unwrap();
    assert!(row.get::<_, bool>("totals_estimated"));
    for (column, truth) in [
        ("total_tasks", 125_040_i64),
        ("complete_tasks", 100_000),
        ("cancelled_tasks", 25_000),
        ("total_steps", 1_250_260),
    ] {
        let (estimate, truth) = (row.get::<_, i64>(column) as f64, truth as f64);
        assert!((estimate / truth - 1.0).abs() < 0.15, "{column}: {estimate}, in truth {truth}");
    }
    // What is open or has failed is exact all the same.
    for (column, from) in [
        ("pending_tasks", "stepwise.tasks WHERE state = 'pending'"),
        ("in_progress_tasks", "stepwise.tasks WHERE state = 'in_progress'"),
        ("error_tasks", "stepwise.tasks WHERE state = 'error'"),
        ("pending_steps", "stepwise.steps WHERE state = 'pending'"),
        ("in_progress_steps", "stepwise.steps WHERE state = 'in_progress'"),
        ("error_steps", "stepwise.steps WHERE state = 'error'"),
    ] {
        assert_eq!(row.get::<_, i64>(column), count(&mut client, from), "{column}");
    }
}

#[test]
fn an_update_on_the_way_of_a_good_task_stays_hot() {
    let server = Server::start();
    let mut client = server.database("hot").connect();
    templates::register(&mut client, &templates::chain("chain", &["a", "b", "c"]));
    templates::create(&mut client, "chain", 10);
    for _ in 0..3 {
        client
            .batch_execute("SELECT stepwise.complete_step(receipt) FROM stepwise.claim_steps('w', max_steps => 10)")
            .unwrap();
    }
    assert_eq!(count(&mut client, "stepwise.tasks WHERE state = 'complete'"), 10);
    client.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
    let other =
        "SELECT (n_tup_upd - n_tup_hot_upd)::bigint FROM pg_stat_user_tables WHERE relid = 'stepwise.tasks'::regclass";
    assert_eq!(one::<i64>(&mut client, other, &[]), 0);
    assert!(
        one::<i64>(
            &mut client,
            "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relid = 'stepwise.tasks'::regclass",
            &[]
        ) >= 30
    );
}

#[test]
fn promtool_accepts_the_text() {
    let server = Server::start();
    let mut client = server.database("promtool").connect();
    let text = |client: &mut Client| one::<String>(client, "SELECT stepwise.metrics_prometheus()", &[]);
    let accept = |text: &str| {
        let output = promtool(&["check", "metrics"], text);
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        assert!(output.status.success() && said.is_empty(), "{}\n{text}", String::from_utf8_lossy(&said));
    };
    accept(&text(&mut client));
    put_to_work(&mut client);
    // Names that have to be escaped.
    let definition = r#"{"namespace": "a\\b", "name": "say \"hi\"\nand {go}, ü", "steps": [{"name": "s\\n"}]}"#;
    client.execute("SELECT stepwise.register_template($1::text::jsonb)", &[&definition]).unwrap();
    client.batch_execute("SELECT stepwise.create_task(name) FROM stepwise.templates WHERE name LIKE 'say%'").unwrap();
    client
        .batch_execute("SELECT stepwise.complete_step(receipt) FROM stepwise.claim_steps('w', ARRAY['a\\b'])")
        .unwrap();
    let full = text(&mut client);
    accept(&full);
    assert_eq!(full.lines().filter(|line| line.starts_with("# TYPE ")).count(), 25, "every family is there\n{full}");
    // It would have said so.
    assert!(!promtool(&["check", "metrics"], &full.replace("\\n", "\n")).status.success());
    assert!(!promtool(&["check", "metrics"], &full.replace("_total", "")).stderr.is_empty());
}

/// Every expression of the dashboard, variables replaced by what Grafana would put there.
fn expressions(dashboard: &Value) -> Vec<String> {
    let targets = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let filled = |target: &Value| {
        let expression = target["expr"].as_str().unwrap();
        expression.replace("$queue", ".*").replace("$namespace", ".*").replace("$__rate_interval", "1m")
    };
    targets.map(filled).collect()
}

fn check_structure(dashboard: &Value) {
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "an id is given twice");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let part = |name: &str| panel["gridPos"][name].as_i64().unwrap();
        assert!(part("x") >= 0 && part("w") > 0 && part("x") + part("w") <= 24, "{} leaves the grid", panel["title"]);
        for x in part("x")..part("x") + part("w") {
            for y in part("y")..part("y") + part("h") {
                assert!(taken.insert((x, y)), "{} lies over another panel", panel["title"]);
            }
        }
        let sources = panel["targets"].as_array().unwrap().iter().chain([panel]);
        sources.for_each(|source| assert_eq!(source["datasource"]["uid"], "${datasource}", "{}", panel["title"]));
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|variable| variable["type"] == "datasource" && variable["name"] == "datasource"));
    let text = dashboard["panels"].to_string();
    for variable in variables {
        let name = variable["name"].as_str().unwrap();
        assert!(
            text.contains(&format!("${name}")) || text.contains(&format!("${{{name}}}")),
            "${name} is used nowhere"
        );
    }
}

fn exporter(database: &Database, role: &str) -> Service {
    let queries = format!("--extend.query-path={}", repository("contrib/postgres_exporter/queries.yaml").display());
    let arguments = [queries, "--disable-default-metrics".into(), "--disable-settings-metrics".into()];
    let source = format!("host={} user={role} dbname={} sslmode=disable", database.socket.display(), database.name);
    Service::start("prometheus-postgres-exporter", &arguments, &[("DATA_SOURCE_NAME", source)])
}

#[test]
fn the_exporter_the_dashboard_and_the_alerts_agree_with_the_views() {
    let server = Server::start();
    let database = server.database("monitored");
    let mut client = database.connect();
    client.batch_execute("CREATE ROLE monitor LOGIN; SELECT stepwise.grant_access('monitor', 'reader')").unwrap();
    put_to_work(&mut client);

    // The exporter serves what the function says; what moves with the clock, at least under the same names.
    let exporter = exporter(&database, "monitor");
    let (served, wanted) = wait::until("both have seen the same minute", || {
        let served = samples(&exporter.get("/metrics"));
        let mut wanted = samples(&one::<String>(&mut client, "SELECT stepwise.metrics_prometheus()", &[]));
        wanted.retain(|series, _| !series.starts_with("stepwise_info"));
        served.keys().eq(wanted.keys()).then_some((served, wanted))
    });
    let mut compared = 0;
    for (series, value) in &wanted {
        if !series.contains("_seconds") && !series.contains("_bytes") {
            assert_eq!(served[series], *value, "{series}");
            compared += 1;
        }
    }
    assert!(compared > 30, "{compared} series");
    let queue = client.query_one("SELECT * FROM stepwise.queue_depths WHERE queue = 'other'", &[]).unwrap();
    let of_queue = |name: &str| served[&format!("stepwise_queue_{name}{{queue=\"other\"}}")] as i64;
    for (name, column) in [
        ("ready_steps", "ready"),
        ("backoff_steps", "in_backoff"),
        ("delayed_steps", "delayed"),
        ("signal_steps", "waiting_for_signal"),
        ("operator_steps", "for_operator"),
        ("in_flight_steps", "in_flight"),
    ] {
        assert_eq!(of_queue(name), queue.get::<_, i64>(column), "{column}");
    }

    // Prometheus reads the exporter, and every expression finds something.
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(repository("contrib/grafana/stepwise.json")).unwrap()).unwrap();
    check_structure(&dashboard);
    let alerts = repository("contrib/prometheus/alerts.yaml");
    let checked = promtool(&["check", "rules", alerts.to_str().unwrap()], "");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let dir = PathBuf::from(format!("{}-prometheus", database.socket.parent().unwrap().display()));
    fs::create_dir(&dir).unwrap();
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\n\
         scrape_configs: [{{job_name: stepwise, static_configs: [{{targets: ['{}']}}]}}]\n",
        alerts.display(),
        exporter.address()
    );
    fs::write(dir.join("prometheus.yml"), config).unwrap();
    let arguments = [
        format!("--config.file={}", dir.join("prometheus.yml").display()),
        format!("--storage.tsdb.path={}", dir.join("data").display()),
    ];
    let prometheus = Service::start("prometheus", &arguments, &[]);
    wait::until("Prometheus is ready", || prometheus.get("/-/ready").contains("is Ready").then_some(()));
    let ask = |expression: &str| -> Value {
        let answer: Value =
            serde_json::from_str(&prometheus.get(&format!("/api/v1/query?query={}", encoded(expression)))).unwrap();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].clone()
    };
    let mut asked = expressions(&dashboard);
    assert!(asked.len() > 20, "{} expressions", asked.len());
    // A limit, so that the panel that shows it has something to show.
    client.batch_execute("SELECT stepwise.set_queue_limit('other', 100)").unwrap();
    asked.push("stepwise_queue_ready_steps".into());
    for expression in &asked {
        wait::until(&format!("{expression} finds something"), || {
            (!ask(expression).as_array().unwrap().is_empty()).then_some(())
        });
    }
    let ready = ask("sum(stepwise_queue_ready_steps)");
    let total: i64 = one(&mut client, "SELECT sum(ready)::bigint FROM stepwise.queue_depths", &[]);
    assert_eq!(ready[0]["value"][1], total.to_string());
    // An expression that asks for nothing that exists would have been noticed.
    assert_eq!(ask("stepwise_queue_no_such_steps"), Value::Array(Vec::new()));

    // The alerts have been evaluated without an error, and those that have a reason have seen it.
    let rules = wait::until("the alerts have been evaluated", || {
        let answer: Value = serde_json::from_str(&prometheus.get("/api/v1/rules")).unwrap();
        let rules = answer["data"]["groups"][0]["rules"].as_array().unwrap().clone();
        assert!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:?}");
        let active = rules.iter().filter(|rule| rule["state"] != "inactive").count();
        (active >= 4 && rules.iter().all(|rule| rule["health"] == "ok")).then_some(rules)
    });
    let pending = |name: &str| rules.iter().any(|rule| rule["name"] == name && rule["state"] != "inactive");
    for name in ["StepwiseExpiredLeases", "StepwiseTasksFailed", "StepwiseFailureRate", "StepwiseQueuePaused"] {
        assert!(pending(name), "{name}: {rules:?}");
    }
    assert!(!pending("StepwiseQueueFallsBehind"));
    drop((prometheus, exporter));
    fs::remove_dir_all(dir).unwrap();
}

/// Runs examples/top/top on a terminal, with these keys, one a moment after the other.
fn on_a_terminal(database: &Database, keys: &[&str]) -> String {
    let top = repository("examples/top/top");
    let mut command = Command::new("script");
    command.args(["-qec", &format!("{} --interval 0.2", top.display()), "/dev/null"]);
    let path = format!("{}:/usr/bin:/bin", std::env::var("PG_STEPWISE_BINDIR").unwrap());
    command.env_clear().envs([("PATH", path.as_str()), ("TERM", "xterm"), ("SHELL", "/bin/sh"), ("LANG", "C.UTF-8")]);
    command.env("PGHOST", &database.socket).env("PGUSER", "monitor").env("PGDATABASE", &database.name);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.spawn().expect("script runs");
    let mut terminal = process.stdin.take().unwrap();
    for key in keys {
        // Time for the screen that the key answers to.
        thread::sleep(Duration::from_millis(1500));
        terminal.write_all(key.as_bytes()).unwrap();
    }
    let output = process.wait_with_output().expect("top ends");
    assert!(output.status.success(), "{:?}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn top_shows_queues_failures_and_why_a_task_does_not_move() {
    let server = Server::start();
    let database = server.database("top");
    let mut client = database.connect();
    client.batch_execute("CREATE ROLE monitor LOGIN; SELECT stepwise.grant_access('monitor', 'reader')").unwrap();
    put_to_work(&mut client);
    let failed: i64 = one(&mut client, "SELECT min(task_id) FROM stepwise.failed_steps", &[]);
    client
        .batch_execute(
            "SELECT stepwise.register_template('{\"namespace\": \"late\", \"name\": \"late\", \"timeout\": \"1 s\", \"steps\": [{\"name\": \"a\"}]}'); \
             SELECT stepwise.create_task('late', run_at => stepwise.now() - interval '1 hour'); SELECT stepwise.tick()",
        )
        .unwrap();
    let late: i64 = one(&mut client, "SELECT min(task_id) FROM stepwise.failed_tasks WHERE timed_out", &[]);
    let keys = ["w", &format!("{failed}\n"), "x", "w", &format!("{late}\n"), "x", "w", "987654\n", "x", "q"];
    let screen = on_a_terminal(&database, &keys);
    for said in
        [format!("Task {late} has ended: error (timed out), 0 of 1 steps done."), "There is no task 987654".into()]
    {
        assert!(screen.contains(&said), "{said} is not shown:\n{screen}");
    }
    for shown in [
        "RUNNING",
        "FAILED",
        "other (paused)",
        "busy",
        "no further attempt",
        "timed out: 0 of 1 steps done",
        "\u{1b}[?1049l",
    ] {
        assert!(screen.contains(shown), "{shown} is not shown:\n{screen}");
    }
    assert!(!screen.contains("ERROR"), "{screen}");
}

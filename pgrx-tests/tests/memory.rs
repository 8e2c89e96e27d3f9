//! A backend that serves calls for a long time does not grow, and neither do errors leave anything behind. `make soak-calls
//! CALLS=10000000` goes on for longer.
mod cluster;

use cluster::worker::{claim, complete, receipts};
use cluster::{Server, one, refusal, templates};
use postgres::Client;
use serde_json::json;
use std::fs;

/// A round of calls, good and bad.
const CALLS: i64 = 33;

/// Tasks that workers run, and a task whose steps are handlers in the database: one returns, the other raises.
fn prepare(client: &mut Client) {
    templates::register(client, &templates::chain("pair", &["a", "b"]));
    client
        .batch_execute(
            "CREATE SCHEMA app; \
            CREATE FUNCTION app.good(given stepwise.step_context) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN \
                RETURN jsonb_build_object('some', 'results', 'of', given.step_name); END $$; \
            CREATE FUNCTION app.bad(given stepwise.step_context) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN \
                RAISE 'task % is not for me', given.task_id USING DETAIL = repeat('why ', 100), HINT = 'Do not ask.'; END $$; \
            SELECT stepwise.create_subscription('all')",
        )
        .unwrap();
    let inside = json!({"namespace": "test", "name": "inside", "defaults": {"queue": "inside", "retry_limit": 1},
        "steps": [{"name": "good", "handler": {"sql": "app.good"}}, {"name": "bad", "handler": {"sql": "app.bad"}}]});
    templates::register(client, &inside);
    // The first task is one in error, which nothing below removes.
    templates::create(client, "pair", 1);
    let first = claim(client, "w", 1).unwrap().remove(0);
    complete(client, &first.receipt, "1").unwrap();
    let second = claim(client, "w", 1).unwrap().remove(0);
    client.execute("SELECT stepwise.fail_step($1::text::uuid, retryable => false)", &[&second.receipt]).unwrap();
}

fn round(client: &mut Client, number: i64) {
    let mut calls = 0;
    let mut good = |client: &mut Client, sql: &str| {
        client.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        calls += 1;
    };
    good(client, "SELECT stepwise.create_task('pair', '{\"some\": \"context\"}', tags => '{a, b}')");
    good(client, "SELECT stepwise.create_tasks('pair', array_fill('{}'::jsonb, ARRAY[4]))");
    good(client, &format!("SELECT stepwise.create_task('pair', identity_key => 'k{}')", number % 5));
    good(client, "SELECT stepwise.next_visible_at()");
    good(client, "SELECT * FROM stepwise.get_step_readiness_status(1)");
    good(client, "SELECT * FROM stepwise.get_task_execution_context(1)");
    good(client, "SELECT stepwise.template_definition('pair')");
    for format in ["text", "html"] {
        good(client, &format!("SELECT stepwise.render_task(1, '{format}')"));
    }
    let steps = claim(client, "w", 5).unwrap();
    assert_eq!(steps.len(), 5);
    assert_eq!(complete(client, &steps[0].receipt, r#"{"some": "results"}"#).unwrap(), "accepted");
    let release = "SELECT stepwise.release_step($1::text::uuid)";
    assert_eq!(one::<String>(client, release, &[&steps[1].receipt]), "accepted");
    let fail = "SELECT stepwise.fail_step($1::text::uuid, '{\"some\": \"error\"}', false)";
    assert_eq!(one::<String>(client, fail, &[&steps[2].receipt]), "accepted");
    let fail = "SELECT count(*) FROM stepwise.fail_steps($1::text[]::uuid[], array_fill('{\"some\": \"error\"}'::jsonb, ARRAY[2]), \
        retryable => '{false, true}') WHERE outcome = 'accepted'";
    assert_eq!(one::<i64>(client, fail, &[&receipts(&steps[3..])]), 2);
    good(
        client,
        "SELECT * FROM stepwise.report_and_claim('w', \
            completed => ARRAY(SELECT receipt FROM stepwise.claim_steps('w')))",
    );
    good(client, "SELECT stepwise.tick()");

    // Handlers in the database, each in a subtransaction.
    let task: i64 = one(client, "SELECT stepwise.create_task('inside')", &[]);
    let run = "SELECT status || completed_steps FROM stepwise.run_task($1)";
    assert_eq!(one::<String>(client, run, &[&task]), "error1");
    assert_eq!(one::<i32>(client, "SELECT stepwise.retry_task($1)", &[&task]), 1);
    let run = "SELECT concat(executed, completed, failed) FROM stepwise.run_steps('inside')";
    assert_eq!(one::<String>(client, run, &[]), "101");
    assert!(one::<i32>(client, "SELECT stepwise.cancel_task($1)", &[&task]) > 0);

    // What another session has going on keeps events back, but not for long.
    good(client, "SELECT * FROM stepwise.read_events('all', 100)");
    good(client, "SELECT count(*) FROM stepwise.claim_events('all', 100)");
    good(client, "SELECT stepwise.ack_events('all', safe_event) FROM stepwise.subscription_lag()");

    for (sql, state) in [
        ("SELECT stepwise.complete_step($1::text::uuid)", "55000"),
        ("SELECT stepwise.extend_lease($1::text::uuid, '-1s')", "22023"),
        ("SELECT stepwise.fail_step(gen_random_uuid(), to_jsonb($1::text))", "P0002"),
        ("SELECT stepwise.create_task('nothing like ' || $1)", "P0002"),
        ("SELECT stepwise.create_task('pair', bypass_steps => ARRAY[$1])", "22023"),
        ("SELECT stepwise.register_template(jsonb_build_object('name', $1::text))", "22023"),
        ("SELECT stepwise.claim_steps($1, max_steps => 0)", "22023"),
        ("UPDATE stepwise.steps SET state = 'skipped' WHERE task_id = 1 AND $1::text IS NOT NULL", "55000"),
        ("UPDATE stepwise.tasks SET live_steps = 7 WHERE task_id = 1 AND $1::text IS NOT NULL", "55000"),
    ] {
        assert_eq!(refusal(client, sql, &[&steps[1].receipt]), state, "{sql}");
        calls += 1;
    }
    // Those whose answers are looked at.
    assert_eq!(calls + 10, CALLS);
}

/// Every now and then what has ended goes, so that the tables do not grow where there are millions of calls.
fn round_and_tidy(client: &mut Client, number: i64, calls: i64) {
    round(client, number);
    if calls > 20_000 && number % 100 == 99 {
        let give_up = "SELECT stepwise.cancel_task(task_id) FROM stepwise.tasks WHERE state = 'error' AND task_id > 1";
        client.query(give_up, &[]).unwrap();
        one::<i32>(client, "SELECT stepwise.purge_tasks('0', 100000)", &[]);
    }
}

/// Memory of a process that is its own, in kB.
fn anonymous_memory(pid: i32) -> i64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the backend lives");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel counts it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn twenty_thousand_calls_leave_the_backend_as_large_as_it_was() {
    let server = Server::start();
    let database = server.database("memory");
    let mut client = database.connect();
    prepare(&mut client);
    let pid: i32 = one(&mut client, "SELECT pg_backend_pid()", &[]);
    let calls: i64 = std::env::var("CALLS").map_or(20_000, |calls| calls.parse().expect("CALLS is a number"));
    // Plans, caches and the allocator's reserves are there after some rounds.
    for number in 0..200 {
        round_and_tidy(&mut client, number, calls);
    }
    let rounds = calls / CALLS;
    let mut sizes = vec![anonymous_memory(pid)];
    for number in 1..=rounds {
        round_and_tidy(&mut client, number, calls);
        if number % (rounds / 2) == 0 {
            sizes.push(anonymous_memory(pid));
        }
        if number % 10_000 == 0 {
            println!("{} calls, {} kB", number * CALLS, anonymous_memory(pid));
        }
    }
    // A reserve that is filled once may grow in one half; what every round leaves behind grows in both.
    let [before, middle, after] = sizes[..3] else { panic!("{sizes:?}") };
    let both = (middle - before).min(after - middle);
    let bytes = (after - before) * 1024 * 1_000_000 / (rounds * CALLS);
    println!("{} calls: {:+} kB ({bytes} bytes per million calls)", rounds * CALLS, after - before);
    // Three hundred bytes that any one of the calls leaves behind would show.
    assert!(both < 60, "from {before} kB over {middle} kB to {after} kB");
}

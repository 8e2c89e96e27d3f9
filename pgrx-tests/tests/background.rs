//! The launcher, its coordinators and the runners of SQL handlers, in servers of their own: rights, timeouts, wake-ups,
//! idleness, and everything that can be taken away from under them.
mod cluster;

use cluster::handlers::{self, PREPARE, process, wait_for_process, wait_for_tasks};
use cluster::{Server, count, invariants, one, templates, wait};
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use serde_json::{Value, json};
use std::time::Duration;

fn register(client: &mut Client, name: &str, step: Value) {
    let mut one_step = json!({"name": "only", "handler": {"sql": "app.enter"}});
    one_step.as_object_mut().unwrap().extend(step.as_object().unwrap().clone());
    templates::register(client, &json!({"namespace": "n", "name": name, "steps": [one_step]}));
}

fn prepared(server: &Server, name: &str) -> Client {
    let mut client = server.database(name).connect();
    client.batch_execute(PREPARE).unwrap();
    client
}

fn create(client: &mut Client, template: &str) -> i64 {
    one(client, "SELECT stepwise.create_task($1)", &[&template])
}

fn text(client: &mut Client, sql: &str, task_id: i64) -> Option<String> {
    one(client, sql, &[&task_id])
}

#[test]
fn a_handler_runs_as_the_role_that_created_its_task() {
    let server = handlers::server("rights");
    let mut client = prepared(&server, "rights");
    register(&mut client, "who", json!({"retry_limit": 1}));
    client
        .batch_execute(
            "CREATE ROLE shop LOGIN; CREATE ROLE clerk NOLOGIN; CREATE ROLE gone LOGIN;
             SELECT stepwise.grant_access(r, 'worker') FROM unnest('{shop,clerk,gone}'::name[]) AS r;
             ALTER ROLE shop SET search_path = app",
        )
        .unwrap();
    let mut of_role = |role: &str| -> i64 {
        client.batch_execute(&format!("SET ROLE {role}")).unwrap();
        // What the creator says of itself does not count.
        let task_id = one(&mut client, "SELECT stepwise.create_task('who', requested_by => 'postgres')", &[]);
        client.batch_execute("RESET ROLE").unwrap();
        task_id
    };
    let (shop, clerk) = (of_role("shop"), of_role("clerk"));
    wait_for_tasks(&mut client);
    let results = "SELECT results::text FROM stepwise.steps WHERE task_id = $1";
    let ran_as = |role: &str| Some(format!("{{\"user\": \"{role}\", \"session\": \"{role}\"}}"));
    assert_eq!(text(&mut client, results, shop), ran_as("shop"));
    // A process can be a role that may not log in from 17 on; before, the step fails and says why.
    let version: i32 = one(&mut client, "SELECT current_setting('server_version_num')::integer", &[]);
    let error = "SELECT error ->> 'sqlstate' FROM stepwise.steps WHERE task_id = $1";
    if version >= 170_000 {
        assert_eq!(text(&mut client, results, clerk), ran_as("clerk"));
    } else {
        assert_eq!(text(&mut client, error, clerk).as_deref(), Some("28000"));
    }
    // Of a role that is gone, too.
    client.batch_execute("UPDATE stepwise.queues SET paused = true WHERE name = 'n:sql'").unwrap();
    client.batch_execute("SET ROLE gone").unwrap();
    let gone = create(&mut client, "who");
    client.batch_execute("RESET ROLE; DROP OWNED BY gone; DROP ROLE gone").unwrap();
    client.batch_execute("SELECT stepwise.resume_queue('n:sql')").unwrap();
    wait_for_tasks(&mut client);
    assert_eq!(text(&mut client, error, gone).as_deref(), Some("28000"));
    invariants::assert_sound(&mut client);
}

#[test]
fn a_handler_is_cancelled_at_its_timeout_and_changes_nothing_of_its_process() {
    let server = handlers::server("timeouts");
    let mut client = prepared(&server, "timeouts");
    register(
        &mut client,
        "slow",
        json!({"timeout": "0.2s", "retry_limit": 2, "config": {"sleep": 600}, "backoff": {"base": "0s"}}),
    );
    let slow = create(&mut client, "slow");
    wait_for_tasks(&mut client);
    let error = "SELECT (error ->> 'sqlstate') || ' ' || attempts FROM stepwise.steps WHERE task_id = $1";
    assert_eq!(text(&mut client, error, slow).as_deref(), Some("57014 2"));
    assert_eq!(count(&mut client, "app.entries"), 0);
    // The next one in the same process finds its settings, tables and locks as they should be.
    client
        .batch_execute(
            "CREATE FUNCTION app.messy(given stepwise.step_context) RETURNS jsonb LANGUAGE plpgsql AS $$
             DECLARE
                 seen jsonb := jsonb_build_object('path', current_setting('search_path'), 'table', to_regclass('pg_temp.mess'),
                     'locks', (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), 'pid', pg_backend_pid());
             BEGIN
                 CREATE TEMP TABLE mess ();
                 PERFORM set_config('search_path', 'app', false), pg_advisory_lock(7);
                 RETURN seen;
             END
             $$",
        )
        .unwrap();
    templates::register(
        &mut client,
        &json!({"namespace": "n", "name": "messy", "steps": [{"name": "a", "handler": {"sql": "app.messy"}},
            {"name": "b", "depends_on": "a", "handler": {"sql": "app.messy"}}]}),
    );
    create(&mut client, "messy");
    wait_for_tasks(&mut client);
    let seen = "SELECT count(DISTINCT results - 'pid') FROM stepwise.steps WHERE results ? 'path'";
    assert_eq!(one::<i64>(&mut client, seen, &[]), 1);
    let clean = "SELECT results ->> 'locks' = '0' AND results ->> 'table' IS NULL FROM stepwise.steps WHERE results ? 'path' LIMIT 1";
    assert!(one::<bool>(&mut client, clean, &[]));
}

#[test]
fn workers_are_woken_when_a_backoff_ends_and_overdue_tasks_end_by_themselves() {
    let server = handlers::server("wakes");
    let mut client = prepared(&server, "wakes");
    let definition = json!({"namespace": "n", "name": "outside", "steps": [{"name": "a"}]});
    templates::register(&mut client, &definition);
    let timed = json!({"namespace": "n", "name": "timed", "timeout": "0.3s", "steps": [{"name": "w", "kind": "wait"}]});
    templates::register(&mut client, &timed);
    wait_for_process(&mut client, "coordinator");
    client.batch_execute("LISTEN stepwise_ready").unwrap();
    create(&mut client, "outside");
    let fail = "SELECT stepwise.fail_step(receipt, retry_after => '1 second') FROM stepwise.claim_steps('w')";
    client.batch_execute(fail).unwrap();
    // The notifications of this session's own calls come first; the one that counts comes from another process.
    let own: i32 = one(&mut client, "SELECT pg_backend_pid()", &[]);
    let woken = wait::until("the end of the backoff is announced", || {
        let mut notifications = client.notifications();
        let next = notifications.timeout_iter(Duration::from_secs(1)).find(|one| Ok(one.process_id() != own));
        next.unwrap()
    });
    assert_eq!(woken.payload(), "n");
    assert_eq!(count(&mut client, "stepwise.claim_steps('w')"), 1);
    let timed = create(&mut client, "timed");
    let state = "SELECT state FROM stepwise.tasks WHERE task_id = $1 AND timed_out";
    wait::until("the deadline ends the task", || client.query_opt(state, &[&timed]).unwrap());
    invariants::assert_sound(&mut client);
}

#[test]
fn a_long_handler_keeps_no_other_step_waiting() {
    let server = handlers::server("long");
    let mut client = prepared(&server, "long");
    register(&mut client, "slow", json!({"timeout": "1h", "config": {"sleep": 600}}));
    register(&mut client, "quick", json!({}));
    let slow = create(&mut client, "slow");
    let state = "SELECT state FROM stepwise.steps WHERE task_id = $1";
    wait::until("the long handler runs", || {
        (text(&mut client, state, slow).as_deref() == Some("in_progress")).then_some(())
    });
    for _ in 0..3 {
        let quick = create(&mut client, "quick");
        wait::until("the other step is done", || {
            (text(&mut client, state, quick).as_deref() == Some("complete")).then_some(())
        });
    }
    assert_eq!(text(&mut client, state, slow).as_deref(), Some("in_progress"));
}

/// The preloaded library sees every utility statement; what one raises must reach the client as it is.
#[test]
fn what_a_handler_wrote_goes_when_another_session_decides_its_step_meanwhile() {
    let server = handlers::server("decided");
    let mut client = prepared(&server, "decided");
    let handler = |own: &str| {
        format!(
            "CREATE FUNCTION app.{own}(given stepwise.step_context) RETURNS jsonb LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO app.entries VALUES (given.task_id, given.step_name, given.attempt);
                IF '{own}' = 'alone' THEN PERFORM stepwise.cancel_task(given.task_id); END IF;
                PERFORM pg_advisory_lock(1);
                PERFORM pg_advisory_unlock(1);
                RETURN NULL;
            END
            $$"
        )
    };
    client.batch_execute(&[handler("slow"), handler("alone")].join(";")).unwrap();
    register(&mut client, "slow", json!({"handler": {"sql": "app.slow"}}));
    register(&mut client, "alone", json!({"handler": {"sql": "app.alone"}}));
    client.batch_execute("SELECT pg_advisory_lock(1)").unwrap();
    let (slow, alone) = (create(&mut client, "slow"), create(&mut client, "alone"));
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    wait::until("both handlers run", || (one::<i64>(&mut client, waiting, &[]) == 2).then_some(()));
    assert_eq!(one::<i32>(&mut client, "SELECT stepwise.cancel_task($1)", &[&slow]), 1);
    client.batch_execute("SELECT pg_advisory_unlock(1)").unwrap();
    wait_for_tasks(&mut client);
    wait::until("the handlers end", || {
        let busy =
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_stepwise runner' AND state = 'active'";
        (one::<i64>(&mut client, busy, &[]) == 0).then_some(())
    });
    let entries = |client: &mut Client, task_id: i64| count(client, &format!("app.entries WHERE task_id = {task_id}"));
    assert_eq!((entries(&mut client, slow), entries(&mut client, alone)), (0, 1));
    assert_eq!(count(&mut client, "stepwise.tasks WHERE state = 'cancelled'"), 2);
    invariants::assert_sound(&mut client);
}

#[test]
fn errors_of_utility_statements_keep_their_fields() {
    let server = handlers::server("utility");
    let mut client = prepared(&server, "utility");
    let raise = "DO $$ BEGIN RAISE 'mine' USING ERRCODE = 'JQ007', CONSTRAINT = 'c'; END $$";
    let error = client.batch_execute(raise).unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.constraint()), ("JQ007", Some("c")));
}

#[test]
fn an_idle_coordinator_does_nothing() {
    let server = handlers::server("idle");
    let mut client = prepared(&server, "idle");
    register(&mut client, "quick", json!({}));
    let pid = wait_for_process(&mut client, "coordinator");
    create(&mut client, "quick");
    wait_for_tasks(&mut client);
    // It looks once more after the last step has been reported; then nothing is due.
    let seen = "SELECT state || state_change FROM pg_stat_activity WHERE pid = $1";
    let settled = wait::until("the coordinator rests", || {
        let before: String = one(&mut client, seen, &[&pid]);
        std::thread::sleep(Duration::from_millis(300));
        let after: String = one(&mut client, seen, &[&pid]);
        (before == after && after.starts_with("idle")).then_some(after)
    });
    let cpu = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<u64> =
            stat.rsplit(") ").next().unwrap().split(' ').filter_map(|field| field.parse().ok()).collect();
        // utime and stime, of which each tick is a hundredth of a second; the state before them is no number.
        fields[10] + fields[11]
    };
    let before = cpu();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(one::<String>(&mut client, seen, &[&pid]), settled);
    assert!(cpu() - before <= 2, "an idle coordinator used {} hundredths of a second in 3 seconds", cpu() - before);
}

#[test]
fn the_setting_the_extension_and_the_database_may_go_and_come() {
    let server = handlers::server("come,later");
    let mut client = prepared(&server, "come");
    let mut admin = server.connect("postgres");
    register(&mut client, "quick", json!({}));
    wait_for_process(&mut client, "coordinator");
    // The extension.
    client.batch_execute("DROP SCHEMA app CASCADE; DROP EXTENSION pg_stepwise CASCADE").unwrap();
    client.batch_execute("CREATE EXTENSION pg_stepwise").unwrap();
    client.batch_execute(PREPARE).unwrap();
    register(&mut client, "quick", json!({}));
    create(&mut client, "quick");
    wait_for_tasks(&mut client);
    // The database: nobody else is connected, so it can go, and come back.
    drop(client);
    wait::until("the test's own connection ends", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'come' AND backend_type = 'client backend'";
        (one::<i64>(&mut admin, sql, &[]) == 0).then_some(())
    });
    admin.batch_execute("DROP DATABASE come").unwrap();
    let mut client = prepared(&server, "later");
    register(&mut client, "quick", json!({}));
    create(&mut client, "quick");
    wait_for_tasks(&mut client);
    // A coordinator that is ended comes back.
    let pid = process(&mut client, "coordinator").unwrap();
    admin.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
    wait::until("another coordinator runs", || process(&mut client, "coordinator").filter(|other| *other != pid));
    create(&mut client, "quick");
    wait_for_tasks(&mut client);
}

#[test]
fn the_list_of_databases_can_be_changed_while_the_server_runs() {
    let server = Server::start_with(&["shared_preload_libraries=pg_stepwise"]);
    let mut client = prepared(&server, "listed");
    for (databases, runs) in [("listed", true), ("", false), (" other, listed ", true)] {
        client.batch_execute(&format!("ALTER SYSTEM SET stepwise.databases = '{databases}'")).unwrap();
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
        wait::until("the coordinator follows the setting", || {
            (process(&mut client, "coordinator").is_some() == runs).then_some(())
        });
    }
}

#[test]
fn a_killed_handler_is_run_again_after_its_lease() {
    let mut server = handlers::server("killed");
    let mut client = prepared(&server, "killed");
    // A lease that a busy machine does not outlast: the clock goes on instead, for the processes that start after it.
    register(&mut client, "slow", json!({"timeout": "10s", "retry_limit": 5, "config": {"sleep": 0.8}}));
    create(&mut client, "slow");
    let running = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_stepwise runner' AND query LIKE 'step only%' AND state = 'active'";
    let pid: i32 = wait::until("a handler runs", || client.query_opt(running, &[]).unwrap()).get(0);
    // SIGKILL of one process makes the server start all others anew.
    server.kill_backend(pid);
    // It may take a moment to notice, and until then it accepts connections.
    wait::until("the server ends all sessions", || client.batch_execute("SELECT 1").err());
    let mut client = wait::until("the server recovers", || {
        let mut client = server.connection("killed").connect(postgres::NoTls).ok()?;
        client.batch_execute("SELECT 1 FROM stepwise.tasks").ok()?;
        Some(client)
    });
    // A fast shutdown does not wait for a handler either.
    register(&mut client, "endless", json!({"timeout": "1h", "retry_limit": 1, "config": {"sleep": 600}}));
    let endless = create(&mut client, "endless");
    let claimed = format!("stepwise.steps WHERE state = 'in_progress' AND task_id = {endless}");
    wait::until("the endless handler runs", || (count(&mut client, &claimed) == 1).then_some(()));
    client.batch_execute("ALTER DATABASE killed SET stepwise.clock_offset = '2 hours'").unwrap();
    drop(client);
    server.stop();
    server.launch();
    let mut client = server.connect("killed");
    wait_for_tasks(&mut client);
    assert_eq!(count(&mut client, "app.entries"), 1);
    assert_eq!(count(&mut client, "stepwise.steps WHERE state = 'complete' AND attempts > 1"), 1);
    assert_eq!(count(&mut client, &format!("stepwise.steps WHERE state = 'error' AND task_id = {endless}")), 1);
    invariants::assert_sound(&mut client);
}

#[test]
fn a_standby_has_no_coordinator_until_it_is_promoted() {
    let server = handlers::server("standby");
    let mut client = prepared(&server, "standby");
    register(&mut client, "quick", json!({}));
    create(&mut client, "quick");
    wait_for_tasks(&mut client);
    let standby = server.standby();
    let mut there = standby.connect("standby");
    assert_eq!(process(&mut there, "launcher"), None);
    there.batch_execute("SELECT pg_promote()").unwrap();
    wait_for_process(&mut there, "coordinator");
    create(&mut there, "quick");
    wait_for_tasks(&mut there);
    invariants::assert_sound(&mut there);
}

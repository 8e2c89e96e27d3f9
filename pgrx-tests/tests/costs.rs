//! What calls cost, in figures that no machine changes: statements, buffers, bytes of WAL and of tables, and whether any
//! table is read from end to end. Speed itself is measured in bench/.
mod cluster;

use cluster::{Database, Server, count, one, templates};
use postgres::Client;
use serde_json::Value;

const CONTEXT: &str = r#"{"order_id":123,"customer":"abc"}"#;
const RESULT: &str = r#"{"ok":true,"value":42}"#;

/// The ladder of the benchmarks: 1 → 2, 3 → 4 → 5, 6, 7 → 8 → 9 → 10.
fn register_ladder(client: &mut Client) -> i64 {
    let parents: [&[usize]; 10] = [&[], &[1], &[1], &[2, 3], &[4], &[4], &[4], &[5, 6, 7], &[8], &[9]];
    let steps: Vec<Value> = (1..=10)
        .map(|step| {
            let depends_on: Vec<String> = parents[step - 1].iter().map(|parent| format!("s{parent}")).collect();
            serde_json::json!({"name": format!("s{step}"), "depends_on": depends_on})
        })
        .collect();
    templates::register(client, &serde_json::json!({"name": "ladder", "steps": steps}));
    one(client, "SELECT template_id FROM stepwise.templates WHERE name = 'ladder'", &[])
}

fn create_tasks(client: &mut Client, tasks: i32) {
    let sql = "SELECT count(*) FROM stepwise.create_tasks('ladder', array_fill($1::text::jsonb, ARRAY[$2::integer]))";
    assert_eq!(one::<i64>(client, sql, &[&CONTEXT, &tasks]), i64::from(tasks));
}

/// Claims and completes so many steps at once; how many there were.
fn turn(client: &mut Client, batch: i32) -> i64 {
    let receipts: Option<String> =
        one(client, "SELECT array_agg(receipt)::text FROM stepwise.claim_steps('w1', max_steps => $1)", &[&batch]);
    let Some(receipts) = receipts else { return 0 };
    let sql = "SELECT count(*) FROM stepwise.complete_steps($1::text::uuid[], \
                   array_fill($2::text::jsonb, ARRAY[cardinality($1::text::uuid[])])) WHERE outcome = 'accepted'";
    one(client, sql, &[&receipts, &RESULT])
}

/// The same of the hand-written SQL that the benchmarks hold the extension against.
fn floor_turn(client: &mut Client, batch: i32) -> i64 {
    let claimed =
        client.query(include_str!("../../bench/floor/claim.sql"), &[&1_i64, &i64::from(batch), &"w1"]).unwrap();
    if claimed.is_empty() {
        return 0;
    }
    let task_ids: Vec<i64> = claimed.iter().map(|row| row.get(0)).collect();
    let step_ids: Vec<i32> = claimed.iter().map(|row| row.get(1)).collect();
    let complete = include_str!("../../bench/floor/complete.sql").replace("$3::jsonb[]", "$3::text[]::jsonb[]");
    one(client, &complete, &[&task_ids, &step_ids, &vec![RESULT; claimed.len()]])
}

fn nested_statements(client: &mut Client, call: &str) -> i64 {
    client.batch_execute("SELECT pg_stat_statements_reset(); SET pg_stat_statements.track = 'all'").unwrap();
    client.batch_execute(call).unwrap();
    client.batch_execute("SET pg_stat_statements.track = 'none'").unwrap();
    one(client, "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE NOT toplevel", &[])
}

#[test]
fn a_call_runs_as_many_statements_for_a_thousand_steps_as_for_ten() {
    // Of the servers that CI has, one comes without the contrib modules; the code is the same on all.
    let bare = Server::start();
    let sql = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'";
    let counts = one::<i64>(&mut bare.connect("postgres"), sql, &[]) == 1;
    drop(bare);
    if !counts {
        eprintln!("no pg_stat_statements on this server: statements are counted on the others");
        return;
    }
    let server = Server::start_with(&[
        "shared_preload_libraries=pg_stat_statements",
        "pg_stat_statements.track=none",
        "pg_stat_statements.track_utility=off",
        "pg_stat_statements.track_planning=off",
    ]);
    let database = server.database("statements");
    let mut client = database.connect();
    client.batch_execute("CREATE EXTENSION pg_stat_statements").unwrap();
    register_ladder(&mut client);
    create_tasks(&mut client, 3000);
    client.batch_execute("CREATE TEMP TABLE held (receipt uuid)").unwrap();
    // Templates are read and kept by the first call.
    assert_eq!(turn(&mut client, 2), 2);
    let mut of_batch = Vec::new();
    for batch in [10, 1000] {
        let claim = nested_statements(
            &mut client,
            &format!("INSERT INTO held SELECT receipt FROM stepwise.claim_steps('w', max_steps => {batch})"),
        );
        let report = nested_statements(
            &mut client,
            "SELECT count(*) FROM stepwise.complete_steps((SELECT array_agg(receipt) FROM held))",
        );
        client.batch_execute("DELETE FROM held").unwrap();
        of_batch.push((claim, report));
    }
    assert_eq!(of_batch[0], of_batch[1], "statements of a claim and of a report, of ten steps and of a thousand");
    let (claim, report) = of_batch[0];
    // The steps, and the tasks that begin with them; the steps, their children, the tasks.
    assert!(claim <= 2 && report <= 3, "a claim runs {claim} statements, a report {report}");
    assert_eq!(
        nested_statements(&mut client, "SELECT stepwise.claim_steps('w', '{nowhere}')"),
        1,
        "the name's look-up"
    );
    client.batch_execute("SELECT stepwise.pause_queue(name) FROM stepwise.queues").unwrap();
    assert_eq!(nested_statements(&mut client, "SELECT stepwise.claim_steps('w')"), 0, "a claim of nothing");
}

/// Bytes of WAL, of tables and of indexes; updates of steps, and those that touched no index.
fn written(client: &mut Client, schema: &str) -> [f64; 5] {
    client.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
    let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8, \
            (SELECT sum(pg_relation_size(c.oid))::float8 FROM pg_class c WHERE c.relnamespace = $1::text::regnamespace \
                AND c.relname IN ('tasks', 'steps', 'transitions')), \
            (SELECT sum(pg_indexes_size(c.oid))::float8 FROM pg_class c WHERE c.relnamespace = $1::text::regnamespace \
                AND c.relname IN ('tasks', 'steps', 'transitions')), \
            n_tup_upd::float8, n_tup_hot_upd::float8 \
        FROM pg_stat_all_tables WHERE schemaname = $1 AND relname = 'steps'";
    let row = client.query_one(sql, &[&schema]).unwrap();
    std::array::from_fn(|column| row.get(column))
}

#[test]
fn a_step_writes_hardly_more_than_hand_written_sql() {
    // Without page images, so that the bytes are those of the records, whenever checkpoints come.
    let server = Server::start_with(&["full_page_writes=off", "autovacuum=off"]);
    let database = server.database("written");
    let mut client = database.connect();
    client.batch_execute("SET stepwise.notify = off").unwrap();
    client.batch_execute(include_str!("../../bench/floor/schema.sql")).unwrap();
    let template_id = register_ladder(&mut client);
    client
        .batch_execute(
            "INSERT INTO floor.template_steps SELECT template_id, 1, 0, timeout, backoff_base, backoff_cap, step_id, level, \
                 3, 0, true, false, name, handler, NULL, parents, children FROM stepwise.template_steps",
        )
        .unwrap();
    let tasks = 100;
    for batch in [1, 10, 100] {
        let mut of_side = Vec::new();
        for schema in ["stepwise", "floor"] {
            client
                .batch_execute(&format!(
                    "BEGIN; SET LOCAL session_replication_role = replica; \
                     TRUNCATE {schema}.tasks, {schema}.steps, {schema}.transitions; COMMIT"
                ))
                .unwrap();
            if schema == "stepwise" {
                create_tasks(&mut client, tasks);
            } else {
                let create = include_str!("../../bench/floor/create.sql").replace("$2::jsonb[]", "$2::text[]::jsonb[]");
                client.execute(&create, &[&template_id, &vec![CONTEXT; tasks as usize]]).unwrap();
            }
            client.batch_execute(&format!("VACUUM (ANALYZE) {schema}.steps")).unwrap();
            let before = written(&mut client, schema);
            let mut steps = 0;
            loop {
                match if schema == "floor" { floor_turn(&mut client, batch) } else { turn(&mut client, batch) } {
                    0 => break,
                    done => steps += done,
                }
            }
            assert_eq!(steps, 10 * i64::from(tasks));
            let after = written(&mut client, schema);
            let wal = (after[0] - before[0]) / steps as f64;
            let hot = (after[4] - before[4]) / (after[3] - before[3]);
            of_side.push([wal, after[1] / f64::from(tasks), after[2] / f64::from(tasks), hot]);
        }
        let [ours, floor] = of_side[..] else { unreachable!("two sides") };
        println!(
            "batch {batch}: WAL {:.0} B per step (floor {:.0}), table {:.0} B and index {:.0} B per task ({:.0}, {:.0}), HOT {:.2} ({:.2})",
            ours[0], floor[0], ours[1], ours[2], floor[1], floor[2], ours[3], floor[3]
        );
        assert!(ours[0] <= 1.15 * floor[0], "batch {batch}: {} B of WAL per step, floor {}", ours[0], floor[0]);
        let (size, floor_size) = (ours[1] + ours[2], floor[1] + floor[2]);
        assert!(size <= 1.2 * floor_size, "batch {batch}: {size} B per task, floor {floor_size}");
        // Of more than one step per call, it depends on which parents end in the same call.
        if batch == 1 {
            assert!(ours[3] >= floor[3] - 0.01, "HOT share {}, floor {}", ours[3], floor[3]);
        }
    }
}

/// Adds so many finished steps as rows.
fn add_finished(client: &mut Client, template_id: i64, steps: i64) {
    let first: i64 = one(client, "SELECT coalesce(min(task_id), 0) FROM stepwise.tasks", &[]);
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("SET LOCAL session_replication_role = replica").unwrap();
    let statements = include_str!("../../bench/finished.sql").split(';').filter(|sql| !sql.trim().is_empty());
    // Tasks and steps; no claim looks at the history.
    for sql in statements.take(2) {
        transaction.execute(sql, &[&template_id, &(first.min(0) - steps / 10), &(first.min(0) - 1)]).unwrap();
    }
    transaction.commit().unwrap();
}

/// Shared buffers that a statement touches, those of the statements inside included.
fn buffers(client: &mut Client, sql: &str) -> f64 {
    let plan: Value = {
        let text = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}");
        match &client.simple_query(&text).unwrap()[..] {
            [.., postgres::SimpleQueryMessage::Row(row), _] => serde_json::from_str(row.get(0).unwrap()).unwrap(),
            other => panic!("{} messages", other.len()),
        }
    };
    let node = &plan[0]["Plan"];
    node["Shared Hit Blocks"].as_f64().unwrap() + node["Shared Read Blocks"].as_f64().unwrap()
}

/// Means of the buffers of claims, and of reports, of one step in a new session, where everything is planned anew. No
/// table may be scanned from end to end.
fn one_by_one(database: &Database, when: &str) -> (f64, f64) {
    let mut client = database.connect();
    client.batch_execute("SET stepwise.notify = off").unwrap();
    create_tasks(&mut client, 40);
    let scans = "SELECT coalesce(sum(seq_scan), 0)::bigint FROM pg_stat_all_tables WHERE schemaname = 'stepwise' \
                     AND relname IN ('steps', 'tasks', 'transitions', 'template_steps')";
    for _ in 0..5 {
        assert_eq!(turn(&mut client, 1), 1);
    }
    client.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
    let before: i64 = one(&mut client, scans, &[]);
    client.batch_execute("CREATE TEMP TABLE held (receipt uuid)").unwrap();
    let (mut claims, mut reports, rounds) = (0.0, 0.0, 30);
    for _ in 0..rounds {
        // A temporary table has buffers of its own.
        claims += buffers(&mut client, "INSERT INTO held SELECT receipt FROM stepwise.claim_steps('w')");
        let receipt: String = one(&mut client, "DELETE FROM held RETURNING receipt::text", &[]);
        reports += buffers(&mut client, &format!("SELECT stepwise.complete_step('{receipt}', '{RESULT}')"));
    }
    for batch in [2, 7] {
        assert_eq!(turn(&mut client, batch), i64::from(batch));
    }
    client.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
    let scanned = one::<i64>(&mut client, scans, &[]) - before;
    println!(
        "{when}: {:.1} buffers a claim, {:.1} a report, {scanned} scans",
        claims / f64::from(rounds),
        reports / f64::from(rounds)
    );
    while turn(&mut client, 100) > 0 {}
    assert_eq!(scanned, 0, "{when}: tables were scanned");
    (claims / f64::from(rounds), reports / f64::from(rounds))
}

#[test]
fn calls_touch_the_same_beside_any_history_and_whatever_the_statistics() {
    let server = Server::start_with(&["autovacuum=off", "shared_buffers=256MB", "max_wal_size=4GB"]);
    let database = server.database("history");
    let mut client = database.connect();
    let template_id = register_ladder(&mut client);
    let analyze = |client: &mut Client| {
        client.batch_execute("ANALYZE stepwise.tasks, stepwise.steps, stepwise.template_steps").unwrap();
    };
    let (claim, report) = one_by_one(&database, "no rows, no statistics");
    for finished in [1000, 1_000_000] {
        analyze(&mut client);
        add_finished(&mut client, template_id, finished);
        for when in ["statistics from before", "fresh statistics"] {
            let title = format!("beside {finished} finished steps, {when}");
            let (claim_now, report_now) = one_by_one(&database, &title);
            assert!(claim_now <= 1.25 * claim, "{title}: a claim touches {claim_now} buffers, {claim} without");
            assert!(report_now <= 1.25 * report, "{title}: a report touches {report_now} buffers, {report} without");
            analyze(&mut client);
        }
    }
    assert!(count(&mut client, "stepwise.steps") > 1_000_000);
}

//! Two ways to the readiness of a step have one answer: the native one, from counters, and the one in plain SQL, from
//! the parents' states and the history. Random walks of random tasks, compared after every command; at the end the
//! data are sound and the history amounts to the rows.
//!
//! Each walk is made of its seed alone. `PG_STEPWISE_SEED=n` repeats one walk, `PG_STEPWISE_WALKS=n` walks further.
mod cluster;

use cluster::random::Random;
use cluster::{Server, one, templates};
use postgres::types::ToSql;
use postgres::{Client, Statement};
use serde_json::{Value, json};
use std::env;

const WALKS: u64 = 50;
const COMMANDS: usize = 60;

/// Rows in which the answers differ, either way round. They read the clock one after the other, so what depends on the
/// time is compared unless a time of the step lies between `$2`, read before, and the clock after both answers.
const DIFFERENCES: &str = "SELECT format('task %s step %s: native %s, SQL %s', task_id, step_id, n.answer, d.answer) \
    FROM (SELECT task_id, step_id, to_jsonb(r) AS answer FROM stepwise.get_step_readiness_status_batch($1) AS r) AS n \
    FULL JOIN (SELECT r.task_id, r.step_id, to_jsonb(r) AS answer \
        FROM unnest($1::bigint[]) AS t, LATERAL stepwise.get_step_readiness_status_sql(t) AS r) AS d \
        USING (task_id, step_id) \
    LEFT JOIN stepwise.steps AS s USING (task_id, step_id) \
    WHERE n.answer - '{retry_eligible,ready_for_execution}'::text[] \
            IS DISTINCT FROM d.answer - '{retry_eligible,ready_for_execution}'::text[] \
        OR (n.answer IS DISTINCT FROM d.answer \
            AND ((d.answer ->> 'next_retry_at')::timestamptz BETWEEN $2::text::timestamptz AND stepwise.now_sql()) \
                IS NOT TRUE \
            AND (s.visible_at BETWEEN $2::text::timestamptz AND stepwise.now_sql()) IS NOT TRUE)";

/// Rows of tasks and steps that say something else than their history.
const NOT_REBUILT: &str = "WITH rebuilt AS ( \
        SELECT t AS task_id, r.step_id, r.state, r.attempts, r.last_attempted_at, r.last_failure_at, r.started_at, \
            r.finished_at FROM unnest($1::bigint[]) AS t, LATERAL stepwise.rebuild_task_state(t) AS r \
    ), stored AS ( \
        SELECT task_id, NULL::integer AS step_id, state, NULL::integer AS attempts, \
            NULL::timestamptz AS last_attempted_at, NULL::timestamptz AS last_failure_at, started_at, finished_at \
        FROM stepwise.tasks WHERE task_id = ANY ($1) \
        UNION ALL \
        SELECT task_id, step_id, state, attempts, last_attempted_at, last_failure_at, NULL, finished_at \
        FROM stepwise.steps WHERE task_id = ANY ($1) \
    ) \
    SELECT 'rebuilt ' || r::text FROM (TABLE rebuilt EXCEPT ALL TABLE stored) AS r \
    UNION ALL \
    SELECT 'stored ' || r::text FROM (TABLE stored EXCEPT ALL TABLE rebuilt) AS r";

const VIOLATIONS: &str = "SELECT format('%s task %s step %s: %s', v.invariant, v.task_id, v.step_id, v.detail) \
    FROM unnest($1::bigint[]) AS t, LATERAL stepwise.verify(t) AS v";

/// A template with steps of every temper; each depends on up to three of those before it.
fn definition(name: &str, steps: usize, random: &mut Random) -> Value {
    let steps: Vec<Value> = (0..steps)
        .map(|place| {
            let mut parents: Vec<String> = Vec::new();
            while place > 0 && parents.len() < 3 && random.percent(60) {
                // Near parents make chains, far ones shortcuts.
                let reach = if random.percent(70) { place.min(4) } else { place };
                let parent = format!("s{}", place - 1 - random.below(reach as u64) as usize);
                if !parents.contains(&parent) {
                    parents.push(parent);
                }
            }
            let jitter = [0.0, 0.0, 0.3, 1.0][random.below(4) as usize];
            let base = ["1s", "2500ms", "1 minute"][random.below(3) as usize];
            let cap = ["30s", "1h", "1.000001s"][random.below(3) as usize];
            if random.percent(5) {
                let timeout = ["0", "10 minutes"][random.below(2) as usize];
                return json!({"name": format!("s{place}"), "depends_on": parents, "queue": "left", "kind": "wait",
                    "timeout": timeout});
            }
            json!({
                "name": format!("s{place}"), "depends_on": parents,
                "queue": if random.percent(50) { "left" } else { "right" },
                "priority": random.below(3),
                "retry_limit": if random.percent(3) { 0 } else { 1 + random.below(4) },
                "retryable": random.percent(90), "skippable": random.percent(20), "timeout": "5 minutes",
                "delay": if random.percent(10) { "5 seconds" } else { "0" },
                "backoff": {"base": base, "cap": cap, "jitter": jitter},
            })
        })
        .collect();
    let mut definition = json!({"namespace": "walk", "name": name, "version": "1.0.0", "steps": steps});
    if random.percent(30) {
        definition["max_parallel_steps"] = (1 + random.below(3)).into();
    }
    if random.percent(30) {
        definition["concurrency_key"] = "/key".into();
        definition["max_per_key"] = (1 + random.below(4)).into();
    }
    if random.percent(20) {
        definition["timeout"] = "100 minutes".into();
    }
    definition
}

/// What explain_step says of each step, for a claim to be held against it.
const SAID: &str = "CREATE TEMP TABLE said ON COMMIT DROP AS \
    SELECT s.task_id, s.step_id, s.visible_at, min(e.detail) AS detail, \
        bool_or(e.reason = 'claimable') AS claimable, stepwise.now() AS at \
    FROM stepwise.steps AS s, LATERAL stepwise.explain_step(s.task_id, s.step_id) AS e \
    WHERE s.task_id = ANY ($1) GROUP BY s.task_id, s.step_id, s.visible_at";

/// Steps that were called claimable and are not handed out, or the other way round; but for those that have just become due.
const TAKEN: &str =
    "CREATE TEMP TABLE taken ON COMMIT DROP AS SELECT task_id, step_id FROM stepwise.claim_steps('probe', NULL, 1000)";
/// One that the claim has left may be under a limit that the claim itself has reached.
const NOT_EXPLAINED: &str = "SELECT format('task %s step %s: %s', said.task_id, said.step_id, said.detail) \
    FROM said LEFT JOIN taken USING (task_id, step_id) \
    WHERE said.claimable <> (taken.step_id IS NOT NULL) \
        AND (said.visible_at BETWEEN said.at AND stepwise.now()) IS NOT TRUE \
        AND NOT (said.claimable AND EXISTS (SELECT FROM stepwise.explain_step(said.task_id, said.step_id) AS e \
            WHERE e.reason LIKE '%_full'))";

/// The comparisons, planned once.
struct Checks {
    differences: Statement,
    not_rebuilt: Statement,
    violations: Statement,
}

impl Checks {
    fn prepare(client: &mut Client) -> Checks {
        let mut prepared = |sql| client.prepare(sql).expect("a comparison");
        Checks {
            differences: prepared(DIFFERENCES),
            not_rebuilt: prepared(NOT_REBUILT),
            violations: prepared(VIOLATIONS),
        }
    }
}

struct Walk<'a> {
    seed: u64,
    checks: &'a Checks,
    client: &'a mut Client,
    random: Random,
    tasks: Vec<i64>,
    steps: u64,
    /// Receipts that were handed out, the used and the stale too.
    receipts: Vec<String>,
    clock_offset: u64,
    log: Vec<String>,
}

impl Walk<'_> {
    fn give_up(&self, what: &str) -> ! {
        panic!("PG_STEPWISE_SEED={}: {what}\nafter:\n{}", self.seed, self.log.join("\n"));
    }

    /// Runs a command; the rules may refuse it.
    fn command(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Vec<postgres::Row> {
        self.log.push(format!("{sql} {params:?}"));
        match self.client.query(sql, params) {
            Ok(rows) => rows,
            Err(error) if error.code().is_some_and(|state| state.code() == "55000") => {
                self.log.push("  refused".to_owned());
                Vec::new()
            }
            Err(error) => self.give_up(&format!("{error:?}")),
        }
    }

    fn expect_none(&mut self, what: &str, check: &Statement, params: &[&(dyn ToSql + Sync)]) {
        let rows = self.client.query(check, params).unwrap_or_else(|error| self.give_up(&format!("{error:?}")));
        if !rows.is_empty() {
            let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            self.give_up(&format!("{what}:\n{}", rows.join("\n")));
        }
    }

    fn compare(&mut self) {
        let before: String = one(self.client, "SELECT stepwise.now_sql()::text", &[]);
        let tasks = self.tasks.clone();
        self.expect_none("the answers differ", &self.checks.differences, &[&tasks, &before]);
    }

    fn check(&mut self) {
        let tasks = self.tasks.clone();
        self.expect_none("the history says something else", &self.checks.not_rebuilt, &[&tasks]);
        self.expect_none("an invariant is broken", &self.checks.violations, &[&tasks]);
    }

    /// explain_step says "claimable" of exactly the steps that a claim hands out.
    fn explained(&mut self) {
        let run = |client: &mut Client, sql: &str| client.batch_execute(sql).expect("a transaction");
        let tasks = self.tasks.clone();
        run(self.client, "BEGIN");
        self.client.execute(SAID, &[&tasks]).unwrap_or_else(|error| self.give_up(&format!("{error:?}")));
        self.client.execute(TAKEN, &[]).unwrap_or_else(|error| self.give_up(&format!("{error:?}")));
        let rows = self.client.query(NOT_EXPLAINED, &[]).unwrap_or_else(|error| self.give_up(&format!("{error:?}")));
        run(self.client, "ROLLBACK");
        if !rows.is_empty() {
            let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            self.give_up(&format!("a claim does not do what was explained:\n{}", rows.join("\n")));
        }
    }

    fn task(&mut self) -> i64 {
        self.tasks[self.random.below(self.tasks.len() as u64) as usize]
    }

    /// Any step, or one in error: what operators care for.
    fn step(&mut self, task: i64) -> i32 {
        if self.random.percent(50) {
            let sql =
                "SELECT step_id FROM stepwise.steps WHERE task_id = $1 AND state = 'error' ORDER BY step_id LIMIT 1";
            if let Ok(Some(row)) = self.client.query_opt(sql, &[&task]) {
                return row.get(0);
            }
        }
        1 + self.random.below(self.steps) as i32
    }

    /// Mostly one of the last.
    fn receipt(&mut self) -> Option<String> {
        let count = self.receipts.len() as u64;
        let reach = if self.random.percent(90) { count.min(5) } else { count };
        let place = count.checked_sub(1 + self.random.below(reach.max(1)))?;
        self.receipts.get(place as usize).cloned()
    }

    fn claim(&mut self, most: u64) {
        let most = 1 + self.random.below(most) as i32;
        let lease = [None, Some("20 seconds"), Some("1 hour")][self.random.below(3) as usize];
        let queues = [None, Some("{left}"), Some("{right}")][self.random.below(3) as usize];
        let sql = "SELECT receipt::text FROM stepwise.claim_steps('w', $1::text::text[], $2, $3::text::interval)";
        let rows = self.command(sql, &[&queues, &most, &lease]);
        self.receipts.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }

    fn report(&mut self) {
        let Some(receipt) = self.receipt() else { return };
        match self.random.below(10) {
            0..=3 => {
                let results = self.random.percent(50).then_some("{\"done\": true}");
                self.command("SELECT stepwise.complete_step($1::text::uuid, $2::text::jsonb)", &[&receipt, &results]);
            }
            4..=7 => {
                let error = self.random.percent(50).then_some("{\"code\": 500}");
                let retryable = [None, None, Some(true), Some(false)][self.random.below(4) as usize];
                let after =
                    [None, None, Some("0"), Some("7 seconds"), Some("1.5 hours")][self.random.below(5) as usize];
                let sql = "SELECT stepwise.fail_step($1::text::uuid, $2::text::jsonb, $3, $4::text::interval)";
                self.command(sql, &[&receipt, &error, &retryable, &after]);
            }
            8 => {
                self.command("SELECT stepwise.release_step($1::text::uuid)", &[&receipt]);
            }
            _ => {
                self.command("SELECT stepwise.extend_lease($1::text::uuid, '10 minutes')", &[&receipt]);
            }
        }
    }

    /// A good worker: claims many, completes them.
    fn progress(&mut self) {
        self.claim(30);
        let receipts = self.receipts.clone();
        let last = &receipts[receipts.len().saturating_sub(30)..];
        self.command("SELECT outcome FROM stepwise.complete_steps($1::text[]::uuid[])", &[&last]);
    }

    fn forward(&mut self) {
        self.clock_offset += match self.random.below(10) {
            0..=6 => 1 + self.random.below(10),
            7..=8 => 60,
            // Every lease is over.
            _ => 7200,
        };
        self.command(&format!("SET stepwise.clock_offset = '{} seconds'", self.clock_offset), &[]);
    }

    fn operate(&mut self) {
        let task = self.task();
        let step = self.step(task);
        match self.random.below(24) {
            20..=21 => self.command(
                "SELECT stepwise.signal_step(s.task_id, s.step_id, '{\"by\": 1}') FROM stepwise.steps AS s \
                     JOIN stepwise.template_steps AS e USING (template_id, step_id) \
                     WHERE s.task_id = $1 AND e.kind = 'wait' AND s.state = 'pending' ORDER BY s.step_id LIMIT 1",
                &[&task],
            ),
            22 => self.command("SELECT * FROM stepwise.tick()", &[]),
            23 => {
                let most = [0, 0, 1, 2, 5][self.random.below(5) as usize];
                self.command("SELECT stepwise.set_queue_limit('right', $1)", &[&most])
            }
            0..=4 => self.command("SELECT stepwise.reset_step($1, $2::integer, 'again')", &[&task, &step]),
            5..=6 => self.command("SELECT stepwise.resolve_step($1, $2::integer, '[1]')", &[&task, &step]),
            7 => self.command("SELECT stepwise.cancel_step($1, $2::integer)", &[&task, &step]),
            8..=10 => {
                let backoff = ["0", "3 seconds", "2.5 minutes"][self.random.below(3) as usize];
                self.command(
                    "SELECT stepwise.set_backoff($1, $2::integer, $3::text::interval)",
                    &[&task, &step, &backoff],
                )
            }
            11..=13 => self.command("SELECT stepwise.release_backoff($1, 'go on')", &[&task]),
            14..=16 => self.command("SELECT stepwise.retry_task($1)", &[&task]),
            17 => {
                let sql = "UPDATE stepwise.steps SET state = 'skipped' \
                    WHERE task_id = $1 AND step_id = $2 AND state = 'pending'";
                self.command(sql, &[&task, &step])
            }
            18 => self.command("UPDATE stepwise.queues SET paused = NOT paused WHERE name = 'left'", &[]),
            _ if self.random.percent(20) => self.command("SELECT stepwise.cancel_task($1)", &[&task]),
            _ => Vec::new(),
        };
    }

    fn run(&mut self) {
        for number in 0..COMMANDS {
            match self.random.below(20) {
                0..=4 => self.claim(5),
                5..=10 => self.report(),
                11..=13 => self.progress(),
                14..=16 => self.forward(),
                _ => self.operate(),
            }
            self.compare();
            if number % 20 == 0 {
                self.explained();
                self.check();
            }
        }
        // What is left runs as far as it can, every backoff, delay and lease over.
        self.command("UPDATE stepwise.queues SET paused = false, max_in_flight = 0", &[]);
        for _ in 0..10 {
            self.clock_offset += 7200;
            self.command(&format!("SET stepwise.clock_offset = '{} seconds'", self.clock_offset), &[]);
            let waiting = "SELECT stepwise.signal_step(s.task_id, s.step_id) FROM stepwise.steps AS s \
                JOIN stepwise.template_steps AS e USING (template_id, step_id) \
                WHERE s.task_id = ANY ($1) AND e.kind = 'wait' AND s.state = 'pending'";
            self.command(waiting, &[&self.tasks.clone()]);
            self.progress();
        }
        // In some walks an operator then settles what has failed, until the tasks are at their ends.
        for _ in 0..if self.random.percent(50) { 10 } else { 0 } {
            let failed = "SELECT task_id, step_id FROM stepwise.steps \
                WHERE task_id = ANY ($1) AND state = 'error' ORDER BY 1, 2";
            for row in self.command(failed, &[&self.tasks.clone()]) {
                let (task, step): (i64, i32) = (row.get(0), row.get(1));
                self.command("SELECT stepwise.resolve_step($1, $2::integer)", &[&task, &step]);
            }
            self.compare();
            self.progress();
        }
        self.compare();
        self.explained();
        self.check();
    }
}

/// Tasks of a new template, one of them bypassed in part, one delayed; walked.
fn walk(client: &mut Client, checks: &Checks, seed: u64) {
    let mut random = Random(seed);
    let steps = match random.below(20) {
        0..=9 => 1 + random.below(8),
        10..=16 => 9 + random.below(32),
        _ => 41 + random.below(160),
    };
    let name = format!("walk{seed}");
    let definition = definition(&name, steps as usize, &mut random);
    templates::register(client, &definition);
    let bypass: Vec<&str> = definition["steps"]
        .as_array()
        .expect("a template has steps")
        .iter()
        .filter(|step| step["skippable"] == true)
        .filter_map(|step| step["name"].as_str())
        .collect();
    let create = "SELECT stepwise.create_task($1, '{\"key\": 1}', bypass_steps => $2, \
        run_at => stepwise.now() + $3::text::interval, priority => 1)";
    let (none, delay): (Vec<&str>, [Option<&str>; 2]) = (Vec::new(), [None, Some("30 seconds")]);
    let mut tasks: Vec<i64> = vec![one(client, create, &[&name, &none, &delay[0]])];
    if random.percent(50) {
        tasks.push(one(client, create, &[&name, &bypass, &delay[random.below(2) as usize]]));
    }
    let log = vec![format!("{definition}")];
    let mut walk = Walk { seed, checks, client, random, tasks, steps, receipts: Vec::new(), clock_offset: 0, log };
    walk.compare();
    walk.run();
    // The next walk has its queues for itself.
    for task in walk.tasks.clone() {
        walk.command("SELECT stepwise.cancel_task($1)", &[&task]);
    }
    walk.compare();
    walk.check();
    walk.command("RESET stepwise.clock_offset", &[]);
}

#[test]
fn native_and_sql_readiness_agree_on_every_walk() {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("PG_STEPWISE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..number("PG_STEPWISE_WALKS").unwrap_or(WALKS) + 1,
    };
    let server = Server::start();
    let database = server.database("differential");
    let mut client = database.connect();
    let checks = Checks::prepare(&mut client);
    for seed in seeds {
        walk(&mut client, &checks, seed);
    }
    // Every change that a step may make, and backoffs set on both kinds of waiting steps: or the walks have gone astray.
    let kinds: i64 = one(
        &mut client,
        "SELECT count(DISTINCT (from_state, to_state)) FROM stepwise.transitions WHERE step_id IS NOT NULL",
        &[],
    );
    assert!(env::var("PG_STEPWISE_SEED").is_ok() || kinds == 16, "{kinds} kinds of change");
    let unsound: i64 = one(&mut client, "SELECT count(*) FROM stepwise.verify()", &[]);
    assert_eq!(unsound, 0);
}

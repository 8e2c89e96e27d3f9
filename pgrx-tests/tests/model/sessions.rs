//! Several sessions at once: a round of random commands over shared tasks, each call over whichever connection comes, then
//! a drain in which every task must reach its end, then the histories are replayed (`replay`).
use crate::cluster::random::Random;
use crate::cluster::{Database, one};
use crate::command::LEVELS;
use crate::replay::{self, Entry, Round};
use crate::settings::{Progress, Settings};
use crate::shape::{QUEUES, Shape, Temper};
use postgres::Client;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::thread;

/// Calls of one session in one round.
const CALLS: usize = 120;
/// Transactions that meet each other are repeated so often.
const MOST_TRIES: usize = 100;

/// What the sessions of a round share.
struct Shared<'a> {
    database: &'a Database,
    level: &'a str,
    shapes: &'a [Shape],
    /// Calls in one transaction at most. Calls that follow each other in one transaction may meet those of another one
    /// crosswise; a call alone may not.
    calls_at_once: u64,
    /// The clock stands, so that no claim ends leases, and nobody signals or skips: what is left never locks crosswise.
    punctual: bool,
    /// Minutes that the clock of all sessions is ahead.
    clock: AtomicI64,
    tasks: Mutex<Vec<i64>>,
    receipts: Mutex<Vec<String>>,
    payloads: AtomicUsize,
    retries: AtomicUsize,
    deadlocks: AtomicUsize,
    /// An error that no call may end with.
    unexpected: Mutex<Option<String>>,
}

struct Worker<'a> {
    shared: &'a Shared<'a>,
    name: String,
    connections: Vec<Client>,
    random: Random,
    log: Vec<Entry>,
    calls: usize,
}

/// What reports say: the receipt, the state that is asked for, and the payload.
type Told = Vec<(String, &'static str, Option<i64>)>;

/// A call and what it says, to be logged once it is committed.
enum Call {
    Create(String),
    Claim(String),
    Report(String, Told),
    Both(String, Told),
    Purge(String),
    Other(String),
}

impl Call {
    fn sql(&self) -> &str {
        match self {
            Call::Create(sql) | Call::Claim(sql) | Call::Report(sql, _) | Call::Both(sql, _) => sql,
            Call::Purge(sql) | Call::Other(sql) => sql,
        }
    }
}

const CLAIMED: &str =
    "receipt::text, task_id, step_id, attempt, (extract(epoch FROM lease_expires_at) * 1000000)::bigint";

fn array(values: &[String], of: &str) -> String {
    format!("ARRAY[{}]::{of}[]", values.join(", "))
}

impl Worker<'_> {
    fn task(&mut self) -> i64 {
        let tasks = self.shared.tasks.lock().expect("no session panics");
        let reach = tasks.len().min(4) as u64;
        tasks[tasks.len() - 1 - self.random.below(reach) as usize]
    }

    /// Receipts of any session: so reports come twice, at the same time, and late.
    fn receipts(&mut self, most: u64) -> Vec<String> {
        let receipts = self.shared.receipts.lock().expect("no session panics");
        let reach = receipts.len().min(20) as u64;
        let count = (1 + self.random.below(most)).min(reach);
        (0..count).map(|_| receipts[receipts.len() - 1 - self.random.below(reach) as usize].clone()).collect()
    }

    fn claim_arguments(&mut self) -> String {
        let queues = ["NULL", "NULL", "NULL", "'{north}'", "'{south,west}'"][self.random.below(5) as usize];
        let most = [1, 2, 5, 20][self.random.below(4) as usize];
        let lease = ["NULL", "NULL", "'10 minutes'"][self.random.below(3) as usize];
        format!("queues => {queues}, max_steps => {most}, lease => {lease}")
    }

    /// Reports about some receipts: the arrays of arguments, and what is to be logged.
    fn reports(&mut self, state: &'static str) -> (Vec<String>, Told) {
        // Large batches overlap more.
        let receipts = self.receipts(if self.shared.punctual { 16 } else { 6 });
        let mut told = Vec::new();
        for receipt in &receipts {
            told.push((receipt.clone(), state, Some(self.shared.payloads.fetch_add(1, Relaxed) as i64)));
        }
        let quoted: Vec<String> = receipts.iter().map(|receipt| format!("'{receipt}'")).collect();
        let payloads: Vec<String> = told.iter().map(|told| format!("'{}'", told.2.unwrap_or(0))).collect();
        (vec![array(&quoted, "uuid"), array(&payloads, "jsonb")], told)
    }

    fn random_call(&mut self) -> Call {
        let shape = &self.shared.shapes[self.random.below(self.shared.shapes.len() as u64) as usize];
        let task = self.task();
        let step = 1 + self.random.below(4);
        match self.random.below(100) {
            0..=6 => {
                let keys: Vec<String> = (0..1 + self.random.below(3))
                    .map(|_| match self.random.below(3) {
                        0 => format!("'key {}'", self.random.below(3)),
                        _ => "NULL".to_owned(),
                    })
                    .collect();
                let contexts: Vec<String> =
                    keys.iter().map(|_| format!("'{}'", json!({"key": self.random.below(2)}))).collect();
                Call::Create(format!(
                    "SELECT id FROM stepwise.create_tasks('{}', {}, identity_keys => {}) AS id",
                    shape.name,
                    array(&contexts, "jsonb"),
                    array(&keys, "text")
                ))
            }
            7..=29 => {
                let arguments = self.claim_arguments();
                Call::Claim(format!("SELECT {CLAIMED} FROM stepwise.claim_steps('{}', {arguments})", self.name))
            }
            30..=44 => {
                let (arguments, told) = self.reports("complete");
                let arguments = arguments.join(", ");
                Call::Report(format!("SELECT outcome, receipt::text FROM stepwise.complete_steps({arguments})"), told)
            }
            45..=54 => {
                let (arguments, told) = self.reports("error");
                let arguments = arguments.join(", ");
                Call::Report(format!("SELECT outcome, receipt::text FROM stepwise.fail_steps({arguments})"), told)
            }
            55..=69 => {
                let (done, mut told) = self.reports("complete");
                let (failed, failures) = self.reports("error");
                told.extend(failures);
                let arguments = self.claim_arguments();
                let sql = format!(
                    "SELECT outcome, {CLAIMED} FROM stepwise.report_and_claim('{}', completed => {}, results => {}, \
                     failed => {}, errors => {}, {arguments})",
                    self.name, done[0], done[1], failed[0], failed[1]
                );
                Call::Both(sql, told)
            }
            70..=73 => match self.receipts(1).first() {
                Some(receipt) => Call::Other(format!("SELECT stepwise.release_step('{receipt}')")),
                None => Call::Other("SELECT 1".into()),
            },
            74..=75 => match self.receipts(1).first() {
                Some(receipt) => Call::Other(format!("SELECT stepwise.extend_lease('{receipt}', '1 day')")),
                None => Call::Other("SELECT 1".into()),
            },
            76..=77 => Call::Other(format!("SELECT stepwise.cancel_step({task}, {step})")),
            78..=80 => Call::Other(format!("SELECT stepwise.reset_step({task}, {step})")),
            81..=82 => Call::Other(format!("SELECT stepwise.resolve_step({task}, {step})")),
            83 => Call::Other(format!("SELECT stepwise.cancel_task({task})")),
            84..=85 => Call::Other(format!("SELECT stepwise.retry_task({task})")),
            86 => Call::Other(format!("SELECT stepwise.set_backoff({task}, {step}, '20 minutes')")),
            87 => Call::Other(format!("SELECT stepwise.release_backoff({task})")),
            88..=91 if self.shared.punctual => Call::Other("SELECT stepwise.next_visible_at()".into()),
            88..=90 => Call::Other(format!("SELECT stepwise.signal_step({task}, {step})")),
            91 => Call::Other(format!(
                "UPDATE stepwise.steps SET state = 'skipped' WHERE task_id = {task} AND step_id = {step}"
            )),
            92..=93 => Call::Other("SELECT * FROM stepwise.tick()".into()),
            94 => Call::Purge("SELECT stepwise.purge_tasks('0', 2)".into()),
            95 => Call::Other(
                "SELECT count(*) FROM stepwise.get_task_execution_contexts_batch(\
                (SELECT array_agg(task_id) FROM stepwise.tasks))"
                    .into(),
            ),
            _ if self.shared.punctual => Call::Other("SELECT stepwise.next_visible_at()".into()),
            _ => {
                self.shared.clock.fetch_add([10, 10, 30, 100][self.random.below(4) as usize], Relaxed);
                Call::Other("SELECT stepwise.now()".into())
            }
        }
    }

    /// Runs one call; what it says that has come of it.
    fn call(client: &mut Client, call: &Call, worker: &str) -> Result<Vec<Entry>, postgres::Error> {
        let rows = client.query(call.sql(), &[])?;
        let claimed = |row: &postgres::Row, first: usize| Entry::Claimed {
            receipt: row.get(first),
            task: row.get(first + 1),
            step: row.get::<_, i32>(first + 2) as usize,
            attempt: row.get(first + 3),
            worker: worker.to_owned(),
            lease_ends: row.get(first + 4),
        };
        let reported = |row: &postgres::Row, told: &(String, &'static str, Option<i64>)| Entry::Reported {
            receipt: told.0.clone(),
            to: told.1,
            payload: told.2,
            outcome: row.get(0),
        };
        Ok(match call {
            Call::Create(_) => rows.iter().map(|row| Entry::Created(row.get(0))).collect(),
            Call::Claim(_) => rows.iter().map(|row| claimed(row, 0)).collect(),
            Call::Report(_, told) => rows.iter().zip(told).map(|(row, told)| reported(row, told)).collect(),
            Call::Both(_, told) => {
                let mut entries: Vec<Entry> = rows.iter().zip(told).map(|(row, told)| reported(row, told)).collect();
                entries.extend(rows[told.len()..].iter().map(|row| claimed(row, 1)));
                entries
            }
            Call::Purge(_) => vec![Entry::Purged(rows[0].get::<_, i32>(0) as usize)],
            Call::Other(_) => Vec::new(),
        })
    }

    /// A transaction over one connection, which comes from a pool and forgets all in between.
    fn transact(&mut self, calls: &[Call]) {
        let commits = self.random.percent(85);
        for _ in 0..MOST_TRIES {
            let turn = self.random.below(self.connections.len() as u64) as usize;
            let client = &mut self.connections[turn];
            let (level, ahead) = (self.shared.level, self.shared.clock.load(Relaxed));
            let begin = format!("SET stepwise.clock_offset = '{ahead} minutes'; BEGIN ISOLATION LEVEL {level}");
            client.batch_execute("DISCARD ALL").expect("no transaction is open");
            client.batch_execute(&begin).expect("a transaction begins");
            let mut entries = Vec::new();
            let mut done = Ok(());
            for call in calls {
                match Self::call(client, call, &self.name) {
                    Ok(more) => entries.extend(more),
                    Err(error) => {
                        done = Err(error);
                        break;
                    }
                }
            }
            let ended = match done {
                Ok(()) if commits => client.batch_execute("COMMIT"),
                Ok(()) => {
                    client.batch_execute("ROLLBACK").expect("it can be rolled back");
                    // Whoever keeps the receipts of a claim that was rolled back has nothing.
                    self.remember(&entries);
                    return;
                }
                Err(error) => Err(error),
            };
            let Err(error) = ended else {
                self.remember(&entries);
                self.log.append(&mut entries);
                return;
            };
            client.batch_execute("ROLLBACK").expect("it can be rolled back");
            match error.code().map(|code| code.code()) {
                Some("40001") => drop(self.shared.retries.fetch_add(1, Relaxed)),
                Some("40P01") => drop(self.shared.deadlocks.fetch_add(1, Relaxed)),
                Some("55000" | "P0002") => return,
                _ => return self.fail(format!("{error:?}")),
            }
        }
        let calls: Vec<&str> = calls.iter().map(Call::sql).collect();
        self.fail(format!("a transaction was repeated {MOST_TRIES} times in vain: {}", calls.join("; ")));
    }

    /// Ends the round.
    fn fail(&self, what: String) {
        *self.shared.unexpected.lock().expect("no session panics") = Some(what);
    }

    fn remember(&self, entries: &[Entry]) {
        for entry in entries {
            match entry {
                Entry::Claimed { receipt, .. } => {
                    self.shared.receipts.lock().expect("no session panics").push(receipt.clone())
                }
                Entry::Created(task) => self.shared.tasks.lock().expect("no session panics").push(*task),
                _ => {}
            }
        }
    }

    fn run(&mut self) {
        while self.calls < CALLS && self.shared.unexpected.lock().expect("no session panics").is_none() {
            let count = 1 + self.random.below(self.shared.calls_at_once) as usize;
            let calls: Vec<Call> = (0..count).map(|_| self.random_call()).collect();
            self.calls += count;
            self.transact(&calls);
        }
    }
}

/// Works until nothing is left to do, alone: every task must reach its end.
fn drain(client: &mut Client, minutes: i64) -> Result<Vec<Entry>, String> {
    let mut log = Vec::new();
    let mut ahead = minutes;
    let open = "SELECT count(*) FROM stepwise.tasks WHERE state IN ('pending', 'in_progress')";
    for _ in 0..200 {
        if one::<i64>(client, open, &[]) == 0 {
            return Ok(log);
        }
        ahead += 100;
        let clock = format!("SET stepwise.clock_offset = '{ahead} minutes'");
        client.batch_execute(&clock).expect("a superuser may");
        // What only an operator or a signal can settle.
        let stuck = "SELECT stepwise.resolve_step(s.task_id, s.step_id) FROM stepwise.steps s \
            JOIN stepwise.template_steps r USING (template_id, step_id) \
            WHERE s.state = 'pending' AND s.visible_at = 'infinity' ORDER BY 1";
        client.query(stuck, &[]).map_err(|error| format!("{error:?}"))?;
        client.query("SELECT * FROM stepwise.tick()", &[]).map_err(|error| format!("{error:?}"))?;
        let claim = Call::Claim(format!("SELECT {CLAIMED} FROM stepwise.claim_steps('drain', NULL, 1000)"));
        let claimed = Worker::call(client, &claim, "drain").map_err(|error| format!("{error:?}"))?;
        let mut told = Vec::new();
        for entry in &claimed {
            if let Entry::Claimed { receipt, .. } = entry {
                told.push((receipt.clone(), "complete", None));
            }
        }
        log.extend(claimed);
        if !told.is_empty() {
            let receipts: Vec<String> = told.iter().map(|told| format!("'{}'", told.0)).collect();
            let sql =
                format!("SELECT outcome, receipt::text FROM stepwise.complete_steps({})", array(&receipts, "uuid"));
            let reported = Worker::call(client, &Call::Report(sql, told), "drain");
            log.extend(reported.map_err(|error| format!("{error:?}"))?);
        }
    }
    let hangs = "SELECT t::text || ' ' || s::text FROM stepwise.tasks t JOIN stepwise.steps s USING (task_id) \
        WHERE t.state IN ('pending', 'in_progress')";
    let rows: Vec<String> = client.query(hangs, &[]).expect("a query").iter().map(|row| row.get(0)).collect();
    Err(format!("a task never ends:\n{}", rows.join("\n")))
}

fn prepare(client: &mut Client, shapes: &[Shape], random: &mut Random) -> BTreeMap<String, usize> {
    let sql = "SET session_replication_role = replica; \
        TRUNCATE stepwise.tasks, stepwise.steps, stepwise.transitions, stepwise.slots; \
        RESET session_replication_role; UPDATE stepwise.queues SET paused = false, max_in_flight = 0";
    client.batch_execute(sql).expect("a superuser may");
    let all: Vec<Value> = QUEUES.iter().map(|queue| json!({"name": queue, "queue": queue})).collect();
    let queues = json!({"namespace": "model", "name": "queues", "version": "1.0.0", "steps": all});
    for definition in shapes.iter().map(Shape::definition).chain([queues]) {
        one::<i64>(client, "SELECT stepwise.register_template($1::text::jsonb)", &[&definition.to_string()]);
    }
    let mut limits = BTreeMap::new();
    for queue in QUEUES {
        if random.percent(20) {
            let most = 1 + random.below(3) as i32;
            client.execute("SELECT stepwise.set_queue_limit($1, $2)", &[&queue, &most]).expect("a limit");
            limits.insert(queue.to_owned(), most as usize);
        }
    }
    limits
}

/// One round; what it has done.
fn round(database: &Database, seed: u64, level: &str, sessions: usize) -> Result<Done, String> {
    // Calls alone while the clock stands, calls alone, and several in one transaction.
    let (punctual, calls_at_once) = [(true, 1), (false, 1), (false, 4)][(seed / 3 % 3) as usize];
    let mut random = Random(seed);
    let temper = Temper { deadlines: random.percent(15), ..Temper::random(&mut random) };
    let count = 1 + random.below(3);
    let shapes: Vec<Shape> = (0..count).map(|n| Shape::random(&format!("r{seed}_{n}"), temper, &mut random)).collect();
    let mut client = database.connect();
    let limits = prepare(&mut client, &shapes, &mut random);
    let first: Vec<i64> = shapes
        .iter()
        .map(|shape| one(&mut client, "SELECT stepwise.create_task($1, '{\"key\": 1}')", &[&shape.name]))
        .collect();
    let shared = Shared {
        database,
        level,
        shapes: &shapes,
        calls_at_once,
        punctual,
        clock: AtomicI64::new(0),
        tasks: Mutex::new(first.clone()),
        receipts: Mutex::new(Vec::new()),
        payloads: AtomicUsize::new(1),
        retries: AtomicUsize::new(0),
        deadlocks: AtomicUsize::new(0),
        unexpected: Mutex::new(None),
    };
    let worker = |number: usize, seed: u64| {
        let connections = (0..2).map(|_| shared.database.connect()).collect();
        let (shared, name) = (&shared, format!("w{number}"));
        let mut worker = Worker { shared, name, connections, random: Random(seed), log: Vec::new(), calls: 0 };
        worker.run();
        (worker.log, worker.calls)
    };
    let seeds: Vec<u64> = (0..sessions).map(|_| random.next()).collect();
    let (mut log, mut calls) = (first.into_iter().map(Entry::Created).collect::<Vec<Entry>>(), 0);
    thread::scope(|scope| {
        let threads: Vec<_> =
            seeds.into_iter().enumerate().map(|(number, seed)| scope.spawn(move || worker(number, seed))).collect();
        for thread in threads {
            let (more, count) = thread.join().expect("a session ends");
            log.extend(more);
            calls += count;
        }
    });
    if let Some(error) = shared.unexpected.lock().expect("no session panics").take() {
        return Err(format!("a call failed: {error}"));
    }
    let accepted = |entry: &&Entry| matches!(entry, Entry::Reported { outcome, .. } if outcome == "accepted");
    let accepted = log.iter().filter(accepted).count();
    let purged = log.iter().map(|entry| if let Entry::Purged(count) = entry { *count } else { 0 }).sum();
    log.extend(drain(&mut client, shared.clock.load(Relaxed))?);
    let round = Round { shapes: &shapes, limits: &limits, log: &log };
    let events = replay::check(&mut client, &round)?;
    let deadlocks = shared.deadlocks.load(Relaxed);
    if deadlocks > 0 && punctual {
        return Err(format!("{deadlocks} deadlocks between single calls"));
    }
    let late = if calls_at_once == 1 { deadlocks } else { 0 };
    let (retries, deadlocks) = (shared.retries.load(Relaxed), deadlocks - late);
    Ok(Done { rounds: 1, calls, accepted, purged, events, retries, deadlocks, late })
}

#[derive(Default)]
pub struct Done {
    pub rounds: usize,
    pub calls: usize,
    /// Reports that counted, and tasks that were purged, before the drain.
    pub accepted: usize,
    pub purged: usize,
    pub events: usize,
    pub retries: usize,
    /// Of transactions with several calls.
    pub deadlocks: usize,
    /// Of single calls while leases end.
    pub late: usize,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Done { rounds, calls, accepted, purged, events, retries, deadlocks, late } = self;
        write!(
            f,
            "several sessions: {calls} calls in {rounds} rounds, {accepted} reports accepted, {purged} tasks purged, {events} \
             transitions replayed; {retries} transactions \
             repeated after 40001, {deadlocks} of several calls and {late} of one after 40P01"
        )
    }
}

/// So many rounds are made however long they take: each level with each kind of round.
const ROUNDS: usize = 9;

impl Done {
    /// That sessions have done something: where every call is refused, nothing differs either.
    pub fn assert_all_was_met(&self, settings: &Settings) {
        assert!(self.accepted > self.rounds && self.purged > 0, "the sessions have done too little: {self}");
        let refused = settings.isolation.as_deref() != Some(LEVELS[0]) && settings.sessions > 1;
        assert!(!refused || self.retries > 0, "no transaction was refused with 40001: {self}");
    }
}

pub struct Found {
    pub seed: u64,
    pub level: String,
    /// Calls until it was found.
    pub operations: usize,
    pub what: String,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Found { seed, level, what, operations } = self;
        write!(
            f,
            "round {seed} of several sessions at {level}:\n{what}\n\nfound after {operations} calls; to repeat it: make model SEED={seed}"
        )
    }
}

/// Rounds at one level after the other; or the first that fails.
pub fn check(database: &Database, settings: &Settings) -> Result<Done, Box<Found>> {
    let mut progress = Progress::new();
    let mut done = Done::default();
    for seed in settings.first_seed(&mut database.connect()).. {
        let in_time = progress.elapsed() < settings.time || done.rounds < ROUNDS;
        if done.calls >= settings.operations || !in_time {
            break;
        }
        let level = settings.isolation.clone().unwrap_or_else(|| LEVELS[(seed % 3) as usize].to_owned());
        let operations = done.calls;
        let one = round(database, seed, &level, settings.sessions)
            .map_err(|what| Box::new(Found { seed, level: level.clone(), operations, what }))?;
        done = Done {
            rounds: done.rounds + 1,
            calls: done.calls + one.calls,
            accepted: done.accepted + one.accepted,
            purged: done.purged + one.purged,
            events: done.events + one.events,
            retries: done.retries + one.retries,
            deadlocks: done.deadlocks + one.deadlocks,
            late: done.late + one.late,
        };
        progress.tell(|| format!("{done}"));
    }
    Ok(done)
}

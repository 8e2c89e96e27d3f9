//! Runs commands against the database and the model, and holds the one against the other after each.
mod operate;
mod work;

use crate::cluster::random::Random;
use crate::command::{Command, Pick};
use crate::observe::Observer;
use crate::rules::operate::NewTask;
use crate::rules::work::{Receipt, Refusal};
use crate::rules::{Key, Model, Queue, State};
use crate::session::{Answer, Session, json_of};
use crate::shape::{QUEUES, Shape, Temper, interval};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A walk's templates and commands, all from its seed.
#[derive(Clone)]
pub struct Plan {
    pub seed: u64,
    pub shapes: Vec<Shape>,
    pub commands: Vec<Command>,
}

impl Plan {
    pub fn random(seed: u64, length: usize) -> Plan {
        let mut random = Random(seed);
        let temper = Temper::random(&mut random);
        let shapes = (0..1 + random.below(3)).map(|n| Shape::random(&format!("w{seed}_{n}"), temper, &mut random));
        let shapes = shapes.collect();
        let commands = (0..length).map(|_| Command::random(&mut random, temper.limits, temper.waits)).collect();
        Plan { seed, shapes, commands }
    }
}

/// Why a walk ended before its end.
pub enum End {
    /// The database does something else than the model.
    Differs(String),
    /// The machine was too busy to tell the walk's times apart.
    TooSlow,
}

type Step = Result<(), End>;

/// A receipt, and how a script that claims it says it.
#[derive(Clone)]
struct Held {
    receipt: Receipt,
    sql: String,
}

pub struct Walk<'a> {
    session: &'a mut Session,
    observer: Observer,
    model: Model,
    shapes: Vec<Rc<Shape>>,
    /// Ids and the variables that hold them.
    tasks: Vec<(i64, String)>,
    receipts: Vec<Held>,
    /// The models of the open transaction: at its begin, and at each savepoint.
    saved: Vec<Model>,
    /// Commands that ran.
    pub operations: usize,
    named: usize,
    /// How often each change of state and each answer was met: walks that miss some prove little.
    pub seen: BTreeMap<String, usize>,
}

fn quoted(value: &Value) -> String {
    format!("'{}'", value.to_string().replace('\'', "''"))
}

fn or_null(value: Option<String>) -> String {
    value.unwrap_or_else(|| "NULL".to_owned())
}

fn duration(time: i64) -> String {
    format!("interval '{}'", interval(time))
}

impl<'a> Walk<'a> {
    pub fn new(session: &'a mut Session, plan: &Plan) -> Walk<'a> {
        session.forget();
        let run = |session: &mut Session, text: &str| {
            session.run(text).unwrap_or_else(|refused| panic!("{text}: {refused:?}"))
        };
        run(session, "SET stepwise.clock_offset = '0'");
        let shapes = plan.shapes.iter().cloned().map(Rc::new).collect();
        let all = json!({"namespace": "model", "name": "queues", "version": "1.0.0",
            "steps": QUEUES.map(|queue| json!({"name": queue, "queue": queue}))});
        run(session, &format!("SELECT stepwise.register_template({})", quoted(&all)));
        run(session, "UPDATE stepwise.queues SET paused = false, max_in_flight = 0");
        let mut model = Model::default();
        model.queues = QUEUES.map(|queue| (queue.to_owned(), Queue::default())).into();
        let observer = Observer::new(&mut session.client);
        let (tasks, receipts, saved) = (Vec::new(), Vec::new(), Vec::new());
        Walk {
            session,
            observer,
            model,
            shapes,
            tasks,
            receipts,
            saved,
            operations: 0,
            named: 0,
            seen: BTreeMap::new(),
        }
    }

    /// Runs all commands; then the data are sound by the extension's own word, too.
    pub fn run(&mut self, commands: &[Command]) -> Step {
        for command in commands {
            self.command(command)?;
        }
        if !self.saved.is_empty() {
            self.command(&Command::Commit)?;
        }
        let unsound = self.session.client.query("SELECT v::text FROM stepwise.verify() AS v", &[]);
        let unsound = unsound.unwrap_or_else(|error| panic!("{error:?}"));
        match unsound.first() {
            Some(row) => Err(End::Differs(format!("verify() says {}", row.get::<_, String>(0)))),
            None => Ok(()),
        }
    }

    /// Removes the walk's tasks; the next has the queues for itself.
    pub fn clean(&mut self) {
        let sql = "SET client_min_messages = error; ROLLBACK; RESET client_min_messages; SET session_replication_role = replica; \
            TRUNCATE stepwise.tasks, stepwise.steps, stepwise.transitions, stepwise.slots, stepwise.injected_failures; \
            RESET session_replication_role; UPDATE stepwise.queues SET paused = false, max_in_flight = 0";
        self.session.client.batch_execute(sql).expect("a superuser may");
    }

    pub fn script(&self) -> String {
        self.session.script.join("\n")
    }

    fn name(&mut self, prefix: &str) -> String {
        self.named += 1;
        format!("{prefix}{}", self.named)
    }

    fn task(&self, pick: Pick) -> Option<&(i64, String)> {
        let count = self.tasks.len() as u64;
        let reach = if pick.recent { count.min(3) } else { count };
        self.tasks.get((count.checked_sub(1 + pick.number % reach.max(1))?) as usize)
    }

    /// Mostly a step that somebody would care for.
    fn step(&self, task: i64, pick: Pick, wanted: impl Fn(Key) -> bool) -> usize {
        let Some(known) = self.model.tasks.get(&task) else { return 1 };
        let all: Vec<usize> = (1..=known.steps.len()).collect();
        let chosen: Vec<usize> = all.iter().copied().filter(|&step| pick.recent && wanted((task, step))).collect();
        let among = if chosen.is_empty() { all } else { chosen };
        among[(pick.number / 7 % among.len() as u64) as usize]
    }

    fn receipt(&self, pick: Pick) -> Option<Held> {
        if pick.number.is_multiple_of(50) {
            let text = "00000000-0000-4000-8000-000000000000".to_owned();
            let sql = format!("'{text}'");
            return Some(Held { receipt: Receipt { text, task: -1, step: 1 }, sql });
        }
        let count = self.receipts.len() as u64;
        let reach = if pick.recent { count.min(5) } else { count };
        self.receipts.get((count.checked_sub(1 + pick.number % reach.max(1))?) as usize).cloned()
    }

    /// Runs a statement; inside a transaction a refusal takes back no more than itself.
    fn sql(&mut self, text: &str) -> Answer {
        if self.saved.is_empty() {
            return self.session.run(text);
        }
        self.plain("SAVEPOINT command");
        let answer = self.session.run(text);
        self.plain(if answer.is_ok() { "RELEASE SAVEPOINT command" } else { "ROLLBACK TO SAVEPOINT command" });
        answer
    }

    fn plain(&mut self, text: &str) {
        self.session.run(text).unwrap_or_else(|refused| panic!("{text}: {refused:?}"));
    }

    /// Holds what is seen now against the model.
    fn compare(&mut self, seen: &Value) -> Step {
        for change in self.observer.kinds_of_change(seen) {
            *self.seen.entry(change).or_default() += 1;
        }
        let compared = self.observer.compare(seen, &self.model);
        if self.observer.is_too_slow(&self.model) {
            return Err(End::TooSlow);
        }
        compared.map_err(End::Differs)
    }

    fn look(&mut self) -> Value {
        self.observer.read(&mut self.session.client)
    }

    /// What was answered against what the model answers.
    fn answered(&mut self, answer: &Answer, column: &str, expected: Result<Value, Refusal>) -> Step {
        let got = match answer {
            Ok(columns) => Ok(json_of(columns, column)),
            Err(refused) => Err(refused.sqlstate.clone()),
        };
        let expected = expected.map_err(str::to_owned);
        let word = match &got {
            Ok(value) => value.as_str().unwrap_or("done").to_owned(),
            Err(refusal) => refusal.clone(),
        };
        *self.seen.entry(format!("answered {word}")).or_default() += 1;
        if got != expected {
            return Err(End::Differs(format!("answered {got:?}, and not {expected:?}")));
        }
        let seen = self.look();
        self.compare(&seen)
    }

    fn command(&mut self, command: &Command) -> Step {
        self.operations += 1;
        match command {
            Command::Create { .. } => self.create(command),
            Command::Claim(arguments) => self.claim(arguments),
            Command::Complete(report) => self.report_one(report, true),
            Command::Fail(report) => self.report_one(report, false),
            Command::CompleteMany(reports) => self.report_many(reports, true),
            Command::FailMany(reports) => self.report_many(reports, false),
            Command::ReportAndClaim { completed, failed, claim } => self.report_and_claim(completed, failed, claim),
            Command::Release(pick) => {
                let Some(held) = self.receipt(*pick) else { return Ok(()) };
                let answer = self.sql(&format!("SELECT stepwise.release_step({}) AS outcome", held.sql));
                let expected = self.model.release(&held.receipt).map(Value::from);
                self.answered(&answer, "outcome", expected)
            }
            Command::Extend(pick, lease) => {
                let Some(held) = self.receipt(*pick) else { return Ok(()) };
                let lease_sql = or_null(lease.map(duration));
                let answer = self.sql(&format!("SELECT stepwise.extend_lease({}, {lease_sql}) AS outcome", held.sql));
                let expected = self.model.extend(&held.receipt, *lease).map(Value::from);
                self.answered(&answer, "outcome", expected)
            }
            Command::Tick => self.tick(),
            Command::Advance(by) => {
                let minutes = interval(self.model.now + by);
                self.sql(&format!("SET stepwise.clock_offset = '{minutes}'")).expect("a superuser may");
                self.model.now += by;
                let seen = self.look();
                self.compare(&seen)
            }
            Command::Begin(_) | Command::Savepoint | Command::RollbackTo | Command::Commit | Command::Rollback => {
                self.transaction(command)
            }
            Command::Pause { queue, paused } => {
                let function = if *paused { "pause_queue" } else { "resume_queue" };
                let answer = self.sql(&format!("SELECT stepwise.{function}('{queue}') AS changed"));
                let changed = if self.model.pause(queue, *paused) { "t" } else { "f" };
                self.answered(&answer, "changed", Ok(changed.into()))
            }
            Command::Limit { queue, most } => {
                let answer = self.sql(&format!("SELECT stepwise.set_queue_limit('{queue}', {most}) IS NULL AS done"));
                self.model.queues.get_mut(*queue).expect("a queue").limit = *most;
                self.answered(&answer, "done", Ok("f".into()))
            }
            Command::Purge { older_than, most, failed_too } => {
                let mut states = vec![State::Complete, State::Cancelled, State::Resolved];
                states.extend(failed_too.then_some(State::Error));
                let names: Vec<&str> = states.iter().map(|state| state.name()).collect();
                let (age, names) = (duration(*older_than), names.join(","));
                let answer = self.sql(&format!("SELECT stepwise.purge_tasks({age}, {most}, '{{{names}}}') AS purged"));
                let expected = self.model.purge(*older_than, *most, &states);
                self.observer.forget();
                self.answered(&answer, "purged", Ok(expected.into()))
            }
            _ => self.operate(command),
        }
    }

    fn create(&mut self, command: &Command) -> Step {
        let Command::Create { shape, count, keys, priority, run_at, bypass, groups } = command else { return Ok(()) };
        let shape = Rc::clone(&self.shapes[(shape.number % self.shapes.len() as u64) as usize]);
        let bypass: Vec<usize> = match bypass {
            true => (1..=shape.steps.len()).filter(|&step| shape.steps[step - 1].skippable).collect(),
            false => Vec::new(),
        };
        let group = |number: u64| if number == 0 { json!({}) } else { json!({ "key": number }) };
        let new = |place: usize| NewTask {
            shape: Rc::clone(&shape),
            context: group(groups[place]),
            key: keys[place].map(|key| format!("key {key}")),
            priority: *priority,
            run_at: run_at.map(|after| self.model.now + after),
            bypass: bypass.clone(),
        };
        let tasks: Vec<NewTask> = (0..*count).map(new).collect();
        let key = |task: &NewTask| or_null(task.key.as_ref().map(|key| format!("'{key}'")));
        let names: Vec<String> = tasks.iter().map(|_| self.name("t")).collect();
        let run_at = or_null(run_at.map(|after| format!("stepwise.now() + {}", duration(after))));
        let skipped: Vec<&str> = bypass.iter().map(|&step| shape.steps[step - 1].name.as_str()).collect();
        let rest = format!("priority => {priority}, run_at => {run_at}, bypass_steps => '{{{}}}'", skipped.join(","));
        let template = &shape.name;
        let sql = if *count == 1 {
            let (context, key, name) = (quoted(&tasks[0].context), key(&tasks[0]), &names[0]);
            format!(
                "SELECT stepwise.create_task('{template}', {context}, identity_key => {key}, {rest}) AS {name} \\gset"
            )
        } else {
            let contexts: Vec<String> = tasks.iter().map(|task| quoted(&task.context)).collect();
            let keys: Vec<String> = tasks.iter().map(key).collect();
            let ids: Vec<String> = names
                .iter()
                .enumerate()
                .map(|(place, name)| format!("(array_agg(id))[{}] AS {name}", place + 1))
                .collect();
            format!(
                "SELECT {} FROM stepwise.create_tasks('{template}', ARRAY[{}]::jsonb[], identity_keys => ARRAY[{}]::text[], {rest}) AS id \\gset",
                ids.join(", "),
                contexts.join(", "),
                keys.join(", ")
            )
        };
        // Registering again changes nothing, unless a rollback took the template away.
        let definition = quoted(&shape.definition());
        let registered = self.sql(&format!("SELECT stepwise.register_template({definition})"));
        let columns = registered.and_then(|_| self.sql(&sql));
        let columns = columns.map_err(|refused| End::Differs(format!("refused: {refused:?}")))?;
        for (task, name) in tasks.iter().zip(names) {
            let id = json_of(&columns, &name).as_i64().expect("an id");
            match self.model.task_with_key(task) {
                Some(known) if known != id => return Err(End::Differs(format!("task {id} is new, and not {known}"))),
                Some(_) => {}
                None if self.model.tasks.contains_key(&id) => {
                    return Err(End::Differs(format!("task {id} is not new")));
                }
                None => self.model.create(id, task),
            }
            self.tasks.push((id, name));
        }
        let seen = self.look();
        self.compare(&seen)
    }

    fn transaction(&mut self, command: &Command) -> Step {
        let open = !self.saved.is_empty();
        match command {
            Command::Begin(level) if !open => {
                self.plain(&format!("BEGIN ISOLATION LEVEL {level}"));
                self.saved.push(self.model.clone());
            }
            Command::Savepoint if open => {
                self.plain(&format!("SAVEPOINT s{}", self.saved.len()));
                self.saved.push(self.model.clone());
            }
            Command::RollbackTo if self.saved.len() > 1 => {
                self.plain(&format!("ROLLBACK TO SAVEPOINT s{}", self.saved.len() - 1));
                self.model = self.saved.last().expect("a savepoint").clone();
                self.observer.forget();
            }
            Command::Rollback if open => {
                self.plain("ROLLBACK");
                self.model = self.saved.swap_remove(0);
                self.saved.clear();
                self.observer.forget();
            }
            Command::Commit if open => {
                self.plain("COMMIT");
                self.saved.clear();
            }
            _ => return Ok(()),
        }
        let seen = self.look();
        self.compare(&seen)
    }
}

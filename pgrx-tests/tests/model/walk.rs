//! Runs commands against the database and the model, and holds the one against the other after each.
use crate::cluster::random::Random;
use crate::command::{ClaimArguments, Command, Pick, Report};
use crate::observe::Observer;
use crate::rules::commands::{Claim, Claimed, NewTask, Overdue, Receipt, Refusal, Verdict};
use crate::rules::{Cause, Key, Model, Queue, State};
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

const CLAIM_COLUMNS: &str = "json_agg(json_build_array(task_id, step_id, extract(epoch FROM lease_expires_at), \
    json_build_object('name', step_name, 'attempt', attempt, 'retry_limit', retry_limit, 'context', context, \
        'dependencies', dependencies)))";

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
        if pick.number % 50 == 0 {
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

    // Work --------------------------------------------------------------------------------------------------------

    fn claim_sql(arguments: &ClaimArguments) -> String {
        let queues = or_null(arguments.queues.as_ref().map(|queues| format!("'{{{}}}'", queues.join(","))));
        let lease = or_null(arguments.lease.map(duration));
        format!("queues => {queues}, max_steps => {}, lease => {lease}", arguments.most)
    }

    /// What a claim's row says was handed out, in the variable `name`.
    fn handed(&mut self, columns: &BTreeMap<String, Option<String>>, name: &str, first: usize) -> Vec<Claimed> {
        let receipts = columns.get(name).and_then(Option::clone).unwrap_or_default();
        let receipts = receipts.trim_matches(|c| c == '{' || c == '}').split(',').skip(first);
        let rows = json_of(columns, "claimed");
        let rows: Vec<Value> = rows.as_array().cloned().unwrap_or_default();
        let mut claimed = Vec::new();
        for (place, (row, text)) in rows.into_iter().zip(receipts).enumerate() {
            let (task, step) = (row[0].as_i64().expect("a task"), row[1].as_u64().expect("a step") as usize);
            let receipt = Receipt { text: text.to_owned(), task, step };
            let sql = format!("(:'{name}'::uuid[])[{}]", first + place + 1);
            self.receipts.push(Held { receipt: receipt.clone(), sql });
            let lease_ends = self.observer.unit_of(row[2].as_f64().expect("a time"));
            claimed.push(Claimed { receipt, lease_ends, rest: row[3].clone() });
        }
        claimed
    }

    fn claim(&mut self, arguments: &ClaimArguments) -> Step {
        let name = self.name("c");
        let sql = format!(
            "SELECT array_agg(receipt) AS {name}, {CLAIM_COLUMNS} AS claimed \
             FROM (SELECT * FROM stepwise.claim_steps('w{}', {})) AS c \\gset",
            arguments.worker,
            Self::claim_sql(arguments)
        );
        let columns = self.sql(&sql).map_err(|refused| End::Differs(format!("refused: {refused:?}")))?;
        let claimed = self.handed(&columns, &name, 0);
        let seen = self.look();
        let met = self.observer.met(&seen);
        let visible = self.observer.visible.clone();
        self.claimed(arguments, &claimed, &met, &|key| visible.get(&key).copied().unwrap_or(0))?;
        self.compare(&seen)
    }

    fn claimed(
        &mut self,
        arguments: &ClaimArguments,
        claimed: &[Claimed],
        met: &[Overdue],
        visible: &dyn Fn(Key) -> i64,
    ) -> Step {
        let queues: Option<Vec<String>> =
            arguments.queues.as_ref().map(|queues| queues.iter().map(|queue| (*queue).to_owned()).collect());
        let (worker, queues) = (format!("w{}", arguments.worker), queues.as_deref());
        let (most, lease, overfull) = (arguments.most, arguments.lease, &self.observer.overfull);
        let claim = Claim { worker: &worker, queues, most, lease, claimed, met, visible, overfull };
        self.model.claim(&claim).map_err(End::Differs)
    }

    fn tick(&mut self) -> Step {
        let answer = self
            .sql("SELECT json_build_array(expired_leases, failed_waits, ended_tasks) AS ended FROM stepwise.tick()");
        let columns = answer.map_err(|refused| End::Differs(format!("refused: {refused:?}")))?;
        let seen = self.look();
        let met = self.observer.met(&seen);
        let expected = json!(self.model.tick(&met).map_err(End::Differs)?);
        let said = json_of(&columns, "ended");
        if said != expected {
            return Err(End::Differs(format!("tick() says {said}, and not {expected}")));
        }
        self.compare(&seen)
    }

    fn verdict(&self, report: &Report, completes: bool) -> Verdict {
        let payload = |key: &str| report.payload.then(|| json!({ key: report.receipt.number % 10 }));
        if completes {
            Verdict::Complete(payload("result"))
        } else {
            Verdict::Fail { error: payload("error"), retryable: report.retryable, retry_after: report.retry_after }
        }
    }

    fn report_one(&mut self, report: &Report, completes: bool) -> Step {
        let Some(held) = self.receipt(report.receipt) else { return Ok(()) };
        let verdict = self.verdict(report, completes);
        let sql = match &verdict {
            Verdict::Complete(results) => {
                let results = or_null(results.as_ref().map(quoted));
                format!("SELECT stepwise.complete_step({}, {results}) AS outcome", held.sql)
            }
            Verdict::Fail { error, retryable, retry_after } => {
                let (error, retryable) =
                    (or_null(error.as_ref().map(quoted)), or_null(retryable.map(|is| is.to_string())));
                let after = or_null(retry_after.map(duration));
                format!("SELECT stepwise.fail_step({}, {error}, {retryable}, {after}) AS outcome", held.sql)
            }
        };
        let answer = self.sql(&sql);
        let outcome = Model::single(self.model.report(&[(held.receipt, verdict)])[0]);
        self.answered(&answer, "outcome", outcome.map(Value::from))
    }

    /// The arguments of reports in a batch, by their names, and what the model is told.
    fn batch(&self, reports: &[Report], completes: bool) -> (Vec<String>, Vec<(Receipt, Verdict)>) {
        let mut told = Vec::new();
        let (mut receipts, mut payloads, mut retryables, mut afters) = (vec![], vec![], vec![], vec![]);
        for report in reports {
            let Some(held) = self.receipt(report.receipt) else { continue };
            let verdict = self.verdict(report, completes);
            receipts.push(held.sql);
            match &verdict {
                Verdict::Complete(results) => payloads.push(or_null(results.as_ref().map(quoted))),
                Verdict::Fail { error, retryable, retry_after } => {
                    payloads.push(or_null(error.as_ref().map(quoted)));
                    retryables.push(or_null(retryable.map(|is| is.to_string())));
                    afters.push(or_null(retry_after.map(duration)));
                }
            }
            told.push((held.receipt, verdict));
        }
        let array = |values: &[String], of: &str| format!("ARRAY[{}]::{of}[]", values.join(", "));
        let mut arguments = vec![array(&receipts, "uuid"), array(&payloads, "jsonb")];
        if !completes {
            arguments.extend([array(&retryables, "boolean"), array(&afters, "interval")]);
        }
        (arguments, told)
    }

    fn report_many(&mut self, reports: &[Report], completes: bool) -> Step {
        let (arguments, told) = self.batch(reports, completes);
        if told.is_empty() {
            return Ok(());
        }
        let function = if completes { "complete_steps" } else { "fail_steps" };
        let answer = self
            .sql(&format!("SELECT json_agg(outcome) AS outcomes FROM stepwise.{function}({})", arguments.join(", ")));
        let expected = json!(self.model.report(&told));
        self.answered(&answer, "outcomes", Ok(expected))
    }

    fn report_and_claim(&mut self, completed: &[Report], failed: &[Report], arguments: &ClaimArguments) -> Step {
        let ((done, mut told), (not_done, failures)) = (self.batch(completed, true), self.batch(failed, false));
        told.extend(failures);
        let name = self.name("c");
        let names = ["completed", "results", "failed", "errors", "retryable", "retry_after"];
        let reports: Vec<String> =
            names.iter().zip(done.iter().chain(&not_done)).map(|(name, value)| format!("{name} => {value}")).collect();
        let sql = format!(
            "SELECT array_agg(receipt) FILTER (WHERE outcome = 'claimed') AS {name}, \
             json_agg(outcome) FILTER (WHERE outcome <> 'claimed') AS outcomes, \
             {CLAIM_COLUMNS} FILTER (WHERE outcome = 'claimed') AS claimed \
             FROM (SELECT * FROM stepwise.report_and_claim('w{}', {}, {})) AS c \\gset",
            arguments.worker,
            reports.join(", "),
            Self::claim_sql(arguments)
        );
        let columns = self.sql(&sql).map_err(|refused| End::Differs(format!("refused: {refused:?}")))?;
        let outcomes = self.model.report(&told);
        let said = json_of(&columns, "outcomes");
        let expected = if told.is_empty() { Value::Null } else { json!(outcomes) };
        if said != expected {
            return Err(End::Differs(format!("the outcomes are {said}, and not {expected}")));
        }
        let claimed = self.handed(&columns, &name, 0);
        let seen = self.look();
        let met = self.observer.met(&seen);
        // Steps that the reports have made ready have no known place in the order: only priorities are compared then.
        let visible = self.observer.visible.clone();
        let exact = !outcomes.contains(&"accepted");
        let place = |key: Key| if exact { visible.get(&key).copied().unwrap_or(0) } else { 0 };
        self.claimed(arguments, &claimed, &met, &place)?;
        self.compare(&seen)
    }

    // Operate -----------------------------------------------------------------------------------------------------

    fn operate(&mut self, command: &Command) -> Step {
        let (Command::Act { task, .. }
        | Command::Signal(task, _)
        | Command::CancelTask { task, .. }
        | Command::RetryTask(task)
        | Command::SetBackoff { task, .. }
        | Command::ReleaseBackoff(task)
        | Command::UpdateStep { task, .. }
        | Command::UpdateTask { task, .. }) = command
        else {
            return Ok(());
        };
        let Some((id, name)) = self.task(*task).cloned() else { return Ok(()) };
        let model = &self.model;
        let state = |key: Key| model.tasks[&key.0].step(key.1).state;
        let mut cause = Cause::by_hand();
        let mut why = |given: bool| {
            cause.reason = given.then(|| "why not".to_owned());
            if given { "'why not'" } else { "NULL" }
        };
        match command {
            Command::Act { step, to, reason, .. } => {
                let step = self.step(id, *step, |key| state(key) == State::Error);
                let results = (*to == State::Resolved && step % 2 == 0).then(|| json!({"by": "hand"}));
                let (function, more) = match to {
                    State::Pending => ("reset_step", String::new()),
                    State::Resolved => ("resolve_step", format!("{}, ", or_null(results.as_ref().map(quoted)))),
                    _ => ("cancel_step", String::new()),
                };
                let reason = why(*reason);
                let answer =
                    self.sql(&format!("SELECT stepwise.{function}(:{name}, {step}, {more}{reason}) AS outcome"));
                let expected = self.model.act((id, step), *to, results, &cause).map(Value::from);
                self.answered(&answer, "outcome", expected)
            }
            Command::Signal(_, step) => {
                let waits = |key: Key| model.tasks[&key.0].rule(key.1).waits && !state(key).is_final();
                let step = self.step(id, *step, waits);
                let payload = json!({ "signal": step });
                let answer =
                    self.sql(&format!("SELECT stepwise.signal_step(:{name}, {step}, {}) AS outcome", quoted(&payload)));
                let expected = self.model.signal((id, step), payload, &cause).map(Value::from);
                self.answered(&answer, "outcome", expected)
            }
            Command::CancelTask { reason, .. } => {
                let reason = why(*reason);
                let answer = self.sql(&format!("SELECT stepwise.cancel_task(:{name}, {reason}) AS steps"));
                let expected = self.model.act_on_all(id, State::Cancelled, &cause).map(Value::from);
                self.answered(&answer, "steps", expected)
            }
            Command::RetryTask(_) => {
                let answer = self.sql(&format!("SELECT stepwise.retry_task(:{name}) AS steps"));
                let expected = self.model.act_on_all(id, State::Pending, &cause).map(Value::from);
                self.answered(&answer, "steps", expected)
            }
            Command::SetBackoff { step, backoff, .. } => {
                let step = self.step(id, *step, |key| [State::Error, State::Pending].contains(&state(key)));
                let backoff_sql = duration(*backoff);
                let answer =
                    self.sql(&format!("SELECT stepwise.set_backoff(:{name}, {step}, {backoff_sql}) AS outcome"));
                let expected = self.model.set_backoff((id, step), *backoff, &cause).map(Value::from);
                self.answered(&answer, "outcome", expected)
            }
            Command::ReleaseBackoff(_) => {
                let answer = self.sql(&format!("SELECT stepwise.release_backoff(:{name}) AS steps"));
                let expected = self.model.release_backoff(id, &cause).map(Value::from);
                self.answered(&answer, "steps", expected)
            }
            Command::UpdateStep { step, to, .. } => {
                let step = self.step(id, *step, |key| !state(key).is_final());
                self.update_step(id, &name, step, *to)
            }
            Command::UpdateTask { to, .. } => {
                let answer =
                    self.sql(&format!("UPDATE stepwise.tasks SET state = '{}' WHERE task_id = :{name}", to.name()));
                let expected = self.model.update_task(id, *to);
                self.answered(&answer, "nothing", expected.map(|()| Value::Null))
            }
            _ => Ok(()),
        }
    }

    fn update_step(&mut self, id: i64, name: &str, step: usize, to: State) -> Step {
        let known = self.model.tasks.get(&id);
        if to == State::InProgress && known.is_some_and(|task| task.rule(step).waits) {
            return Ok(()); // its lease is a minute, which is no time of the model
        }
        let overfull = known.is_some() && self.observer.overfull.contains(self.model.queue((id, step)));
        let state = to.name();
        let sql = format!("UPDATE stepwise.steps SET state = '{state}' WHERE task_id = :{name} AND step_id = {step}");
        let answer = self.sql(&sql);
        let before = self.model.clone();
        match self.model.update_step((id, step), to, overfull) {
            // Whether there is a place depends on which ones are held; either way is right.
            Err(None) => {
                self.model = before;
                if answer.is_ok() {
                    let _ = self.model.update_step((id, step), to, false);
                }
                let got = answer.as_ref().err().map_or(Ok(Value::Null), |_| Err("55000"));
                self.answered(&answer, "nothing", got)
            }
            expected => {
                let expected = expected.map_err(|refusal| refusal.expect("a SQLSTATE"));
                self.answered(&answer, "nothing", expected.map(|()| Value::Null))
            }
        }
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

//! All that can be seen of the tasks, read in one statement, and held against the model.
use crate::rules::work::Overdue;
use crate::rules::{Change, FOREVER, Key, Model, State, Time, UNIT_SECONDS};
use postgres::{Client, Statement};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Microseconds since 1970, and the largest number for infinity.
const MICROSECONDS: &str = "CREATE SCHEMA model; CREATE FUNCTION model.us(at timestamptz) RETURNS bigint LANGUAGE sql AS $$ \
    SELECT CASE WHEN at = 'infinity' THEN 9223372036854775807 ELSE (extract(epoch FROM at) * 1000000)::bigint END $$";

/// `$1`: the last event that has been seen.
const OBSERVE: &str = "SELECT json_build_object( \
    'tasks', (SELECT coalesce(json_agg(json_build_array(task_id, state, total_steps, live_steps, completed_steps, \
        failed_steps, cancelled_steps, model.us(created_at), model.us(started_at), model.us(finished_at), \
        model.us(deadline), timed_out, priority, identity_key, context)), '[]') FROM stepwise.tasks), \
    'steps', (SELECT coalesce(json_agg(json_build_array(s.task_id, s.step_id, s.state, s.attempts, s.remaining_parents, \
        model.us(s.visible_at), s.claim_token IS NOT NULL, s.worker, s.backoff_request_seconds, s.retryable, \
        model.us(s.last_attempted_at), model.us(s.last_failure_at), model.us(s.finished_at), s.results, s.error, \
        s.signal, s.priority, q.name)), '[]') FROM stepwise.steps s JOIN stepwise.queues q USING (queue_id)), \
    'history', (SELECT coalesce(json_agg(json_build_array(task_id, step_id, from_state, to_state, attempt, worker, actor, \
        metadata, model.us(at), event_id) ORDER BY event_id), '[]') FROM stepwise.transitions WHERE event_id > $1), \
    'events', (SELECT count(*) FROM stepwise.transitions), \
    'readiness', (SELECT coalesce(json_agg(json_build_array(task_id, step_id, name, current_state, attempts, retry_limit, \
        backoff_request_seconds, model.us(last_attempted_at), dependencies_satisfied, retry_eligible, \
        ready_for_execution, model.us(last_failure_at), model.us(next_retry_at), total_parents, completed_parents, \
        processed, in_process)), '[]') \
        FROM stepwise.get_step_readiness_status_batch((SELECT array_agg(task_id) FROM stepwise.tasks))), \
    'contexts', (SELECT coalesce(json_agg(json_build_array(task_id, status, total_steps, pending_steps, \
        in_progress_steps, completed_steps, failed_steps, ready_steps, execution_status, recommended_action, \
        completion_percentage::text, health_status)), '[]') \
        FROM stepwise.get_task_execution_contexts_batch((SELECT array_agg(task_id) FROM stepwise.tasks))), \
    'viable', (SELECT coalesce(json_agg(json_build_array(t.task_id, v.step_id) ORDER BY t.task_id, v.step_id), '[]') \
        FROM stepwise.tasks t, stepwise.get_viable_steps(t.task_id) v), \
    'queues', (SELECT json_agg(json_build_array(name, paused, max_in_flight) ORDER BY name) FROM stepwise.queues), \
    'overfull', (SELECT coalesce(json_agg(DISTINCT q.name), '[]') FROM stepwise.slots b JOIN stepwise.queues q \
        ON q.queue_id = b.owner_id WHERE b.kind = 'queue' AND b.number > q.max_in_flight AND b.task_id IS NOT NULL), \
    'next', model.us(stepwise.next_visible_at()), \
    'now', model.us(clock_timestamp() + current_setting('stepwise.clock_offset')::interval))::text";

pub struct Observer {
    statement: Statement,
    /// The model's time 0, in microseconds.
    pub epoch: i64,
    /// The last event that was compared, and the clock then.
    last: i64,
    pub now: i64,
    /// Each step's exact `visible_at`.
    pub visible: BTreeMap<Key, i64>,
    pub overfull: BTreeSet<String>,
    /// How many rows of the model's history have been compared.
    compared: usize,
}

pub fn prepare(client: &mut Client) {
    client.batch_execute(MICROSECONDS).expect("the database is new");
}

impl Observer {
    pub fn new(client: &mut Client) -> Observer {
        let statement = client.prepare(OBSERVE).expect("the observation is a statement");
        let row = client.query_one(
            "SELECT model.us(clock_timestamp()), (SELECT coalesce(max(event_id), 0) FROM stepwise.transitions)",
            &[],
        );
        let row = row.expect("the clock can be read");
        let (epoch, last): (i64, i64) = (row.get(0), row.get(1));
        Observer {
            statement,
            epoch,
            last,
            now: epoch,
            visible: BTreeMap::new(),
            overfull: BTreeSet::new(),
            compared: 0,
        }
    }

    /// After a rollback the whole history is compared again.
    pub fn forget(&mut self) {
        (self.last, self.compared) = (0, 0);
    }

    /// The walk has taken so long that its times can no longer be told apart.
    pub fn is_too_slow(&self, model: &Model) -> bool {
        let since = self.now - self.epoch - model.now * UNIT_SECONDS * 1_000_000;
        since > UNIT_SECONDS * 1_000_000 / 3
    }

    pub fn read(&mut self, client: &mut Client) -> Value {
        let row = client.query_one(&self.statement, &[&self.last]).unwrap_or_else(|error| panic!("{error:?}"));
        serde_json::from_str(row.get(0)).expect("JSON")
    }

    fn time(&self, value: &Value) -> Option<Time> {
        let us = value.as_i64()?;
        let unit = UNIT_SECONDS * 1_000_000;
        Some(if us == i64::MAX { FOREVER } else { (us - self.epoch + unit / 2).div_euclid(unit) })
    }

    pub fn unit_of(&self, seconds: f64) -> Time {
        self.time(&json!((seconds * 1e6) as i64)).expect("a number")
    }

    /// What time has decided, by the new rows of the history.
    pub fn met(&self, seen: &Value) -> Vec<Overdue> {
        let mut met: Vec<Overdue> = Vec::new();
        for row in rows(&seen["history"]) {
            let (task, step, to) = (row[0].as_i64().expect("a task"), row[1].as_u64(), &row[3]);
            let Some(key) = step.map(|step| (task, step as usize)) else { continue };
            let overdue = match row[7]["reason"].as_str() {
                Some("lease_expired") if to == "error" => Overdue::Lease(key),
                Some("signal_timeout") if to == "error" => Overdue::Wait(key),
                Some("deadline_exceeded") => Overdue::Task(task),
                _ => continue,
            };
            if !met.contains(&overdue) {
                met.push(overdue);
            }
        }
        met
    }

    /// The kinds of change among the new rows of the history.
    pub fn kinds_of_change(&self, seen: &Value) -> Vec<String> {
        let kind = |row: &Value| {
            let subject = if row[1].is_null() { "task" } else { "step" };
            format!("{subject} {} → {}", row[2].as_str().unwrap_or("nothing"), row[3].as_str().unwrap_or(""))
        };
        rows(&seen["history"]).iter().map(kind).collect()
    }

    /// What differs between what is seen and the model; the new becomes the last.
    pub fn compare(&mut self, seen: &Value, model: &Model) -> Result<(), String> {
        let lines = |of: &Value, line: &dyn Fn(&Value) -> (String, Value)| -> BTreeMap<String, Value> {
            rows(of).iter().map(line).collect()
        };
        let seconds =
            |value: &Value| value.as_i64().map(|seconds| (seconds + UNIT_SECONDS / 2).div_euclid(UNIT_SECONDS));
        let mut there = lines(&seen["tasks"], &|row| {
            let times: Vec<Value> = (7..=10).map(|column| json!(self.time(&row[column]))).collect();
            let mut rest: Vec<Value> = row.as_array().expect("a row").clone();
            rest.splice(7..=10, times);
            (format!("task {}", row[0]), Value::from(rest))
        });
        there.extend(lines(&seen["steps"], &|row| {
            let mut rest: Vec<Value> = row.as_array().expect("a row").clone();
            for column in [5, 10, 11, 12] {
                rest[column] = json!(self.time(&row[column]));
            }
            rest[8] = json!(seconds(&row[8]));
            (format!("task {} step {}", row[0], row[1]), Value::from(rest))
        }));
        there.extend(lines(&seen["readiness"], &|row| {
            let rest = json!({
                "name": row[2], "state": row[3], "attempts": row[4], "retry_limit": row[5], "backoff": seconds(&row[6]),
                "last_attempted_at": self.time(&row[7]), "dependencies_satisfied": row[8], "retry_eligible": row[9],
                "ready": row[10], "last_failure_at": self.time(&row[11]), "next_retry_at": self.time(&row[12]),
                "total_parents": row[13], "completed_parents": row[14], "processed": row[15], "in_process": row[16],
            });
            (format!("readiness of task {} step {}", row[0], row[1]), rest)
        }));
        there.extend(lines(&seen["contexts"], &|row| {
            (format!("context of task {}", row[0]), Value::from(row.as_array().expect("a row")[1..].to_vec()))
        }));
        there.insert("viable steps".into(), seen["viable"].clone());
        there.insert("queues".into(), seen["queues"].clone());
        if model.queues.values().all(|queue| queue.limit == 0) {
            there.insert("next_visible_at".into(), json!(self.time(&seen["next"])));
        }
        there.insert("events".into(), seen["events"].clone());
        let changes = rows(&seen["history"]).iter().map(|row| self.change(row));
        there.extend(by_subject(changes.collect::<Vec<Change>>().iter()));
        let here = expected(model, self.compared);
        let names: BTreeSet<&String> = there.keys().chain(here.keys()).collect();
        let mut differences = Vec::new();
        for name in names {
            let (is, should_be) = (there.get(name).unwrap_or(&Value::Null), here.get(name).unwrap_or(&Value::Null));
            if is != should_be {
                differences.push(format!("{name}\n  is         {is}\n  should be  {should_be}"));
            }
        }
        if !differences.is_empty() {
            return Err(differences.join("\n"));
        }
        self.times_are_of_this_command(seen)?;
        self.visible = rows(&seen["steps"]).iter().filter_map(|row| Some((key(row), row[5].as_i64()?))).collect();
        self.overfull = rows(&seen["overfull"]).iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect();
        self.now = seen["now"].as_i64().expect("the clock");
        if let Some(row) = rows(&seen["history"]).last() {
            self.last = row[9].as_i64().expect("an event");
        }
        self.compared = model.history.len();
        Ok(())
    }

    /// The clock moves inside a transaction: what a command writes is stamped while it runs.
    fn times_are_of_this_command(&self, seen: &Value) -> Result<(), String> {
        if self.last == 0 {
            return Ok(());
        }
        let (from, to) = (self.now, seen["now"].as_i64().expect("the clock"));
        match rows(&seen["history"]).iter().find(|row| row[8].as_i64().is_none_or(|at| at < from || at > to)) {
            Some(row) => Err(format!("{row} was not stamped between {from} and {to}")),
            None => Ok(()),
        }
    }

    fn change(&self, row: &Value) -> Change {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let mut metadata = row[7].clone();
        if let Some(seconds) = metadata["backoff_seconds"].as_i64() {
            metadata["backoff_seconds"] = ((seconds + UNIT_SECONDS / 2).div_euclid(UNIT_SECONDS)).into();
        }
        Change {
            task: row[0].as_i64().expect("a task"),
            step: row[1].as_u64().map(|step| step as usize),
            from: row[2].as_str().map(State::named),
            to: State::named(row[3].as_str().expect("a state")),
            attempt: row[4].as_i64().map(|attempt| attempt as i32),
            worker: text(&row[5]),
            actor: text(&row[6]),
            metadata: (!metadata.is_null()).then_some(metadata),
            at: self.time(&row[8]).expect("a time"),
        }
    }
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn key(row: &Value) -> Key {
    (row[0].as_i64().expect("a task"), row[1].as_u64().expect("a step") as usize)
}

/// The changes of each task and each step, in their order. Between two steps any order will do.
fn by_subject<'a>(changes: impl Iterator<Item = &'a Change>) -> BTreeMap<String, Value> {
    let mut subjects: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for change in changes {
        let subject = match change.step {
            Some(step) => format!("history of task {} step {step}", change.task),
            None => format!("history of task {}", change.task),
        };
        let Change { from, to, attempt, worker, actor, metadata, at, .. } = change;
        let metadata = metadata.as_ref().map_or(String::new(), Value::to_string);
        let line = format!(
            "{} → {} attempt {attempt:?} worker {worker:?} actor {actor:?} {metadata} at {at}",
            from.map_or("", State::name),
            to.name()
        );
        subjects.entry(subject).or_default().push(line);
    }
    subjects.into_iter().map(|(subject, lines)| (subject, Value::from(lines))).collect()
}

/// What the model says, in the same words.
fn expected(model: &Model, compared: usize) -> BTreeMap<String, Value> {
    let mut lines = by_subject(model.history[compared..].iter());
    let mut viable = Vec::new();
    for (&id, task) in &model.tasks {
        let counters = [task.live(), task.completed(), task.failed(), task.cancelled()];
        lines.insert(
            format!("task {id}"),
            json!([
                id,
                task.state.name(),
                task.steps.len(),
                counters[0],
                counters[1],
                counters[2],
                counters[3],
                task.created_at,
                task.started_at,
                task.finished_at,
                task.deadline,
                task.timed_out,
                task.priority,
                task.key,
                task.context
            ]),
        );
        let mut context = model.context(id);
        let context = context.as_array_mut().expect("a row").clone();
        lines.insert(format!("context of task {id}"), Value::from(context));
        for (place, step) in task.steps.iter().enumerate() {
            let number = place + 1;
            let waits_for = task.parents(number).iter().filter(|state| !state.is_settled()).count();
            lines.insert(
                format!("task {id} step {number}"),
                json!([
                    id,
                    number,
                    step.state.name(),
                    step.attempts,
                    waits_for,
                    step.visible,
                    step.receipt.is_some(),
                    step.worker,
                    step.backoff,
                    step.retryable,
                    step.attempted_at,
                    step.failed_at,
                    step.finished_at,
                    step.results,
                    step.error,
                    step.signal,
                    model.priority((id, number)),
                    model.queue((id, number))
                ]),
            );
            let mut readiness = model.readiness((id, number));
            let rule = task.rule(number);
            for (name, value) in [
                ("name", json!(rule.name)),
                ("state", json!(step.state.name())),
                ("attempts", json!(step.attempts)),
                ("retry_limit", json!(rule.retry_limit)),
                ("backoff", json!(step.backoff)),
                ("last_attempted_at", json!(step.attempted_at)),
            ] {
                readiness[name] = value;
            }
            lines.insert(format!("readiness of task {id} step {number}"), readiness);
        }
        viable.extend(model.ready_steps(id).into_iter().map(|step| json!([id, step])));
    }
    lines.insert("viable steps".into(), Value::from(viable));
    let queues = model.queues.iter().map(|(name, queue)| json!([name, queue.paused, queue.limit]));
    lines.insert("queues".into(), queues.collect());
    if model.queues.values().all(|queue| queue.limit == 0) {
        lines.insert("next_visible_at".into(), json!(model.next_visible_at()));
    }
    lines.insert("events".into(), model.history.len().into());
    lines
}

//! What several sessions have done, held against the rules: each task's history is gone through row by row, and what the
//! sessions were told, and have committed, must be in it, once.
use crate::rules::State::{self, *};
use crate::rules::UNIT_SECONDS;
use crate::shape::Shape;
use postgres::Client;
use std::collections::{BTreeMap, BTreeSet};

/// What a session was told by a call that it has committed.
#[derive(Clone, Debug)]
pub enum Entry {
    Created(i64),
    Claimed { receipt: String, task: i64, step: usize, attempt: i32, worker: String, lease_ends: i64 },
    Reported { receipt: String, to: &'static str, payload: Option<i64>, outcome: String },
    Purged(usize),
}

pub struct Round<'a> {
    pub shapes: &'a [Shape],
    /// Of queues.
    pub limits: &'a BTreeMap<String, usize>,
    pub log: &'a [Entry],
}

/// A row of the history; times in microseconds.
struct Event {
    id: i64,
    step: Option<usize>,
    from: Option<State>,
    to: State,
    attempt: Option<i32>,
    worker: Option<String>,
    actor: Option<String>,
    reason: Option<String>,
    backoff_seconds: Option<i64>,
    retryable: Option<bool>,
    at: i64,
}

/// A step on its way through its history.
#[derive(Clone)]
struct Walked {
    state: State,
    attempts: i32,
    /// It cannot be claimed before.
    not_before: i64,
    attempted_at: Option<i64>,
    retryable: Option<bool>,
    lease_ends: Option<i64>,
    settled_at: Option<i64>,
}

const HISTORY: &str = "SELECT h.task_id, t.template_id, e.name, h.event_id, h.step_id, h.from_state, h.to_state, h.attempt, \
        h.worker, h.actor, h.metadata ->> 'reason', (h.metadata ->> 'backoff_seconds')::bigint, \
        (h.metadata ->> 'retryable')::boolean, (extract(epoch FROM h.at) * 1000000)::bigint, t.state, t.context::text \
    FROM stepwise.transitions h JOIN stepwise.tasks t USING (task_id) JOIN stepwise.templates e USING (template_id) \
    ORDER BY h.event_id";

struct Past<'a> {
    shape: &'a Shape,
    state: State,
    context: String,
    events: Vec<Event>,
}

fn unit(units: i64) -> i64 {
    units * UNIT_SECONDS * 1_000_000
}

/// How many rows of the history were gone through.
pub fn check(client: &mut Client, round: &Round) -> Result<usize, String> {
    let rows = client.query("SELECT v::text FROM stepwise.verify() AS v LIMIT 5", &[]).map_err(|e| format!("{e:?}"))?;
    if let Some(row) = rows.first() {
        return Err(format!("verify() says {}", row.get::<_, String>(0)));
    }
    let past = read(client, round)?;
    let purged: usize = round.log.iter().map(|entry| if let Entry::Purged(count) = entry { *count } else { 0 }).sum();
    let created: BTreeSet<i64> =
        round.log.iter().filter_map(|entry| if let Entry::Created(id) = entry { Some(*id) } else { None }).collect();
    if created.len() != past.len() + purged {
        return Err(format!("{} tasks were created, {purged} purged, and {} are left", created.len(), past.len()));
    }
    for (id, past) in &past {
        walk(past, &leases(round, *id)).map_err(|what| format!("task {id}: {what}\n{}", told(past, round, *id)))?;
    }
    limits(&past, round)?;
    for (id, past) in &past {
        agree(client, *id, past, round).map_err(|what| format!("task {id}: {what}\n{}", told(past, round, *id)))?;
    }
    Ok(past.values().map(|past| past.events.len()).sum())
}

fn read<'a>(client: &mut Client, round: &Round<'a>) -> Result<BTreeMap<i64, Past<'a>>, String> {
    let mut tasks: BTreeMap<i64, Past> = BTreeMap::new();
    for row in client.query(HISTORY, &[]).map_err(|error| format!("{error:?}"))? {
        let (id, name): (i64, String) = (row.get(0), row.get(2));
        let shape = round.shapes.iter().find(|shape| shape.name == name).ok_or("an unknown template")?;
        let (state, context) = (State::named(row.get(14)), row.get(15));
        let past = tasks.entry(id).or_insert_with(|| Past { shape, state, context, events: Vec::new() });
        past.events.push(Event {
            id: row.get(3),
            step: row.get::<_, Option<i32>>(4).map(|step| step as usize),
            from: row.get::<_, Option<&str>>(5).map(State::named),
            to: State::named(row.get(6)),
            attempt: row.get(7),
            worker: row.get(8),
            actor: row.get(9),
            reason: row.get(10),
            backoff_seconds: row.get(11),
            retryable: row.get(12),
            at: row.get(13),
        });
    }
    Ok(tasks)
}

/// The ends of leases that workers were told, by step and attempt in the order of the claims.
fn leases(round: &Round, id: i64) -> BTreeMap<(usize, i32, String), Vec<i64>> {
    let mut leases: BTreeMap<(usize, i32, String), Vec<i64>> = BTreeMap::new();
    for entry in round.log {
        if let Entry::Claimed { task, step, attempt, worker, lease_ends, .. } = entry
            && *task == id
        {
            leases.entry((*step, *attempt, worker.clone())).or_default().push(*lease_ends);
        }
    }
    leases
}

/// A task's history and what was told about it, for whoever has to find out.
fn told(past: &Past, round: &Round, id: i64) -> String {
    let name = |state: &Option<State>| state.map_or("", State::name);
    let mut lines = vec![past.shape.definition().to_string()];
    for Event { id, step, from, to, attempt, worker, actor, reason, at, .. } in &past.events {
        let (from, to) = (name(from), to.name());
        lines.push(format!(
            "{id} step {step:?} {from} → {to} attempt {attempt:?} {worker:?} {actor:?} {reason:?} at {at}"
        ));
    }
    let receipts: Vec<&String> = round
        .log
        .iter()
        .filter_map(|entry| match entry {
            Entry::Claimed { receipt, task, .. } if *task == id => Some(receipt),
            _ => None,
        })
        .collect();
    for entry in round.log {
        match entry {
            Entry::Claimed { task, .. } if *task == id => lines.push(format!("{entry:?}")),
            Entry::Reported { receipt, .. } if receipts.contains(&receipt) => lines.push(format!("{entry:?}")),
            _ => {}
        }
    }
    lines.join("\n")
}

/// Each row must be a legal change of what the rows before have made.
fn walk(past: &Past, leases: &BTreeMap<(usize, i32, String), Vec<i64>>) -> Result<(), String> {
    let shape = past.shape;
    let first = past.events.first().ok_or("no history")?;
    if first.step.is_some() || first.from.is_some() || first.to != Pending {
        return Err("the history does not begin with the task".into());
    }
    let new = Walked {
        state: Pending,
        attempts: 0,
        not_before: first.at,
        attempted_at: None,
        retryable: None,
        lease_ends: None,
        settled_at: None,
    };
    let mut steps = vec![new; shape.steps.len()];
    let mut task = Pending;
    for event in &past.events[1..] {
        let wrong = |why: &str| Err(format!("event {}: {why}", event.id));
        let Some(number) = event.step else {
            if event.from != Some(task) || !task.task_may_become(event.to) {
                return wrong("an illegal change of the task");
            }
            task = event.to;
            continue;
        };
        let rule = &shape.steps[number - 1];
        let parents: Vec<Walked> = rule.parents.iter().map(|&parent| steps[parent - 1].clone()).collect();
        let step = &mut steps[number - 1];
        let attempt = event.attempt.unwrap_or(-1);
        if event.from != Some(step.state) {
            return wrong("it does not go on where the one before ended");
        }
        if event.from == Some(event.to) {
            step.not_before = match (step.attempted_at, event.backoff_seconds) {
                (_, Some(0)) => event.at,
                (Some(at), Some(seconds)) => at + seconds * 1_000_000,
                (None, Some(seconds)) => event.at + seconds * 1_000_000,
                (_, None) => return wrong("neither a change nor a backoff"),
            };
            continue;
        }
        if !step.state.step_may_become(event.to) {
            return wrong("an illegal change");
        }
        let another = step.attempts < rule.retry_limit && rule.retryable && step.retryable != Some(false);
        let expected = step.attempts + i32::from(event.to == InProgress);
        if attempt != expected {
            return wrong(&format!("attempt {expected} was to come"));
        }
        match event.to {
            InProgress => {
                let settled = parents.iter().all(|parent| parent.state.is_settled());
                let all_skipped = !parents.is_empty() && parents.iter().all(|parent| parent.state == Skipped);
                if !settled || all_skipped {
                    return wrong("its parents do not allow it");
                }
                if step.attempts >= rule.retry_limit || step.state == Error && !another {
                    return wrong("no attempt was left");
                }
                // The clocks of two sessions that settle parents differ: the earlier one is meant.
                let reached = parents.iter().filter_map(|parent| parent.settled_at).min().unwrap_or(first.at);
                let not_before = if step.attempts == 0 && step.state == Pending {
                    step.not_before.max(reached + unit(rule.delay)).min(step.not_before.max(reached))
                } else {
                    step.not_before
                };
                if !rule.waits && event.at < not_before {
                    return wrong(&format!("it was not due before {not_before}"));
                }
                step.attempts += 1;
                (step.attempted_at, step.retryable) = (Some(event.at), None);
                let key = (number, attempt, event.worker.clone().unwrap_or_default());
                step.lease_ends = leases.get(&key).and_then(|ends| ends.iter().min().copied());
            }
            Error => {
                step.retryable = event.retryable;
                let expired = event.reason.as_deref() == Some("lease_expired");
                if expired && step.lease_ends.is_some_and(|end| event.at < end) {
                    return wrong("its lease had not ended");
                }
                let attempted_at = step.attempted_at.unwrap_or(event.at);
                step.not_before = match event.backoff_seconds {
                    _ if expired => attempted_at,
                    Some(seconds) => attempted_at + seconds * 1_000_000,
                    None => event.at + unit(rule.backoff_after(step.attempts)),
                };
            }
            Pending => {
                step.attempts = if step.state == InProgress { step.attempts - 1 } else { 0 };
                (step.not_before, step.retryable) = (event.at, None);
            }
            Complete | Cancelled | Resolved | Skipped => step.settled_at = Some(event.at),
        }
        step.state = event.to;
    }
    if task != past.state {
        return Err(format!("the task is {}, and by its history {}", past.state.name(), task.name()));
    }
    let in_state = |state: State| steps.iter().filter(|step| step.state == state).count();
    let settled = steps.iter().filter(|step| step.state.is_settled()).count();
    let right = match task {
        Complete => settled == steps.len(),
        Cancelled => in_state(Cancelled) > 0 && in_state(Error) == 0 && settled < steps.len(),
        Error => settled < steps.len(),
        _ => false,
    };
    if right { Ok(()) } else { Err(format!("{} does not follow from its steps", task.name())) }
}

/// A limit: its name, and how many places it has.
type Limit = (String, usize);

/// At no point of the history are more steps in progress than a limit has places.
fn limits(tasks: &BTreeMap<i64, Past>, round: &Round) -> Result<(), String> {
    let mut events: Vec<(i64, i64, &Event)> =
        tasks.iter().flat_map(|(&task, past)| past.events.iter().map(move |event| (event.id, task, event))).collect();
    events.sort_by_key(|event| event.0);
    let mut held: BTreeMap<String, usize> = BTreeMap::new();
    for (_, task, event) in events {
        let Some(step) = event.step.filter(|_| event.from != Some(event.to)) else { continue };
        let (shape, context) = (tasks[&task].shape, &tasks[&task].context);
        let rule = &shape.steps[step - 1];
        let mut of_step: Vec<Limit> = Vec::new();
        of_step.extend(round.limits.get(&rule.queue).map(|&most| (rule.queue.clone(), most)));
        if shape.max_parallel > 0 {
            of_step.push((format!("task {task}"), shape.max_parallel));
        }
        if shape.max_per_key > 0 {
            of_step.push((format!("{} {context}", shape.name), shape.max_per_key));
        }
        for (name, most) in of_step.into_iter().filter(|_| !rule.waits) {
            let count = held.entry(name.clone()).or_default();
            if event.to == InProgress {
                *count += 1;
            } else if event.from == Some(InProgress) {
                *count -= 1;
            }
            if *count > most {
                return Err(format!("event {}: more than {most} under the limit of {name}", event.id));
            }
        }
    }
    Ok(())
}

/// What the sessions were told, and what is stored.
fn agree(client: &mut Client, id: i64, past: &Past, round: &Round) -> Result<(), String> {
    let mut claims: Vec<(usize, i32, String)> = Vec::new();
    let mut receipts: BTreeMap<&String, usize> = BTreeMap::new();
    for entry in round.log {
        if let Entry::Claimed { receipt, task, step, attempt, worker, .. } = entry
            && *task == id
        {
            claims.push((*step, *attempt, worker.clone()));
            receipts.insert(receipt, *step);
        }
    }
    let mut in_history: Vec<(usize, i32, String)> = Vec::new();
    for event in past.events.iter().filter(|event| event.to == InProgress && event.from != Some(InProgress)) {
        if let (Some(step), Some(attempt), Some(worker)) = (event.step, event.attempt, event.worker.clone())
            && !past.shape.steps[step - 1].waits
        {
            in_history.push((step, attempt, worker));
        }
    }
    claims.sort();
    in_history.sort();
    if claims != in_history {
        return Err(format!("workers were handed {claims:?}, and the history has {in_history:?}"));
    }
    for to in [Complete, Error] {
        let mut accepted: BTreeMap<usize, Vec<Option<i64>>> = BTreeMap::new();
        let mut done: BTreeSet<&String> = BTreeSet::new();
        let reports = |wanted: &'static str| {
            round.log.iter().filter_map(move |entry| match entry {
                Entry::Reported { receipt, to: state, payload, outcome }
                    if *state == to.name() && outcome == wanted =>
                {
                    Some((receipt, payload))
                }
                _ => None,
            })
        };
        for (receipt, payload) in reports("accepted") {
            if let Some(&step) = receipts.get(receipt) {
                accepted.entry(step).or_default().push(*payload);
                if !done.insert(receipt) {
                    return Err(format!("{receipt} was accepted twice"));
                }
            }
        }
        for (receipt, _) in reports("already_done") {
            if receipts.contains_key(receipt) && !done.contains(receipt) {
                return Err(format!("{receipt} was called done, and was never accepted"));
            }
        }
        for (place, rule) in past.shape.steps.iter().enumerate().filter(|(_, rule)| !rule.waits) {
            let step = place + 1;
            let by_worker = |event: &&Event| {
                event.step == Some(step) && event.to == to && event.from == Some(InProgress) && event.reason.is_none()
            };
            let count = past.events.iter().filter(by_worker).count();
            let told = accepted.get(&step).map_or(0, Vec::len);
            if told != count {
                return Err(format!("{}: {told} reports were accepted, and the history has {count}", rule.name));
            }
        }
        if to == Complete {
            let sql = "SELECT step_id, results::text FROM stepwise.steps WHERE task_id = $1 AND state = 'complete'";
            for row in client.query(sql, &[&id]).map_err(|error| format!("{error:?}"))? {
                let (step, results): (i32, Option<String>) = (row.get(0), row.get(1));
                let reported = accepted.get(&(step as usize)).and_then(|payloads| payloads.first().copied().flatten());
                let waits = past.shape.steps[step as usize - 1].waits;
                if !waits && results != reported.map(|payload| payload.to_string()) {
                    return Err(format!("step {step} has {results:?}, and {reported:?} was accepted"));
                }
            }
        }
    }
    Ok(())
}

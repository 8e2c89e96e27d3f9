//! What workers do, and what they are answered or refused with.
use super::State::*;
use super::{Cause, Key, Model, Statement, Time};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A SQLSTATE.
pub type Refusal = &'static str;
pub(super) const NOT_NOW: Refusal = "55000";
pub(super) const NOT_THERE: Refusal = "P0002";

/// What a worker holds in its hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    pub text: String,
    pub task: i64,
    pub step: usize,
}

#[derive(Clone, Debug)]
pub enum Verdict {
    Complete(Option<Value>),
    Fail { error: Option<Value>, retryable: Option<bool>, retry_after: Option<Time> },
}

/// What the passing of time has decided, in the order in which a claim or a tick says that it met it.
#[derive(Clone, Debug, PartialEq)]
pub enum Overdue {
    Lease(Key),
    Wait(Key),
    Task(i64),
}

/// What a claim handed out, as the worker sees it.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub receipt: Receipt,
    pub lease_ends: Time,
    /// What else the row says: compared as it is.
    pub rest: Value,
}

pub struct Claim<'a> {
    pub worker: &'a str,
    pub queues: Option<&'a [String]>,
    pub most: usize,
    pub lease: Option<Time>,
    /// What the database says: what it handed out and what it met.
    pub claimed: &'a [Claimed],
    pub met: &'a [Overdue],
    /// A step's exact `visible_at` before the claim. Times of the model are too coarse for an order.
    pub visible: &'a dyn Fn(Key) -> i64,
    /// Queues whose limit was lowered below what is still held: nothing is free until those steps end.
    pub overfull: &'a BTreeSet<String>,
}

/// Higher priority first, then the older; then any order will do.
type Rank = (i32, i64);

impl Model {
    /// Checks what a claim has done against what it may do, and does it.
    pub fn claim(&mut self, claim: &Claim) -> Result<(), String> {
        let chosen = |key: &Key| {
            let queue = &self.tasks[&key.0].rule(key.1).queue;
            !self.queues[queue].paused && claim.queues.is_none_or(|queues| queues.contains(queue))
        };
        let due: Vec<Key> = self.due().into_iter().filter(chosen).collect();
        let rank = |key: &Key| -> Rank { (-self.priority(*key), (claim.visible)(*key)) };
        let usable: Vec<Key> = due.iter().filter(|key| self.is_usable(**key)).copied().collect();
        let limited = due.iter().any(|key| self.is_limited(*key));
        let handed: Vec<Key> = claim.claimed.iter().map(|row| (row.receipt.task, row.receipt.step)).collect();
        let met_tasks = |key: &Key| claim.met.contains(&Overdue::Task(key.0));
        let has_met = |key: &Key| {
            met_tasks(key)
                || claim.met.iter().any(|met| matches!(met, Overdue::Lease(k) | Overdue::Wait(k) if k == key))
        };
        for (place, key) in handed.iter().enumerate() {
            if !usable.contains(key) || handed[..place].contains(key) {
                return Err(format!("{key:?} was handed out; those that may be: {usable:?}"));
            }
            if self.tasks[&key.0].step(key.1).state == InProgress && !claim.met.contains(&Overdue::Lease(*key)) {
                return Err(format!("{key:?} was handed out again without an end of its lease"));
            }
        }
        if limited {
            if handed.is_empty() {
                // Places that an ended lease holds come back when a claim meets it, which need not be this one. An
                // overfull queue may keep back a step that has locked the last place under another limit.
                let room = |key: &&Key| self.has_room(**key) && claim.overfull.is_empty();
                if let Some(key) = usable.iter().find(room) {
                    return Err(format!("nothing was handed out, though {key:?} is due and has a place"));
                }
            }
        } else {
            if handed.len() != claim.most.min(usable.len()) {
                return Err(format!("{} steps were handed out, of {usable:?}", handed.len()));
            }
            if !handed.windows(2).all(|pair| rank(&pair[0]) <= rank(&pair[1])) {
                return Err(format!("{handed:?} were handed out in the wrong order"));
            }
            let last = handed.last().filter(|_| handed.len() == claim.most).map(rank);
            for key in &due {
                let before = last.is_none_or(|last| rank(key) < last);
                let after = last.is_some_and(|last| rank(key) > last);
                let (is_usable, is_handed) = (usable.contains(key), handed.contains(key));
                let wrong = match (is_usable, before, after) {
                    (true, true, _) => !is_handed,
                    (true, _, true) => is_handed,
                    (false, true, _) => !has_met(key),
                    (false, _, true) => has_met(key) && !met_tasks(key),
                    _ => false,
                };
                if wrong {
                    return Err(format!("{key:?} is out of turn: handed out {handed:?}, met {:?}", claim.met));
                }
            }
        }
        let mut left = due.clone();
        left.extend(self.due().into_iter().filter(|_| limited));
        self.meet(claim.met, &left)?;
        let mut statement = Statement::default();
        for row in claim.claimed {
            let key = (row.receipt.task, row.receipt.step);
            let (task, until) = (&self.tasks[&key.0], self.lease_end(key, claim.lease));
            let expected = json!({
                "name": task.rule(key.1).name, "attempt": task.step(key.1).attempts + 1,
                "retry_limit": task.rule(key.1).retry_limit, "context": task.context,
                "dependencies": self.dependencies(key),
            });
            if row.lease_ends != until || row.rest != expected {
                let (ends, rest) = (row.lease_ends, &row.rest);
                return Err(format!("the worker got {rest} until {ends}, and not {expected} until {until}"));
            }
            self.row(key).worker = Some(claim.worker.to_owned());
            self.take(key, row.receipt.text.clone(), until, &mut statement, &Cause::default());
        }
        self.end(statement, &Cause::default());
        match handed.iter().find(|key| !self.within_limits(**key)) {
            Some(key) => Err(format!("{key:?} was handed out beyond a limit")),
            None => Ok(()),
        }
    }

    fn lease_end(&self, key: Key, lease: Option<Time>) -> Time {
        self.now + lease.unwrap_or_else(|| self.tasks[&key.0].rule(key.1).lease())
    }

    /// Does what time has decided, if it has. `among`: the steps that may have been met.
    fn meet(&mut self, met: &[Overdue], among: &[Key]) -> Result<(), String> {
        for overdue in met {
            let wrong = Err(format!("{overdue:?} was ended before its time"));
            match *overdue {
                Overdue::Lease(key) | Overdue::Wait(key) => {
                    let lease = matches!(overdue, Overdue::Lease(_));
                    let (task, now) = (&self.tasks[&key.0], self.now);
                    let step = task.step(key.1);
                    let over = step.visible.is_some_and(|end| end <= now) && among.contains(&key);
                    let fits =
                        if lease { step.state == InProgress } else { step.state == Pending && task.rule(key.1).waits };
                    if !over || !fits {
                        return wrong;
                    }
                    let lease_end = step.visible;
                    let reason = if lease { "lease_expired" } else { "signal_timeout" };
                    let row = self.row(key);
                    row.error = Some(json!({ "reason": reason }));
                    if lease {
                        (row.receipt, row.backoff) = (None, Some(0));
                    } else {
                        row.retryable = Some(false);
                    }
                    let mut statement = Statement::default();
                    self.fail(key, &mut statement, &Cause::reason(reason));
                    let row = self.row(key);
                    if lease && row.visible.is_some() {
                        // The next attempt is due at once: since the lease was over.
                        row.visible = lease_end;
                    }
                    self.end(statement, &Cause::reason(reason));
                }
                Overdue::Task(id) => {
                    if !self.is_overdue(id) || !among.iter().any(|key| key.0 == id) {
                        return wrong;
                    }
                    self.tasks.get_mut(&id).expect("it is there").timed_out = true;
                    self.end_steps(id, |state| !state.is_final(), Cancelled, &Cause::reason("deadline_exceeded"));
                }
            }
        }
        Ok(())
    }

    /// Leases, waits and tasks that it must have met: all that are over.
    pub fn tick(&mut self, met: &[Overdue]) -> Result<[usize; 3], String> {
        let due = self.due();
        let all: Vec<Key> =
            self.tasks.iter().flat_map(|(&id, task)| (1..=task.steps.len()).map(move |s| (id, s))).collect();
        for key in due {
            let (state, waits) = (self.tasks[&key.0].step(key.1).state, self.tasks[&key.0].rule(key.1).waits);
            let missed = match state {
                InProgress => !met.contains(&Overdue::Lease(key)),
                Pending if waits => !met.contains(&Overdue::Wait(key)),
                _ => false,
            };
            if missed {
                return Err(format!("the tick has missed {key:?}"));
            }
        }
        self.meet(met, &all)?;
        match self.tasks.keys().find(|id| self.is_overdue(**id)) {
            Some(id) => Err(format!("the tick has missed the deadline of task {id}")),
            None => {
                let count = |wanted: fn(&&Overdue) -> bool| met.iter().filter(wanted).count();
                let leases = count(|met| matches!(met, Overdue::Lease(_)));
                Ok([leases, count(|met| matches!(met, Overdue::Wait(_))), count(|met| matches!(met, Overdue::Task(_)))])
            }
        }
    }

    /// Reports of one call, the first about a receipt counts; the outcome of each.
    pub fn report(&mut self, reports: &[(Receipt, Verdict)]) -> Vec<&'static str> {
        let mut statement = Statement::default();
        let mut outcomes: Vec<Option<&'static str>> = vec![None; reports.len()];
        for (place, (receipt, verdict)) in reports.iter().enumerate() {
            if !self.is_held(receipt) || reports[..place].iter().any(|(earlier, _)| earlier == receipt) {
                continue;
            }
            outcomes[place] = Some("accepted");
            let (key, now) = ((receipt.task, receipt.step), self.now);
            let row = self.row(key);
            (row.error, row.retryable, row.backoff) = (None, None, None);
            match verdict.clone() {
                Verdict::Complete(results) => {
                    row.results = results;
                    self.finish(key, Complete, None, &mut statement, &Cause::default());
                }
                Verdict::Fail { error, retryable, retry_after } => {
                    let elapsed = now - row.attempted_at.expect("it was claimed");
                    (row.error, row.retryable, row.backoff) =
                        (error, retryable, retry_after.map(|after| after + elapsed));
                    self.fail(key, &mut statement, &Cause::default());
                }
            }
        }
        self.end(statement, &Cause::default());
        let refused = |(receipt, verdict): &(Receipt, Verdict)| {
            let Some(task) = self.tasks.get(&receipt.task) else { return "not_found" };
            let step = task.step(receipt.step);
            let reported = if let Verdict::Complete(_) = verdict { Complete } else { Error };
            let same = step.receipt.as_ref() == Some(&receipt.text) && step.state == reported;
            if same { "already_done" } else { "stale" }
        };
        outcomes.into_iter().zip(reports).map(|(outcome, report)| outcome.unwrap_or_else(|| refused(report))).collect()
    }

    pub fn single(outcome: &'static str) -> Result<&'static str, Refusal> {
        match outcome {
            "stale" => Err(NOT_NOW),
            "not_found" => Err(NOT_THERE),
            outcome => Ok(outcome),
        }
    }

    fn hold(&self, receipt: &Receipt) -> Result<(), Refusal> {
        match (self.tasks.contains_key(&receipt.task), self.is_held(receipt)) {
            (false, _) => Err(NOT_THERE),
            (true, false) => Err(NOT_NOW),
            (true, true) => Ok(()),
        }
    }

    pub fn extend(&mut self, receipt: &Receipt, lease: Option<Time>) -> Result<&'static str, Refusal> {
        self.hold(receipt)?;
        let (key, end) = ((receipt.task, receipt.step), self.lease_end((receipt.task, receipt.step), lease));
        self.row(key).visible = Some(end);
        Ok("accepted")
    }

    pub fn release(&mut self, receipt: &Receipt) -> Result<&'static str, Refusal> {
        self.hold(receipt)?;
        let key = (receipt.task, receipt.step);
        self.row(key).worker = None;
        let mut statement = Statement::default();
        self.back_to_pending(key, &mut statement, &Cause::default());
        self.end(statement, &Cause::default());
        Ok("accepted")
    }

    pub fn signal(&mut self, key: Key, payload: Value, cause: &Cause) -> Result<&'static str, Refusal> {
        let task = self.find(key)?;
        let (step, settled) = (task.step(key.1).clone(), task.parents_settled(key.1));
        if !task.rule(key.1).waits {
            return Err(NOT_NOW);
        }
        match (step.state, settled) {
            (Complete, _) => Ok("already_done"),
            (Pending, false) if step.signal.is_some() => Ok("already_done"),
            (Pending, false) => {
                self.row(key).signal = Some(payload);
                Ok("kept")
            }
            (Pending, true) => {
                let mut statement = Statement::default();
                self.take_by_nobody(key, &mut statement, cause);
                self.end(statement, cause);
                self.row(key).results = Some(payload);
                let mut statement = Statement::default();
                self.finish(key, Complete, None, &mut statement, cause);
                self.end(statement, cause);
                Ok("accepted")
            }
            _ => Err(NOT_NOW),
        }
    }
}

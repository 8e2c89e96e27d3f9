//! The rules of tasks and steps, written down once more: from what the documents say, without a line of `src/engine`, so
//! that a mistake there cannot hide here too. Plain and slow on purpose: nothing is kept that can be counted anew, and what
//! follows from a change is found by looking at every step until nothing more follows.
use super::shape::{Shape, StepShape};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Time in units of ten minutes since the walk began. A walk takes seconds, so every time of the database rounds to one.
pub type Time = i64;
pub const UNIT_SECONDS: i64 = 600;
pub const FOREVER: Time = i64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Pending,
    InProgress,
    Complete,
    Error,
    Cancelled,
    Resolved,
    Skipped,
}
use State::*;

impl State {
    pub const ALL: [State; 7] = [Pending, InProgress, Complete, Error, Cancelled, Resolved, Skipped];

    pub fn name(self) -> &'static str {
        match self {
            Pending => "pending",
            InProgress => "in_progress",
            Complete => "complete",
            Error => "error",
            Cancelled => "cancelled",
            Resolved => "resolved_manually",
            Skipped => "skipped",
        }
    }

    pub fn named(name: &str) -> State {
        State::ALL.into_iter().find(|state| state.name() == name).unwrap_or_else(|| panic!("{name} is no state"))
    }

    pub fn is_settled(self) -> bool {
        [Complete, Resolved, Skipped].contains(&self)
    }

    pub fn is_final(self) -> bool {
        self.is_settled() || self == Cancelled
    }

    /// The table of a step's changes.
    pub fn step_may_become(self, to: State) -> bool {
        match self {
            Pending => [InProgress, Error, Cancelled, Resolved, Skipped].contains(&to),
            InProgress => [Pending, Complete, Error, Cancelled, Resolved].contains(&to),
            Error => [Pending, InProgress, Cancelled, Resolved].contains(&to),
            _ => false,
        }
    }

    /// The table of a task's changes.
    pub fn task_may_become(self, to: State) -> bool {
        match self {
            Pending => [InProgress, Complete, Error, Cancelled, Resolved].contains(&to),
            InProgress => [Complete, Error, Cancelled, Resolved].contains(&to),
            Error => [Pending, InProgress, Cancelled, Resolved].contains(&to),
            _ => false,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Step {
    pub state: State,
    pub attempts: i32,
    /// From when it may be claimed, or the end of its lease.
    pub visible: Option<Time>,
    /// The receipt that it was last claimed with, while that counts.
    pub receipt: Option<String>,
    pub worker: Option<String>,
    /// An explicit backoff, counted from the last attempt.
    pub backoff: Option<Time>,
    pub retryable: Option<bool>,
    pub attempted_at: Option<Time>,
    pub failed_at: Option<Time>,
    pub finished_at: Option<Time>,
    pub results: Option<Value>,
    pub error: Option<Value>,
    pub signal: Option<Value>,
}

#[derive(Clone, Debug)]
pub struct Task {
    pub shape: Rc<Shape>,
    pub state: State,
    pub steps: Vec<Step>,
    pub context: Value,
    pub key: Option<String>,
    pub priority: i32,
    pub created_at: Time,
    pub started_at: Option<Time>,
    pub finished_at: Option<Time>,
    pub deadline: Option<Time>,
    pub timed_out: bool,
}

/// A row of the history.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub task: i64,
    /// From 1; `None`: of the task.
    pub step: Option<usize>,
    pub from: Option<State>,
    pub to: State,
    pub attempt: Option<i32>,
    pub worker: Option<String>,
    pub actor: Option<String>,
    pub metadata: Option<Value>,
    pub at: Time,
}

#[derive(Clone, Default, Debug)]
pub struct Queue {
    pub paused: bool,
    pub limit: usize,
}

/// Why something changes, and on whose word.
#[derive(Clone, Default)]
pub struct Cause {
    pub reason: Option<String>,
    pub actor: Option<String>,
}

impl Cause {
    pub fn reason(reason: &str) -> Cause {
        Cause { reason: Some(reason.to_owned()), actor: None }
    }

    pub fn by_hand() -> Cause {
        Cause { reason: None, actor: Some("postgres".to_owned()) }
    }
}

pub type Key = (i64, usize);

#[derive(Clone, Default)]
pub struct Model {
    pub now: Time,
    pub queues: BTreeMap<String, Queue>,
    pub tasks: BTreeMap<i64, Task>,
    pub history: Vec<Change>,
    /// How many receipts were drawn that nobody knows.
    drawn: u32,
}

/// What one statement changes: of which tasks, which of them began to run, and which steps fell from which.
#[derive(Default)]
struct Statement {
    tasks: BTreeSet<i64>,
    begun: BTreeSet<i64>,
}

impl Task {
    pub fn rule(&self, step: usize) -> &StepShape {
        &self.shape.steps[step - 1]
    }

    pub fn step(&self, step: usize) -> &Step {
        &self.steps[step - 1]
    }

    pub fn parents(&self, step: usize) -> Vec<State> {
        self.rule(step).parents.iter().map(|&parent| self.step(parent).state).collect()
    }

    pub fn parents_settled(&self, step: usize) -> bool {
        self.parents(step).iter().all(|state| state.is_settled())
    }

    pub fn failed_for_good(&self, step: usize) -> bool {
        let (rule, step) = (self.rule(step), self.step(step));
        let another = step.attempts < rule.retry_limit && rule.retryable && step.retryable != Some(false);
        step.state == Error && !another
    }

    pub fn attempt_left(&self, step: usize) -> bool {
        let (rule, step) = (self.rule(step), self.step(step));
        step.attempts < rule.retry_limit && (step.attempts == 0 || rule.retryable)
    }

    /// When the backoff of a waiting step ends.
    pub fn backoff_end(&self, number: usize) -> Option<Time> {
        let (rule, step) = (self.rule(number), self.step(number));
        match (step.state, step.backoff) {
            (Pending | Error, Some(backoff)) => match (step.attempted_at, step.state) {
                (Some(at), _) => Some(at + backoff),
                (None, Error) => step.failed_at.map(|at| at + backoff),
                (None, _) => step.visible,
            },
            (Error, None) => step.failed_at.map(|at| at + rule.backoff_after(step.attempts)),
            _ => None,
        }
    }

    pub fn count(&self, wanted: impl Fn(usize) -> bool) -> usize {
        (1..=self.steps.len()).filter(|&step| wanted(step)).count()
    }

    pub fn live(&self) -> usize {
        self.count(|step| self.step(step).visible.is_some())
    }

    pub fn completed(&self) -> usize {
        self.count(|step| self.step(step).state.is_settled())
    }

    pub fn failed(&self) -> usize {
        self.count(|step| self.failed_for_good(step))
    }

    pub fn cancelled(&self) -> usize {
        self.count(|step| self.step(step).state == Cancelled)
    }

    pub fn is_open(&self) -> bool {
        [Pending, InProgress].contains(&self.state)
    }

    /// How it ends when nothing can go on.
    fn outcome(&self) -> Option<State> {
        if self.live() > 0 {
            None
        } else if self.failed() > 0 {
            Some(Error)
        } else if self.completed() == self.steps.len() {
            Some(Complete)
        } else if self.timed_out {
            Some(Error)
        } else {
            Some(Cancelled)
        }
    }
}

impl Model {
    /// From when a step may run whose parents settle at `from`.
    fn visible_from(rule: &StepShape, from: Time) -> Time {
        match (rule.waits, rule.timeout) {
            (true, 0) => FOREVER,
            (true, timeout) => from + timeout,
            (false, _) if rule.retry_limit == 0 => FOREVER,
            (false, _) => from,
        }
    }

    fn log(&mut self, task: i64, step: Option<usize>, from: Option<State>, to: State, cause: &Cause, more: Value) {
        let row = step.map(|step| self.tasks[&task].step(step).clone());
        let mut metadata = more;
        if let Some(reason) = &cause.reason {
            metadata["reason"] = json!(reason);
        }
        if to == Error
            && cause.reason.as_deref() != Some("lease_expired")
            && let Some(row) = &row
        {
            let facts = [
                ("retryable", row.retryable.map(Value::from)),
                ("backoff_seconds", row.backoff.map(|backoff| json!(backoff))),
                ("error", row.error.clone()),
            ];
            for (name, fact) in facts {
                if let Some(fact) = fact {
                    metadata[name] = fact;
                }
            }
        }
        let worker = row.as_ref().and_then(|row| row.worker.clone());
        // A step that is given back, or reset, is logged with the attempt that it gives up: see `back_to_pending`.
        let attempt = row.as_ref().map(|row| row.attempts);
        let metadata = Some(metadata).filter(|metadata| metadata.as_object().is_some_and(|object| !object.is_empty()));
        let actor = cause.actor.clone();
        self.history.push(Change { task, step, from, to, attempt, worker, actor, metadata, at: self.now });
    }

    fn row(&mut self, (task, step): Key) -> &mut Step {
        &mut self.tasks.get_mut(&task).expect("the task is there").steps[step - 1]
    }

    // What each change of state makes of a step's row ---------------------------------------------------------------

    fn take(&mut self, key: Key, receipt: String, until: Time, statement: &mut Statement, cause: &Cause) {
        let now = self.now;
        let row = self.row(key);
        let from = row.state;
        *row = Step {
            state: InProgress,
            attempts: row.attempts + 1,
            visible: Some(until),
            receipt: Some(receipt),
            backoff: None,
            retryable: None,
            attempted_at: Some(now),
            finished_at: None,
            ..row.clone()
        };
        self.log(key.0, Some(key.1), Some(from), InProgress, cause, json!({}));
        statement.tasks.insert(key.0);
        statement.begun.insert(key.0);
    }

    fn take_by_nobody(&mut self, key: Key, statement: &mut Statement, cause: &Cause) {
        self.drawn += 1;
        let receipt = format!("unknown {}", self.drawn);
        let until = self.now + self.tasks[&key.0].rule(key.1).lease();
        self.take(key, receipt, until, statement, cause);
    }

    fn fail(&mut self, key: Key, statement: &mut Statement, cause: &Cause) {
        let now = self.now;
        let row = self.row(key);
        let from = row.state;
        (row.state, row.failed_at, row.finished_at, row.visible) = (Error, Some(now), None, None);
        if from != InProgress {
            row.receipt = None;
        } else {
            statement.begun.insert(key.0);
        }
        let task = &self.tasks[&key.0];
        if task.parents_settled(key.1) && !task.failed_for_good(key.1) {
            let until = task.backoff_end(key.1);
            self.row(key).visible = until;
        }
        self.log(key.0, Some(key.1), Some(from), Error, cause, json!({}));
        statement.tasks.insert(key.0);
    }

    fn back_to_pending(&mut self, key: Key, statement: &mut Statement, cause: &Cause) {
        let (rule, now) = (self.tasks[&key.0].rule(key.1).clone(), self.now);
        let settled = self.tasks[&key.0].parents_settled(key.1);
        let row = self.row(key);
        let (from, attempts) = (row.state, row.attempts);
        row.state = Pending;
        row.visible = settled.then(|| Model::visible_from(&rule, now));
        (row.receipt, row.backoff, row.retryable, row.finished_at) = (None, None, None, None);
        self.log(key.0, Some(key.1), Some(from), Pending, cause, json!({}));
        if from == InProgress {
            statement.begun.insert(key.0);
        }
        self.row(key).attempts = if from == InProgress { attempts - 1 } else { 0 };
        statement.tasks.insert(key.0);
    }

    fn finish(&mut self, key: Key, to: State, because: Option<&str>, statement: &mut Statement, cause: &Cause) {
        let now = self.now;
        let row = self.row(key);
        let from = row.state;
        (row.state, row.visible, row.backoff, row.finished_at) = (to, None, None, Some(now));
        if to != Complete {
            row.receipt = None;
        }
        if from == InProgress {
            statement.begun.insert(key.0);
        }
        let more = because.map_or(json!({}), |name| json!({"cause": name}));
        self.log(key.0, Some(key.1), Some(from), to, cause, more);
        statement.tasks.insert(key.0);
    }

    // What follows ------------------------------------------------------------------------------------------------

    /// Ends a statement: what follows for other steps, then for the tasks.
    fn end(&mut self, mut statement: Statement, cause: &Cause) {
        for task in statement.tasks.clone() {
            while self.follow(task, &mut statement, cause) {}
            self.settle(task, statement.begun.contains(&task), cause);
        }
    }

    /// One thing that follows from the states of a task's steps; whether there was any.
    fn follow(&mut self, id: i64, statement: &mut Statement, cause: &Cause) -> bool {
        let task = self.tasks[&id].clone();
        let pending = |step: usize| task.step(step).state == Pending;
        let all: Vec<usize> = (1..=task.steps.len()).collect();
        // A step falls with a cancelled parent, and the history names the step that the fall began with.
        if let Some(&step) = all.iter().find(|&&step| pending(step) && task.parents(step).contains(&Cancelled)) {
            let because = self.origin(id, step, Cancelled);
            self.finish((id, step), Cancelled, Some(&because), statement, cause);
            return true;
        }
        for &step in all.iter().filter(|&&step| pending(step)) {
            let parents = task.parents(step);
            if !parents.is_empty() && parents.iter().all(|&state| state == Skipped) {
                let because = self.origin(id, step, Skipped);
                self.finish((id, step), Skipped, Some(&because), statement, cause);
                return true;
            }
        }
        let reached = |step: usize| task.step(step).visible.is_none() && task.parents_settled(step);
        for &step in all.iter().filter(|&&step| reached(step)) {
            let (rule, now) = (task.rule(step).clone(), self.now);
            match task.step(step).state {
                Pending => self.row((id, step)).visible = Some(Model::visible_from(&rule, now + rule.delay)),
                Error if !task.failed_for_good(step) => {
                    self.row((id, step)).visible = task.backoff_end(step).max(Some(now));
                }
                _ => continue,
            }
            if task.step(step).signal.is_some() && task.step(step).state == Pending {
                self.take_by_nobody((id, step), statement, cause);
                let row = self.row((id, step));
                row.results = row.signal.take();
                self.finish((id, step), Complete, None, statement, cause);
            }
            return true;
        }
        false
    }

    /// The name of the step from which this one falls: that of a parent that fell itself is passed on.
    fn origin(&self, id: i64, step: usize, state: State) -> String {
        let task = &self.tasks[&id];
        let fallen = task.rule(step).parents.iter().filter(|&&parent| task.step(parent).state == state);
        let origin = |&parent: &usize| {
            let of_parent = |change: &&Change| change.task == id && change.step == Some(parent);
            let last = self.history.iter().rev().find(of_parent).and_then(|change| change.metadata.clone());
            let named = last.and_then(|metadata| metadata["cause"].as_str().map(str::to_owned));
            let name = named.unwrap_or_else(|| task.rule(parent).name.clone());
            task.shape.steps.iter().position(|rule| rule.name == name).expect("a step's name")
        };
        let first = fallen.map(origin).min().expect("a parent that fell");
        task.shape.steps[first].name.clone()
    }

    fn settle(&mut self, id: i64, begun: bool, cause: &Cause) {
        let task = &self.tasks[&id];
        let from = task.state;
        if from.is_final() {
            return;
        }
        let to = match task.outcome() {
            Some(outcome) => outcome,
            None if from == Error || from == Pending && !begun => Pending,
            None => InProgress,
        };
        if from == Error && to == Complete {
            self.set_task(id, Pending, cause);
        }
        self.set_task(id, to, cause);
    }

    fn set_task(&mut self, id: i64, to: State, cause: &Cause) {
        let now = self.now;
        let task = self.tasks.get_mut(&id).expect("the task is there");
        let from = task.state;
        if from == to {
            return;
        }
        task.state = to;
        if to == InProgress {
            task.started_at = task.started_at.or(Some(now));
        }
        if to == Pending || to == InProgress {
            task.finished_at = None;
            // Taken back to work by an operator, it has no deadline any more.
            task.timed_out = task.timed_out && from != Error;
        } else {
            (task.finished_at, task.deadline) = (Some(now), None);
            task.timed_out = task.timed_out && to == Error;
        }
        self.log(id, None, Some(from), to, cause, json!({}));
    }
}

pub mod operate;
mod said;
pub mod work;

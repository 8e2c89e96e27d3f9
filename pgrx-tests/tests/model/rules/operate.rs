//! How tasks begin, and what operators do to them.
use super::State::{self, *};
use super::work::{NOT_NOW, NOT_THERE, Refusal};
use super::{Cause, FOREVER, Key, Model, Statement, Step, Task, Time};
use crate::shape::Shape;
use serde_json::{Value, json};
use std::rc::Rc;

pub struct NewTask {
    pub shape: Rc<Shape>,
    pub context: Value,
    pub key: Option<String>,
    pub priority: i32,
    pub run_at: Option<Time>,
    pub bypass: Vec<usize>,
}

impl Model {
    // Start -------------------------------------------------------------------------------------------------------

    /// The task that has this key already.
    pub fn task_with_key(&self, new: &NewTask) -> Option<i64> {
        let same = |task: &Task| task.shape.name == new.shape.name && new.key.is_some() && task.key == new.key;
        self.tasks.iter().find(|(_, task)| same(task)).map(|(&id, _)| id)
    }

    pub fn create(&mut self, id: i64, new: &NewTask) {
        let now = self.now;
        let step = |number: usize| {
            let bypassed = new.bypass.contains(&number);
            Step {
                state: if bypassed { Resolved } else { Pending },
                attempts: 0,
                visible: None,
                receipt: None,
                worker: None,
                backoff: None,
                retryable: None,
                attempted_at: None,
                failed_at: None,
                finished_at: bypassed.then_some(now),
                results: None,
                error: None,
                signal: None,
            }
        };
        let count = new.shape.steps.len();
        let task = Task {
            shape: Rc::clone(&new.shape),
            state: Pending,
            steps: (1..=count).map(step).collect(),
            context: new.context.clone(),
            key: new.key.clone(),
            priority: new.priority,
            created_at: now,
            started_at: None,
            finished_at: None,
            deadline: new.shape.timeout.map(|timeout| new.run_at.unwrap_or(now) + timeout),
            timed_out: false,
        };
        self.tasks.insert(id, task);
        let cause = Cause::by_hand();
        self.log(id, None, None, Pending, &cause, json!({}));
        for step in 1..=count {
            let task = &self.tasks[&id];
            if new.bypass.contains(&step) {
                self.log(id, Some(step), Some(Pending), Resolved, &cause, json!({"bypassed": true}));
            } else if task.parents_settled(step) {
                let rule = task.rule(step).clone();
                let start = new.run_at.unwrap_or(now) + rule.delay;
                self.row((id, step)).visible = Some(Model::visible_from(&rule, start));
            }
        }
        self.settle(id, false, &cause);
    }

    // Operate -----------------------------------------------------------------------------------------------------

    pub(super) fn find(&self, (id, step): Key) -> Result<&Task, Refusal> {
        let task = self.tasks.get(&id).ok_or(NOT_THERE)?;
        if step > task.steps.len() { Err(NOT_THERE) } else { Ok(task) }
    }

    /// Resets (to `Pending`), resolves or cancels a step.
    pub fn act(&mut self, key: Key, to: State, results: Option<Value>, cause: &Cause) -> Result<&'static str, Refusal> {
        let from = self.find(key)?.step(key.1).state;
        if from == to {
            return Ok("already_done");
        }
        if !from.step_may_become(to) || to == Pending && from == InProgress {
            return Err(NOT_NOW);
        }
        self.change(key, to, results, cause)?;
        Ok("accepted")
    }

    fn change(&mut self, key: Key, to: State, results: Option<Value>, cause: &Cause) -> Result<(), Refusal> {
        // A reset is possible only while the task is not at its end.
        if self.tasks[&key.0].state.is_final() {
            return Err(NOT_NOW);
        }
        let mut statement = Statement::default();
        if let Some(results) = results {
            self.row(key).results = Some(results);
        }
        match to {
            Pending => self.back_to_pending(key, &mut statement, cause),
            InProgress => self.take_by_nobody(key, &mut statement, cause),
            Error => self.fail(key, &mut statement, cause),
            to => self.finish(key, to, None, &mut statement, cause),
        }
        self.end(statement, cause);
        Ok(())
    }

    /// `UPDATE stepwise.steps SET state = …`. `None`: whether there is a place cannot be told from here.
    pub fn update_step(&mut self, key: Key, to: State, overfull: bool) -> Result<(), Option<Refusal>> {
        let Ok(task) = self.find(key) else { return Ok(()) };
        let (step, rule) = (task.step(key.1), task.rule(key.1));
        if step.state == to {
            return Ok(());
        }
        if !step.state.step_may_become(to) {
            return Err(Some(NOT_NOW));
        }
        if to == InProgress {
            let due = rule.waits || step.visible.is_some_and(|at| at <= self.now);
            if !task.parents_settled(key.1) || step.attempts >= rule.retry_limit || !due {
                return Err(Some(NOT_NOW));
            }
            if !rule.waits && overfull && self.queues[&rule.queue].limit > 0 {
                return Err(None);
            }
            if !rule.waits && !self.has_room(key) {
                return Err(Some(NOT_NOW));
            }
        }
        self.change(key, to, None, &Cause::by_hand()).map_err(Some)
    }

    /// `UPDATE stepwise.tasks SET state = …`.
    pub fn update_task(&mut self, id: i64, to: State) -> Result<(), Refusal> {
        let Some(task) = self.tasks.get(&id) else { return Ok(()) };
        if task.state == to {
            return Ok(());
        }
        let allowed = match to {
            Complete => task.completed() == task.steps.len(),
            Error => task.live() == 0 && task.failed() > 0,
            Pending | InProgress if task.state == Error => task.live() > 0,
            _ => true,
        };
        if !allowed || !task.state.task_may_become(to) {
            return Err(NOT_NOW);
        }
        self.set_task(id, to, &Cause::by_hand());
        if [Cancelled, Resolved].contains(&to) {
            self.end_steps(id, |state| !state.is_final(), Cancelled, &Cause::reason("task_ended"));
        }
        Ok(())
    }

    /// Changes all steps of a task that are in such a state at once; how many.
    pub(super) fn end_steps(&mut self, id: i64, which: impl Fn(State) -> bool, to: State, cause: &Cause) -> usize {
        let mut statement = Statement::default();
        let steps: Vec<usize> = (1..=self.tasks[&id].steps.len()).collect();
        let chosen: Vec<usize> = steps.into_iter().filter(|&step| which(self.tasks[&id].step(step).state)).collect();
        for &step in &chosen {
            match to {
                Pending => self.back_to_pending((id, step), &mut statement, cause),
                to => self.finish((id, step), to, None, &mut statement, cause),
            }
        }
        self.end(statement, cause);
        chosen.len()
    }

    /// `cancel_task`, and `retry_task` with `Pending`.
    pub fn act_on_all(&mut self, id: i64, to: State, cause: &Cause) -> Result<usize, Refusal> {
        let from = self.tasks.get(&id).ok_or(NOT_THERE)?.state;
        let which = |state: State| if to == Pending { state == Error } else { !state.is_final() };
        if from.is_final() {
            return if to == from { Ok(0) } else { Err(NOT_NOW) };
        }
        let changed = self.end_steps(id, which, to, cause);
        // Ended by its deadline, which outweighs its cancelled steps.
        if to == Cancelled && self.tasks[&id].state == Error {
            self.set_task(id, Cancelled, cause);
        }
        Ok(changed)
    }

    fn log_backoff(&mut self, key: Key, backoff: Time, cause: &Cause) {
        let state = self.tasks[&key.0].step(key.1).state;
        self.log(key.0, Some(key.1), Some(state), state, cause, json!({}));
        let mut metadata = json!({ "backoff_seconds": backoff });
        if let Some(reason) = &cause.reason {
            metadata["reason"] = json!(reason);
        }
        self.history.last_mut().expect("it was just logged").metadata = Some(metadata);
    }

    pub fn set_backoff(&mut self, key: Key, backoff: Time, cause: &Cause) -> Result<&'static str, Refusal> {
        let task = self.find(key)?;
        let (step, rule) = (task.step(key.1), task.rule(key.1));
        let never = step.state == Pending && (rule.waits || rule.retry_limit == 0);
        let waits = [Pending, Error].contains(&step.state);
        if !waits || never || !task.parents_settled(key.1) || task.failed_for_good(key.1) {
            return Err(NOT_NOW);
        }
        // A step that was put into error by hand has no attempt behind it, but its failure.
        let from = step.attempted_at.or(step.failed_at.filter(|_| step.state == Error));
        let elapsed = from.map_or(0, |at| self.now - at);
        let end = self.now + backoff;
        let row = self.row(key);
        (row.backoff, row.visible) = (Some(elapsed + backoff), Some(end));
        self.log_backoff(key, elapsed + backoff, cause);
        Ok("accepted")
    }

    pub fn release_backoff(&mut self, id: i64, cause: &Cause) -> Result<usize, Refusal> {
        let (task, now) = (self.tasks.get(&id).ok_or(NOT_THERE)?, self.now);
        let rests = |step: &usize| {
            let step = task.step(*step);
            let backs_off = step.state == Error || step.state == Pending && step.backoff.is_some();
            backs_off && step.visible.is_some_and(|at| at > now && at < FOREVER)
        };
        let chosen: Vec<usize> = (1..=task.steps.len()).filter(rests).collect();
        for &step in &chosen {
            let row = self.row((id, step));
            (row.backoff, row.visible) = (Some(0), Some(now));
            self.log_backoff((id, step), 0, cause);
        }
        Ok(chosen.len())
    }

    pub fn pause(&mut self, queue: &str, paused: bool) -> bool {
        let queue = self.queues.get_mut(queue).expect("a queue");
        std::mem::replace(&mut queue.paused, paused) != paused
    }

    /// Removes tasks; how many.
    pub fn purge(&mut self, older_than: Time, most: usize, states: &[State]) -> usize {
        let old = |task: &Task| task.finished_at.is_some_and(|at| at + older_than <= self.now);
        let gone = self.tasks.iter().filter(|(_, task)| states.contains(&task.state) && old(task));
        let gone: Vec<i64> = gone.map(|(&id, _)| id).take(most).collect();
        self.tasks.retain(|id, _| !gone.contains(id));
        self.history.retain(|change| !gone.contains(&change.task));
        gone.len()
    }
}

//! What operators do, by functions and by UPDATE.
use super::{Step, Walk, duration, or_null, quoted};
use crate::command::Command;
use crate::rules::{Cause, Key, State};
use serde_json::{Value, json};

impl Walk<'_> {
    pub(super) fn operate(&mut self, command: &Command) -> Step {
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
        let mut found = self.task(*task);
        let ends = matches!(command, Command::UpdateTask { to: State::Resolved | State::Cancelled, .. });
        if ends && task.number.is_multiple_of(2) {
            // By hand is how a failed task is laid to rest, and there are few.
            let failed = |(id, _): &&(i64, String)| self.model.tasks.get(id).is_some_and(|t| t.state == State::Error);
            found = self.tasks.iter().rev().find(failed).or(found);
        }
        let Some((id, name)) = found.cloned() else { return Ok(()) };
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
                let results = (*to == State::Resolved && step.is_multiple_of(2)).then(|| json!({"by": "hand"}));
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
                // A step that failed by hand, without an attempt, is rare: where there is one, it is that.
                let by_hand =
                    |key: Key| state(key) == State::Error && model.tasks[&key.0].step(key.1).attempted_at.is_none();
                let step = match model.tasks.get(&id).is_some_and(|task| task.count(|step| by_hand((id, step))) > 0) {
                    true => self.step(id, *step, by_hand),
                    false => self.step(id, *step, |key| [State::Error, State::Pending].contains(&state(key))),
                };
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
}

//! When each step waited, ran and rested, from the history.
//!
//! In: bars between two times. Out: how they are drawn.
use super::model::{Change, Picture};
use crate::engine::rule::StepRule;
use crate::engine::state::StepState;
use crate::engine::time::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Could be claimed, and was not.
    Wait,
    /// An attempt, and the state in which it left the step; `InProgress`: it goes on.
    Run(StepState),
    /// Between a failure and the moment from which the step may be claimed again.
    Backoff,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bar {
    pub kind: Kind,
    pub from: Timestamp,
    pub to: Timestamp,
    /// Of a run.
    pub attempt: Option<i32>,
    pub worker: Option<String>,
}

/// The bars of one step, in the order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    pub step_id: i32,
    pub bars: Vec<Bar>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chart {
    pub start: Timestamp,
    pub end: Timestamp,
    /// By the start of the first bar.
    pub lanes: Vec<Lane>,
}

/// `None`: a template, or nothing has happened.
pub fn chart(picture: &Picture) -> Option<Chart> {
    let task = picture.task.as_ref()?;
    let mut of_step: Vec<Vec<&Change>> = vec![Vec::new(); picture.steps.len()];
    for change in &task.history {
        let index = change.step_id.and_then(|id| usize::try_from(id).ok()?.checked_sub(1));
        if let Some(list) = index.and_then(|index| of_step.get_mut(index)) {
            list.push(change);
        }
    }
    let settled: Vec<Option<Timestamp>> =
        of_step.iter().map(|list| list.iter().find(|change| change.to.settles()).map(|change| change.at)).collect();
    let end = task.finished_at.unwrap_or(task.now).max(task.created_at);
    let mut lanes = Vec::new();
    for ((changes, step_id), step) in of_step.iter().zip(1_i32..).zip(&picture.steps) {
        // Since its last parent was settled.
        let parents = picture.graph.parents(step_id).iter();
        let mut ready = parents.map(|&parent| settled.get(parent as usize - 1).copied().flatten());
        let ready = ready.try_fold(task.created_at, |latest, at| at.map(|at| latest.max(at)));
        let mut walk =
            Walk { task_id: task.task_id, step_id, rule: step.rule, claimed: None, bars: Vec::new(), open: None };
        walk.open = ready.map(|from| Open::Wait { from });
        for change in changes {
            walk.take(change);
        }
        // Nothing comes to a step that nobody can claim.
        let visible_at = step.row.as_ref().and_then(|row| row.visible_at);
        let bars = walk.finish(end, visible_at.is_some_and(Timestamp::is_finite));
        if !bars.is_empty() {
            lanes.push(Lane { step_id, bars });
        }
    }
    lanes.sort_by_key(|lane| (lane.bars.first().map(|bar| bar.from), lane.step_id));
    (!lanes.is_empty()).then_some(Chart { start: task.created_at, end, lanes })
}

/// What is going on with a step, and since when.
enum Open {
    Wait { from: Timestamp },
    Run { from: Timestamp, attempt: Option<i32>, worker: Option<String> },
    Backoff { from: Timestamp, until: Timestamp },
}

/// The history of one step, change by change.
struct Walk {
    task_id: i64,
    step_id: i32,
    rule: StepRule,
    /// When its last attempt began.
    claimed: Option<Timestamp>,
    bars: Vec<Bar>,
    open: Option<Open>,
}

impl Walk {
    fn take(&mut self, change: &Change) {
        let at = change.at;
        if change.sets_backoff() {
            self.close(at, change.to);
            self.open = Some(Open::Backoff { from: at, until: change.backoff_end(self.claimed).unwrap_or(at) });
            return;
        }
        self.close(at, change.to);
        self.open = match change.to {
            StepState::InProgress => {
                self.claimed = Some(at);
                Some(Open::Run { from: at, attempt: change.attempt, worker: change.worker.clone() })
            }
            StepState::Pending => Some(Open::Wait { from: at }),
            StepState::Error => self.after_failure(change),
            _ => None,
        };
    }

    /// Nothing, where no further attempt is allowed: such a step waits for an operator, not for a worker.
    fn after_failure(&self, change: &Change) -> Option<Open> {
        let attempt = change.attempt.unwrap_or(0);
        let again = attempt < self.rule.retry_limit && self.rule.retryable && change.retryable != Some(false);
        let usual = || change.at.plus(self.rule.backoff.after(attempt, self.task_id, self.step_id));
        let until =
            if change.lease_expired { change.at } else { change.backoff_end(self.claimed).unwrap_or_else(usual) };
        again.then_some(Open::Backoff { from: change.at, until })
    }

    fn close(&mut self, at: Timestamp, to: StepState) {
        match self.open.take() {
            None => {}
            Some(Open::Wait { from }) => self.push(Kind::Wait, from, at),
            Some(Open::Run { from, attempt, worker }) => {
                self.bars.push(Bar { kind: Kind::Run(to), from, to: at.max(from), attempt, worker });
            }
            Some(Open::Backoff { from, until }) => {
                self.push(Kind::Backoff, from, until.min(at));
                self.push(Kind::Wait, until.max(from), at);
            }
        }
    }

    fn push(&mut self, kind: Kind, from: Timestamp, to: Timestamp) {
        if from < to {
            self.bars.push(Bar { kind, from, to, attempt: None, worker: None });
        }
    }

    fn finish(mut self, end: Timestamp, can_go_on: bool) -> Vec<Bar> {
        if can_go_on {
            self.close(end, StepState::InProgress);
        }
        self.bars
    }
}

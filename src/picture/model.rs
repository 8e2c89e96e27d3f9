//! What is drawn: a template, or a task of it with what has become of its steps. The store fills it in.
//!
//! In: the facts, and what they amount to in words (whom a step waits for, how long it ran). Out: how it looks.
use super::legible::{duration, shown};
use crate::engine::graph::Graph;
use crate::engine::rule::StepRule;
use crate::engine::state::{StepState, TaskState};
use crate::engine::time::{Span, Timestamp};

/// A template, or a task. `steps` holds step `i + 1` at `i`.
pub struct Picture<'a> {
    /// `namespace/name@version`
    pub label: String,
    pub graph: &'a Graph,
    pub steps: Vec<Step>,
    /// `None`: the template is drawn, without states.
    pub task: Option<Task>,
}

/// A step as the template defines it and, in a picture of a task, its row. Texts are [`shown`] already.
pub struct Step {
    pub name: String,
    pub queue: String,
    pub rule: StepRule,
    pub row: Option<Row>,
}

/// What the row of a step says.
pub struct Row {
    pub state: StepState,
    pub attempts: i32,
    pub worker: Option<String>,
    pub visible_at: Option<Timestamp>,
    pub last_attempted_at: Option<Timestamp>,
    pub last_failure_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub queue_paused: bool,
}

pub struct Task {
    pub task_id: i64,
    pub state: TaskState,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    /// It ended because its time was over.
    pub timed_out: bool,
    /// The moment that is drawn.
    pub now: Timestamp,
    /// By event_id. Only `html` needs it; empty in the other formats.
    pub history: Vec<Change>,
    /// There is more history than was read.
    pub history_is_cut: bool,
}

/// One row of the history. A task's states are among those of steps.
#[derive(Debug, Clone)]
pub struct Change {
    pub at: Timestamp,
    /// `None`: the task itself.
    pub step_id: Option<i32>,
    pub from: Option<StepState>,
    pub to: StepState,
    pub attempt: Option<i32>,
    pub worker: Option<String>,
    pub actor: Option<String>,
    /// Why, and what the worker reported.
    pub note: String,
    /// An explicit backoff, from the start of the last attempt.
    pub backoff_seconds: Option<i32>,
    /// What a failure said about another attempt.
    pub retryable: Option<bool>,
    /// The attempt ended with its lease: no backoff follows.
    pub lease_expired: bool,
}

impl Change {
    /// Nothing but the backoff has changed.
    pub fn sets_backoff(&self) -> bool {
        self.from == Some(self.to)
    }

    /// When the explicit backoff ends: it counts from the start of the last attempt.
    pub fn backoff_end(&self, claimed: Option<Timestamp>) -> Option<Timestamp> {
        let seconds = i64::from(self.backoff_seconds?);
        Some(claimed.unwrap_or(self.at).plus(Span::from_secs(seconds)))
    }
}

/// Parents, children or others by name: more are counted, not listed.
const NAMED: usize = 3;

impl Picture<'_> {
    pub fn step(&self, step_id: i32) -> Option<&Step> {
        usize::try_from(step_id).ok()?.checked_sub(1).and_then(|index| self.steps.get(index))
    }

    pub fn name(&self, step_id: i32) -> &str {
        self.step(step_id).map_or("", |step| &step.name)
    }

    fn state(&self, step_id: i32) -> Option<StepState> {
        self.step(step_id)?.row.as_ref().map(|row| row.state)
    }

    /// Whether the steps after this one no longer wait for it.
    pub fn is_settled(&self, step_id: i32) -> bool {
        self.state(step_id).is_some_and(StepState::settles)
    }

    /// How many steps each state has, those without any left out.
    pub fn tally(&self) -> Vec<(StepState, usize)> {
        let mut counts = StepState::ALL.map(|state| (state, 0));
        for row in self.steps.iter().filter_map(|step| step.row.as_ref()) {
            counts[row.state as usize].1 += 1;
        }
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Steps that no other step waits for any more.
    pub fn settled(&self) -> usize {
        self.tally().iter().filter(|(state, _)| state.settles()).map(|(_, count)| count).sum()
    }

    /// How long the task has been there: until its end, or until now.
    pub fn age(&self) -> Option<Span> {
        let task = self.task.as_ref()?;
        Some(positive(task.finished_at.unwrap_or(task.now).since(task.created_at)))
    }

    /// `2 charge, 3 gift_wrap and 4 more`
    pub fn named(&self, step_ids: &[i32]) -> String {
        let named: Vec<String> = step_ids.iter().take(NAMED).map(|&id| format!("{id} {}", self.name(id))).collect();
        match step_ids.len().checked_sub(NAMED) {
            Some(more @ 1..) => format!("{} and {more} more", named.join(", ")),
            _ => named.join(", "),
        }
    }

    /// The run time of the last attempt: until it ended, or until now.
    pub fn ran(&self, step: &Step) -> Option<Span> {
        let (row, task) = (step.row.as_ref()?, self.task.as_ref()?);
        let ended = match row.state {
            StepState::InProgress => Some(task.now),
            StepState::Complete => row.finished_at,
            StepState::Error => row.last_failure_at,
            _ => None,
        };
        Some(positive(ended?.since(row.last_attempted_at?)))
    }

    /// Whether nobody holds the step any more: its lease has ended, which nobody has noticed yet.
    pub fn is_abandoned(&self, step: &Step) -> bool {
        let (Some(row), Some(task)) = (&step.row, &self.task) else { return false };
        row.state == StepState::InProgress && row.visible_at.is_some_and(|until| until <= task.now)
    }

    /// What a step waits for, or what comes next; empty where its state says all.
    pub fn outlook(&self, step_id: i32) -> String {
        let Some((step, task)) = self.step(step_id).zip(self.task.as_ref()) else { return String::new() };
        let Some(row) = &step.row else { return String::new() };
        let left = |until: Timestamp| (until > task.now).then(|| duration(until.since(task.now)));
        match (row.state, row.visible_at) {
            (StepState::Pending, None) => {
                let parents = self.graph.parents(step_id);
                let open: Vec<i32> = parents.iter().copied().filter(|&parent| !self.is_settled(parent)).collect();
                if open.is_empty() { String::new() } else { format!("waits for {}", self.named(&open)) }
            }
            (StepState::Pending | StepState::Error, Some(Timestamp::INFINITY)) => "waits for an operator".into(),
            (StepState::InProgress, Some(until)) => {
                left(until).map_or_else(|| "its lease has ended".into(), |left| format!("lease ends in {left}"))
            }
            (StepState::Error, None) => "failed for good".into(),
            (StepState::Error, Some(until)) if left(until).is_some() => {
                format!("next attempt in {}", left(until).unwrap_or_default())
            }
            (StepState::Pending, Some(until)) if left(until).is_some() => {
                format!("delayed for {}", left(until).unwrap_or_default())
            }
            (StepState::Pending | StepState::Error, Some(_)) if row.queue_paused => {
                format!("queue {} is paused", step.queue)
            }
            (StepState::Pending, Some(_)) => "ready".into(),
            (StepState::Error, Some(_)) => "ready again".into(),
            _ => String::new(),
        }
    }

    /// `task 1 of shop/fulfil_order@1.2.0`, or of a template its label.
    pub fn title(&self) -> String {
        match &self.task {
            Some(task) => format!("task {} of {}", task.task_id, self.label),
            None => format!("template {}", self.label),
        }
    }

    /// How far it is, in one line: no times.
    pub fn summary(&self) -> String {
        let steps = self.steps.len();
        let plural = if steps == 1 { "step" } else { "steps" };
        match &self.task {
            Some(task) => {
                let why = if task.timed_out { " (timed out)" } else { "" };
                format!("{}{why}, {} of {steps} {plural} done", task.state, self.settled())
            }
            None => {
                let levels = self.graph.step_ids().map(|id| self.graph.level(id) + 1).max().unwrap_or(0);
                format!("{steps} {plural} on {levels} {}", if levels == 1 { "level" } else { "levels" })
            }
        }
    }
}

/// A text of a user as a field of the model.
pub fn text(value: impl AsRef<str>) -> String {
    shown(value.as_ref()).into_owned()
}

/// Clocks go back.
pub fn positive(span: Span) -> Span {
    Span(span.0.max(0))
}

//! A dry run: which transitions a task of a template would go through if its attempts ended as a script says.
//!
//! In: the other rules, put to work on rows in memory, one step at a time, with a clock that jumps from one due time to
//! the next. Out: storing anything; limits on steps in progress, because never more than one is.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value};
use thiserror::Error;

use super::cascade::{Settled, falls};
use super::graph::Graph;
use super::outcome::{TaskRow, settle};
use super::rule::{StepKind, StepRule};
use super::start::initial_steps;
use super::state::{StepState, TaskState};
use super::template::Template;
use super::time::{Span, Timestamp};
use super::transition::{StepKey, StepRow, apply, failed_for_good};

/// The most transitions of one simulation.
pub const MAX_TRANSITIONS: usize = 1_000_000;

/// One change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Since the start of the task.
    pub after: Span,
    /// `None`: of the task.
    pub step_id: Option<i32>,
    pub from: Option<&'static str>,
    pub to: &'static str,
    pub attempt: Option<i32>,
}

/// Why a script is refused, or a simulation given up.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SimulationError {
    #[error("outcomes must be a JSON object")]
    NotAnObject,
    #[error("outcomes name a step that the template does not have")]
    UnknownStep { step: String },
    #[error("invalid outcome of a step")]
    BadOutcome { step: String, outcome: String },
    #[error("simulation takes more than {MAX_TRANSITIONS} transitions")]
    TooLong,
}

/// How a step ends when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Complete,
    /// The attempt fails; of a wait: no signal comes.
    Error,
    /// An operator decides it instead.
    Decided(StepState),
}

/// The endings of one step's attempts; the last one repeats.
type Endings = Vec<Ending>;

fn ending(outcome: &Value) -> Option<Ending> {
    Some(match outcome.as_str()? {
        "complete" => Ending::Complete,
        "error" => Ending::Error,
        "cancelled" => Ending::Decided(StepState::Cancelled),
        "resolved_manually" => Ending::Decided(StepState::ResolvedManually),
        "skipped" => Ending::Decided(StepState::Skipped),
        _ => return None,
    })
}

/// A state, an array of states one for each attempt, or a number of attempts that fail before one completes.
fn endings(outcome: &Value) -> Option<Endings> {
    match outcome {
        Value::Number(failures) => {
            let failures = usize::try_from(failures.as_u64()?).ok().filter(|&count| count <= 1000)?;
            Some(std::iter::repeat_n(Ending::Error, failures).chain([Ending::Complete]).collect())
        }
        Value::Array(outcomes) if !outcomes.is_empty() => outcomes.iter().map(ending).collect(),
        outcome => ending(outcome).map(|ending| vec![ending]),
    }
}

fn script(template: &Template, outcomes: &Value) -> Result<HashMap<i32, Endings>, SimulationError> {
    let none = Map::new();
    let outcomes = match outcomes {
        Value::Object(outcomes) => outcomes,
        Value::Null => &none,
        _ => return Err(SimulationError::NotAnObject),
    };
    let ids: HashMap<&str, i32> = template.steps.iter().map(|step| step.name.as_str()).zip(1..).collect();
    let mut script = HashMap::with_capacity(outcomes.len());
    for (step, outcome) in outcomes {
        let id = *ids.get(step.as_str()).ok_or_else(|| SimulationError::UnknownStep { step: step.clone() })?;
        let bad = || SimulationError::BadOutcome { step: step.clone(), outcome: outcome.to_string() };
        script.insert(id, endings(outcome).ok_or_else(bad)?);
    }
    Ok(script)
}

struct Simulation<'a> {
    graph: &'a Graph,
    rules: Vec<StepRule>,
    priorities: Vec<i16>,
    script: HashMap<i32, Endings>,
    rows: Vec<StepRow>,
    task: TaskRow,
    now: Timestamp,
    /// Steps that can be taken now: by priority, then age.
    due: BTreeSet<(Reverse<i16>, Timestamp, i32)>,
    /// Steps that become visible later.
    later: BTreeSet<(Timestamp, i32)>,
    transitions: Vec<Transition>,
    /// Called with each transition: there may be a million, and who waits for them may have given up.
    go_on: &'a mut dyn FnMut(),
}

/// The transitions of a task of `template` whose steps end as `outcomes` says; a step that it does not name completes.
/// `go_on` is called on the way, again and again; a panic of it ends the simulation.
pub fn simulate(
    template: &Template,
    outcomes: &Value,
    go_on: &mut dyn FnMut(),
) -> Result<Vec<Transition>, SimulationError> {
    let start = Timestamp(0);
    let rules: Vec<StepRule> = template.steps.iter().map(|step| step.rule).collect();
    let initial = initial_steps(&template.graph, &HashSet::new());
    let row = |(step, rule): (&super::start::InitialStep, &StepRule)| StepRow {
        state: step.state,
        attempts: 0,
        remaining_parents: step.remaining_parents,
        visible_at: step.ready.then(|| rule.visible_from(start)),
        claim_token: None,
        backoff_request_seconds: None,
        retryable: None,
        last_attempted_at: None,
        last_failure_at: None,
        finished_at: None,
    };
    let rows: Vec<StepRow> = initial.iter().zip(&rules).map(row).collect();
    let live = rows.iter().filter(|row| row.visible_at.is_some()).count() as i32;
    let task = TaskRow {
        state: TaskState::Pending,
        total: rows.len() as i32,
        live,
        completed: 0,
        failed: 0,
        cancelled: 0,
        timed_out: false,
        deadline: template.timeout.map(|timeout| start.plus(timeout)),
        started_at: None,
        finished_at: None,
    };
    let mut simulation = Simulation {
        graph: &template.graph,
        priorities: template.steps.iter().map(|step| step.priority).collect(),
        script: script(template, outcomes)?,
        rules,
        rows,
        task,
        now: start,
        due: BTreeSet::new(),
        later: BTreeSet::new(),
        transitions: Vec::new(),
        go_on,
    };
    simulation.record(None, None, TaskState::Pending.as_str(), None)?;
    for step_id in template.graph.step_ids() {
        simulation.queue(step_id);
    }
    simulation.run()?;
    Ok(simulation.transitions)
}

impl Simulation<'_> {
    fn index(step_id: i32) -> usize {
        step_id as usize - 1
    }

    fn row(&self, step_id: i32) -> &StepRow {
        &self.rows[Self::index(step_id)]
    }

    fn record(
        &mut self,
        step_id: Option<i32>,
        from: Option<&'static str>,
        to: &'static str,
        attempt: Option<i32>,
    ) -> Result<(), SimulationError> {
        if self.transitions.len() >= MAX_TRANSITIONS {
            return Err(SimulationError::TooLong);
        }
        (self.go_on)();
        self.transitions.push(Transition { after: self.now.since(Timestamp(0)), step_id, from, to, attempt });
        Ok(())
    }

    fn ending(&self, step_id: i32) -> Ending {
        let attempt = self.row(step_id).attempts.max(0) as usize;
        let endings = self.script.get(&step_id);
        endings.and_then(|endings| endings.get(attempt).or(endings.last())).copied().unwrap_or(Ending::Complete)
    }

    /// Puts a step where it is found when its time comes. A wait that will be signalled is due as soon as it is reached.
    fn queue(&mut self, step_id: i32) {
        let index = Self::index(step_id);
        let Some(visible_at) = self.rows[index].visible_at else { return };
        let signalled = self.rules[index].kind == StepKind::Wait && self.ending(step_id) != Ending::Error;
        if visible_at <= self.now || signalled {
            self.due.insert((Reverse(self.priorities[index]), visible_at, step_id));
        } else if visible_at.is_finite() {
            self.later.insert((visible_at, step_id));
        }
    }

    fn run(&mut self) -> Result<(), SimulationError> {
        while !self.ended() {
            if let Some((_, _, step_id)) = self.due.pop_first() {
                self.take(step_id)?;
                continue;
            }
            let next = self.later.first().map(|(at, _)| *at);
            match self.task.deadline.filter(|deadline| next.is_none_or(|next| *deadline <= next)) {
                Some(deadline) => {
                    self.now = deadline;
                    self.time_out()?;
                }
                None => {
                    let Some(next) = next else { break };
                    self.now = next;
                    while let Some((at, step_id)) = self.later.first().copied().filter(|(at, _)| *at <= next) {
                        self.later.remove(&(at, step_id));
                        self.queue(step_id);
                    }
                }
            }
        }
        Ok(())
    }

    fn ended(&self) -> bool {
        self.task.finished_at.is_some()
    }

    /// Lets a step have its turn, if it still wants one.
    fn take(&mut self, step_id: i32) -> Result<(), SimulationError> {
        if self.row(step_id).visible_at.is_none() {
            return Ok(());
        }
        let waits = self.rules[Self::index(step_id)].kind == StepKind::Wait;
        match self.ending(step_id) {
            Ending::Decided(state) => self.operate(&[(step_id, state)]),
            // Nobody takes it: its time is over.
            Ending::Error if waits => self.operate(&[(step_id, StepState::Error)]),
            ending => {
                self.operate(&[(step_id, StepState::InProgress)])?;
                let to = if ending == Ending::Complete { StepState::Complete } else { StepState::Error };
                self.operate(&[(step_id, to)])
            }
        }
    }

    fn time_out(&mut self) -> Result<(), SimulationError> {
        self.task.timed_out = true;
        let open: Vec<(i32, StepState)> = self
            .graph
            .step_ids()
            .filter(|&step_id| !self.row(step_id).state.is_terminal())
            .map(|step_id| (step_id, StepState::Cancelled))
            .collect();
        self.operate(&open)
    }

    /// Changes steps, and whatever follows from that, wave by wave; then the task.
    fn operate(&mut self, changes: &[(i32, StepState)]) -> Result<(), SimulationError> {
        let before = self.task;
        let mut wave = changes.to_vec();
        while !wave.is_empty() {
            for &(step_id, to) in &wave {
                self.change(step_id, to)?;
            }
            wave = self.consequences(&wave);
        }
        self.settle(before)
    }

    fn change(&mut self, step_id: i32, to: StepState) -> Result<(), SimulationError> {
        let index = Self::index(step_id);
        let (old, rule) = (self.rows[index], self.rules[index]);
        let key = StepKey { task_id: 0, step_id };
        // What the script asks for is legal at this point; what is not, is not done.
        let Ok(new) = apply(&old, &StepRow { state: to, ..old }, &rule, key, self.now, || 0) else { return Ok(()) };
        self.rows[index] = new;
        let is = |state: StepState, of: fn(StepState) -> bool| i32::from(of(state));
        let failed = |row: &StepRow| i32::from(failed_for_good(row.state, row.attempts, row.retryable, &rule));
        self.task.live += i32::from(new.visible_at.is_some()) - i32::from(old.visible_at.is_some());
        self.task.completed += is(new.state, StepState::settles) - is(old.state, StepState::settles);
        let cancelled = |state| state == StepState::Cancelled;
        self.task.cancelled += is(new.state, cancelled) - is(old.state, cancelled);
        self.task.failed += failed(&new) - failed(&old);
        self.record(Some(step_id), Some(old.state.as_str()), to.as_str(), Some(new.attempts))?;
        if to == StepState::InProgress {
            if self.task.state == TaskState::Pending {
                self.task.state = TaskState::InProgress;
            }
        } else {
            self.queue(step_id);
        }
        Ok(())
    }

    /// The steps that change because these have.
    fn consequences(&mut self, wave: &[(i32, StepState)]) -> Vec<(i32, StepState)> {
        let gone: Vec<Settled> = wave
            .iter()
            .filter(|(_, to)| matches!(to, StepState::Cancelled | StepState::Skipped))
            .map(|&(step_id, state)| Settled { step_id, state })
            .collect();
        let rows = &self.rows;
        let states = |step_id: i32| rows.get(Self::index(step_id)).map(|row| row.state);
        let next: Vec<(i32, StepState)> =
            falls(self.graph, &states, &gone).into_iter().map(|fall| (fall.step_id, fall.to)).collect();
        for &(step_id, _) in wave.iter().filter(|(_, to)| to.settles()) {
            for &child in self.graph.children(step_id) {
                let index = Self::index(child);
                let row = &mut self.rows[index];
                row.remaining_parents -= 1;
                if row.remaining_parents == 0 && row.state == StepState::Pending && row.visible_at.is_none() {
                    row.visible_at = Some(self.rules[index].visible_from(self.now));
                    self.task.live += 1;
                    self.queue(child);
                }
            }
        }
        next
    }

    fn settle(&mut self, before: TaskRow) -> Result<(), SimulationError> {
        // The rows of a simulation change only as the rules say.
        let Ok(after) = settle(&before, &self.task, self.now) else { return Ok(()) };
        let mut from = before.state;
        if self.task.state != from {
            self.record(None, Some(from.as_str()), self.task.state.as_str(), None)?;
            from = self.task.state;
        }
        if after.state != from {
            self.record(None, Some(from.as_str()), after.state.as_str(), None)?;
        }
        self.task = after;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::parse;
    use super::*;
    use serde_json::json;

    fn run(steps: &str, outcomes: Value) -> Vec<(i64, String, String)> {
        let template = parse(&format!(r#"{{"name": "t", "steps": [{steps}]}}"#)).unwrap();
        let transitions = simulate(&template, &outcomes, &mut || ()).unwrap();
        let name = |step_id: i32| template.steps[step_id as usize - 1].name.clone();
        let subject = |one: &Transition| one.step_id.map_or("task".to_owned(), name);
        transitions.iter().map(|one| (one.after.0 / 1_000_000, subject(one), one.to.to_owned())).collect()
    }

    fn shown(transitions: &[(i64, String, String)]) -> String {
        let one = |(after, subject, to): &(i64, String, String)| format!("{after} {subject} {to}");
        transitions.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    const CHAIN: &str = r#"{"name": "a"}, {"name": "b", "depends_on": "a"}"#;

    #[test]
    fn a_chain_completes_step_by_step() {
        let expected = "0 task pending, 0 a in_progress, 0 task in_progress, 0 a complete, 0 b in_progress, \
            0 b complete, 0 task complete";
        assert_eq!(shown(&run(CHAIN, json!({}))), expected);
        assert_eq!(shown(&run(CHAIN, json!({"a": "complete", "b": ["complete"]}))), expected);
    }

    #[test]
    fn failures_back_off_and_end_the_task_when_no_attempt_is_left() {
        let expected = "0 task pending, 0 a in_progress, 0 task in_progress, 0 a error, 2 a in_progress, 2 a complete, \
            2 b in_progress, 2 b complete, 2 task complete";
        assert_eq!(shown(&run(CHAIN, json!({"a": 1}))), expected);
        let last = |outcomes| shown(&run(CHAIN, outcomes)).rsplit(", ").next().unwrap().to_owned();
        assert_eq!(last(json!({"a": "error"})), "6 task error");
        assert_eq!(last(json!({"b": ["error", "error", "complete"]})), "6 task complete");
    }

    #[test]
    fn operators_waits_and_deadlines_take_part() {
        let last = |steps: &str, outcomes| shown(&run(steps, outcomes)).rsplit(", ").next().unwrap().to_owned();
        assert_eq!(last(CHAIN, json!({"a": "cancelled"})), "0 task cancelled");
        assert_eq!(last(CHAIN, json!({"a": "skipped"})), "0 task complete");
        assert_eq!(last(CHAIN, json!({"a": "resolved_manually"})), "0 task complete");
        let wait = r#"{"name": "w", "kind": "wait", "timeout": "1h"}"#;
        assert_eq!(shown(&run(wait, json!({"w": "error"}))), "0 task pending, 3600 w error, 3600 task error");
        assert_eq!(last(wait, json!({})), "0 task complete");
        let timed = parse(&format!(r#"{{"name": "t", "timeout": "1m", "steps": [{wait}]}}"#)).unwrap();
        let transitions = simulate(&timed, &json!({"w": "error"}), &mut || ()).unwrap();
        assert_eq!(transitions.last().map(|one| (one.after, one.to)), Some((Span::from_secs(60), "error")));
    }

    #[test]
    fn a_script_that_makes_no_sense_is_refused() {
        let template = parse(&format!(r#"{{"name": "t", "steps": [{CHAIN}]}}"#)).unwrap();
        let refused = |outcomes| simulate(&template, &outcomes, &mut || ()).unwrap_err();
        assert_eq!(refused(json!([1])), SimulationError::NotAnObject);
        assert_eq!(refused(json!({"c": 1})), SimulationError::UnknownStep { step: "c".into() });
        for bad in [json!(-1), json!("done"), json!([]), json!({}), json!(1.5), json!(["complete", 1])] {
            assert!(matches!(refused(json!({ "a": bad })), SimulationError::BadOutcome { .. }));
        }
    }

    #[test]
    fn a_step_that_fails_for_ever_is_given_up() {
        let steps = r#"{"name": "a", "retry_limit": 2000000000, "backoff": {"base": 0}}"#;
        let template = parse(&format!(r#"{{"name": "t", "steps": [{steps}]}}"#)).unwrap();
        assert_eq!(simulate(&template, &json!({"a": "error"}), &mut || ()), Err(SimulationError::TooLong));
    }
}

//! A task of any graph with any rules, driven by any commands: after each of them the invariants hold.

use super::pictures::parents;
use crate::engine::backoff::Backoff;
use crate::engine::cascade::{Settled, falls};
use crate::engine::graph::Graph;
use crate::engine::operate::{back_off, may_back_off};
use crate::engine::outcome::{TaskRow, is_sound, settle};
use crate::engine::readiness::{StepFacts, Surroundings, evaluate};
use crate::engine::rule::{StepKind, StepRule};
use crate::engine::start::initial_steps;
use crate::engine::state::{StepState, TaskState};
use crate::engine::time::{Span, Timestamp};
use crate::engine::transition::{StepKey, StepRow, apply, failed_for_good};
use arbitrary::{Result, Unstructured};
use std::collections::HashSet;

const MOST_COMMANDS: usize = 200;

pub fn run(data: &[u8]) {
    let _ = drive(&mut Unstructured::new(data));
}

struct Model {
    graph: Graph,
    rules: Vec<StepRule>,
    rows: Vec<StepRow>,
    task: TaskRow,
    now: Timestamp,
}

fn rule(bytes: &mut Unstructured) -> Result<StepRule> {
    let wait = bytes.ratio(1, 8)?;
    Ok(StepRule {
        kind: if wait { StepKind::Wait } else { StepKind::Work },
        // As a definition says of a wait.
        retry_limit: if wait { 1 } else { bytes.int_in_range(0..=4)? },
        retryable: !wait && bytes.ratio(4, 5)?,
        backoff: Backoff {
            base: Span(bytes.int_in_range(0..=5_000_000)?),
            cap: Span(bytes.int_in_range(0..=60_000_000)?),
            jitter: f64::from(bytes.int_in_range(0..=4_u8)?) / 4.0,
        },
        timeout: Span(bytes.int_in_range(0..=i64::from(u32::MAX))?),
        delay: Span(if bytes.ratio(1, 4)? { bytes.arbitrary::<u32>()?.into() } else { 0 }),
        skippable: true,
    })
}

fn drive(bytes: &mut Unstructured) -> Result<()> {
    let graph = Graph::from_parents(parents(bytes)?);
    let rules: Vec<StepRule> = graph.step_ids().map(|_| rule(bytes)).collect::<Result<_>>()?;
    let mask: u16 = if bytes.ratio(1, 4)? { bytes.arbitrary()? } else { 0 };
    let bypassed: HashSet<i32> = graph.step_ids().filter(|step_id| mask >> (step_id - 1) & 1 == 1).collect();
    let mut model = Model::start(graph, rules, &bypassed);
    model.check();
    for _ in 0..MOST_COMMANDS {
        if bytes.is_empty() {
            break;
        }
        model.command(bytes)?;
        model.check();
    }
    Ok(())
}

impl Model {
    fn start(graph: Graph, rules: Vec<StepRule>, bypassed: &HashSet<i32>) -> Model {
        let now = Timestamp(0);
        let rows: Vec<StepRow> = initial_steps(&graph, bypassed)
            .iter()
            .zip(&rules)
            .map(|(step, rule)| StepRow {
                state: step.state,
                attempts: 0,
                remaining_parents: step.remaining_parents,
                visible_at: step.ready.then(|| rule.visible_from(now)),
                claim_token: None,
                backoff_request_seconds: None,
                retryable: None,
                last_attempted_at: None,
                last_failure_at: None,
                finished_at: step.state.is_terminal().then_some(now),
            })
            .collect();
        let pending = TaskRow {
            state: TaskState::Pending,
            total: rows.len() as i32,
            live: 0,
            completed: 0,
            failed: 0,
            cancelled: 0,
            timed_out: false,
            deadline: None,
            started_at: None,
            finished_at: None,
        };
        let mut model = Model { graph, rules, rows, task: pending, now };
        let counted = model.counted();
        model.task = settle(&pending, &counted, now).expect("a new task can be settled");
        model
    }

    /// The task with its counters counted anew.
    fn counted(&self) -> TaskRow {
        let count = |of: &dyn Fn(usize) -> bool| (0..self.rows.len()).filter(|&index| of(index)).count() as i32;
        TaskRow {
            live: count(&|index| self.rows[index].visible_at.is_some()),
            completed: count(&|index| self.rows[index].state.settles()),
            cancelled: count(&|index| self.rows[index].state == StepState::Cancelled),
            failed: count(&|index| self.has_failed(index)),
            ..self.task
        }
    }

    fn has_failed(&self, index: usize) -> bool {
        let row = &self.rows[index];
        failed_for_good(row.state, row.attempts, row.retryable, &self.rules[index])
    }

    fn command(&mut self, bytes: &mut Unstructured) -> Result<()> {
        if bytes.ratio(1, 6)? {
            self.now = self.now.plus(Span(bytes.arbitrary::<u32>()?.into()));
            return Ok(());
        }
        let index = bytes.choose_index(self.rows.len())?;
        let row = self.rows[index];
        if bytes.ratio(1, 10)? {
            let may = may_back_off(row.state, row.remaining_parents, row.attempts, row.retryable, &self.rules[index]);
            if may.is_ok() && row.visible_at.is_some() {
                let seconds = bytes.int_in_range(0..=3600)?;
                let (stored, at) = back_off(row.state, row.last_attempted_at, row.last_failure_at, seconds, self.now);
                self.rows[index] = StepRow { backoff_request_seconds: Some(stored), visible_at: Some(at), ..row };
            }
            return Ok(());
        }
        let state = *bytes.choose(&StepState::ALL)?;
        if state == StepState::Error && row.remaining_parents > 0 {
            return Ok(()); // by hand only; what then follows is the store's
        }
        if state == row.state {
            return Ok(()); // stored as asked; which columns may be is the store's
        }
        let asked = match state {
            StepState::Error => StepRow {
                state,
                retryable: bytes.arbitrary()?,
                backoff_request_seconds: if bytes.ratio(1, 4)? { Some(bytes.int_in_range(0..=3600)?) } else { None },
                ..row
            },
            _ => StepRow { state, ..row },
        };
        self.change(index, asked);
        Ok(())
    }

    fn change(&mut self, index: usize, asked: StepRow) {
        let old = self.rows[index];
        let key = StepKey { task_id: 1, step_id: index as i32 + 1 };
        let Ok(new) = apply(&old, &asked, &self.rules[index], key, self.now, || 7) else {
            assert!(
                !old.state.may_become(asked.state) || asked.state == StepState::InProgress,
                "refused: {old:?} to {:?}",
                asked.state
            );
            return;
        };
        assert!(old.state == new.state || old.state.may_become(new.state));
        let before = self.task;
        self.rows[index] = new;
        if new.state == StepState::InProgress && self.task.state == TaskState::Pending {
            self.task.state = TaskState::InProgress;
        }
        let mut wave = if old.state == new.state { Vec::new() } else { vec![(key.step_id, new.state)] };
        while !wave.is_empty() {
            wave = self.consequences(&wave);
        }
        self.task = settle(&before, &self.counted(), self.now).unwrap_or_else(|refusal| {
            panic!("{refusal}: {before:?} with {:?}", self.rows);
        });
    }

    fn consequences(&mut self, wave: &[(i32, StepState)]) -> Vec<(i32, StepState)> {
        let gone: Vec<Settled> = wave
            .iter()
            .filter(|(_, to)| matches!(to, StepState::Cancelled | StepState::Skipped))
            .map(|&(step_id, state)| Settled { step_id, state })
            .collect();
        let rows = &self.rows;
        let states = |step_id: i32| rows.get(step_id as usize - 1).map(|row| row.state);
        let fallen = falls(&self.graph, &states, &gone);
        for &(step_id, _) in wave.iter().filter(|(_, to)| to.settles()) {
            for &child in self.graph.children(step_id) {
                let index = child as usize - 1;
                let row = &mut self.rows[index];
                row.remaining_parents -= 1;
                if row.remaining_parents == 0 && row.state == StepState::Pending {
                    row.visible_at = Some(self.rules[index].visible_from(self.now));
                }
            }
        }
        let mut next = Vec::new();
        for fall in fallen {
            let index = fall.step_id as usize - 1;
            let (old, key) = (self.rows[index], StepKey { task_id: 1, step_id: fall.step_id });
            assert_eq!(old.state, StepState::Pending, "only a pending step falls");
            let asked = StepRow { state: fall.to, ..old };
            self.rows[index] = apply(&old, &asked, &self.rules[index], key, self.now, || 7).expect("a fall is legal");
            next.push((fall.step_id, fall.to));
        }
        next
    }

    fn check(&self) {
        let around = Surroundings { task: self.task.state, queue_paused: false };
        for (index, (row, rule)) in self.rows.iter().zip(&self.rules).enumerate() {
            let step_id = index as i32 + 1;
            let parents = self.graph.parents(step_id);
            let state = |step_id: i32| self.rows[step_id as usize - 1].state;
            let open = parents.iter().filter(|&&parent| !state(parent).settles()).count() as i32;
            assert_eq!(row.remaining_parents, open, "step {step_id} of {self:?}");
            let live = row.visible_at.is_some();
            let expected = match row.state {
                StepState::Pending => open == 0,
                StepState::InProgress => true,
                StepState::Error => open == 0 && !self.has_failed(index),
                _ => false,
            };
            assert_eq!(live, expected, "step {step_id} of {self:?}");
            assert_eq!(row.finished_at.is_some(), row.state.is_terminal(), "step {step_id} of {self:?}");
            assert!(row.attempts >= 0 && row.attempts <= rule.retry_limit, "step {step_id} of {self:?}");
            match row.state {
                StepState::InProgress => assert!(row.claim_token.is_some() && row.attempts > 0 && open == 0),
                StepState::Pending => {
                    assert!(row.claim_token.is_none());
                    assert!(!parents.iter().any(|&parent| state(parent) == StepState::Cancelled), "{self:?}");
                    let skipped = |&parent: &i32| state(parent) == StepState::Skipped;
                    assert!(parents.is_empty() || !parents.iter().all(skipped), "step {step_id} of {self:?}");
                }
                _ => {}
            }
            let facts = StepFacts {
                state: row.state,
                attempts: row.attempts,
                remaining_parents: row.remaining_parents,
                total_parents: parents.len() as i32,
                visible_at: row.visible_at,
                backoff_request_seconds: row.backoff_request_seconds,
                retryable: row.retryable,
                last_attempted_at: row.last_attempted_at,
                last_failure_at: row.last_failure_at,
            };
            let key = StepKey { task_id: 1, step_id };
            let readiness = evaluate(&facts, rule, &around, key, self.now);
            if readiness.ready_for_execution {
                let asked = StepRow { state: StepState::InProgress, ..*row };
                let claimed = apply(row, &asked, rule, key, self.now, || 7);
                assert!(claimed.is_ok(), "ready, but {claimed:?}: step {step_id} of {self:?}");
            }
            assert_eq!(readiness.exhausted, self.has_failed(index));
        }
        let (task, counted) = (self.task, self.counted());
        assert_eq!(task, counted);
        assert!(is_sound(
            task.state,
            task.total,
            task.live,
            [task.completed, task.failed, task.cancelled],
            task.finished_at.is_some()
        ));
        assert_eq!(task.live == 0, task.finished_at.is_some(), "{self:?}");
        assert_eq!(settle(&task, &task, self.now).as_ref(), Ok(&task), "settled, and not yet settled");
        let open = self.rows.iter().any(|row| !row.state.is_terminal());
        assert!(!task.state.is_terminal() || !open, "{self:?}");
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let parents: Vec<&[i32]> = self.graph.step_ids().map(|step_id| self.graph.parents(step_id)).collect();
        write!(
            f,
            "{:?} at {:?}, parents {parents:?}, steps {:#?}, rules {:?}",
            self.task, self.now, self.rows, self.rules
        )
    }
}

//! Pictures of any graph with any names: in each format they stay names.

use crate::engine::backoff::Backoff;
use crate::engine::graph::Graph;
use crate::engine::rule::{StepKind, StepRule};
use crate::engine::state::{StepState, TaskState};
use crate::engine::time::{Span, Timestamp};
use crate::picture::model::{Change, Picture, Row, Step, Task, text};
use arbitrary::{Result, Unstructured};

#[path = "../../../pgrx-tests/tests/picture_support/escaping.rs"]
pub mod escaping;

const MOST_STEPS: usize = 12;
const MOST_CHANGES: usize = 24;

pub fn run(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let Ok(parents) = parents(&mut bytes) else { return };
    let graph = Graph::from_parents(parents);
    let Ok(picture) = picture(&mut bytes, &graph) else { return };
    escaping::check(&picture);
}

pub fn parents(bytes: &mut Unstructured) -> Result<Vec<Vec<i32>>> {
    let count = bytes.int_in_range(1..=MOST_STEPS as i32)?;
    (1..=count)
        .map(|step_id| {
            let mask: u16 = bytes.arbitrary()?;
            Ok((1..step_id).filter(|parent| mask >> (parent - 1) & 1 == 1).collect())
        })
        .collect()
}

fn name(bytes: &mut Unstructured) -> Result<String> {
    let name: &str = bytes.arbitrary()?;
    Ok(if name.is_empty() { "-".to_owned() } else { text(name.chars().take(255).collect::<String>()) })
}

fn at(bytes: &mut Unstructured) -> Result<Timestamp> {
    Ok(Timestamp(match bytes.int_in_range(0..=3_u8)? {
        0 => bytes.arbitrary()?,
        1 => i64::MAX,
        _ => bytes.arbitrary::<i32>()?.into(),
    }))
}

fn state(bytes: &mut Unstructured) -> Result<StepState> {
    bytes.choose(&StepState::ALL).copied()
}

fn maybe<'a, T>(bytes: &mut Unstructured<'a>, make: impl Fn(&mut Unstructured<'a>) -> Result<T>) -> Result<Option<T>> {
    if bytes.arbitrary()? { make(bytes).map(Some) } else { Ok(None) }
}

fn row(bytes: &mut Unstructured) -> Result<Row> {
    Ok(Row {
        state: state(bytes)?,
        attempts: bytes.arbitrary()?,
        worker: maybe(bytes, name)?,
        visible_at: maybe(bytes, at)?,
        last_attempted_at: maybe(bytes, at)?,
        last_failure_at: maybe(bytes, at)?,
        finished_at: maybe(bytes, at)?,
        queue_paused: bytes.arbitrary()?,
    })
}

fn rule(bytes: &mut Unstructured) -> Result<StepRule> {
    Ok(StepRule {
        kind: *bytes.choose(&[StepKind::Work, StepKind::Wait])?,
        retry_limit: bytes.arbitrary()?,
        retryable: bytes.arbitrary()?,
        backoff: Backoff { base: Span(bytes.arbitrary()?), cap: Span(bytes.arbitrary()?), jitter: 0.5 },
        timeout: Span(bytes.arbitrary()?),
        delay: Span(bytes.arbitrary()?),
        skippable: bytes.arbitrary()?,
    })
}

fn picture<'a>(bytes: &mut Unstructured, graph: &'a Graph) -> Result<Picture<'a>> {
    let with_task: bool = bytes.arbitrary()?;
    let mut steps = Vec::new();
    for _ in graph.step_ids() {
        let row = if with_task { Some(row(bytes)?) } else { None };
        steps.push(Step { name: name(bytes)?, queue: name(bytes)?, rule: rule(bytes)?, row });
    }
    let task = if with_task { Some(task(bytes, graph)?) } else { None };
    Ok(Picture { label: name(bytes)?, graph, steps, task })
}

fn task(bytes: &mut Unstructured, graph: &Graph) -> Result<Task> {
    let mut history = Vec::new();
    for _ in 0..bytes.int_in_range(0..=MOST_CHANGES)? {
        history.push(Change {
            at: at(bytes)?,
            step_id: maybe(bytes, |bytes| bytes.int_in_range(0..=graph.len() as i32 + 1))?,
            from: maybe(bytes, state)?,
            to: state(bytes)?,
            attempt: bytes.arbitrary()?,
            worker: maybe(bytes, name)?,
            actor: maybe(bytes, name)?,
            note: name(bytes)?,
            backoff_seconds: bytes.arbitrary()?,
            retryable: bytes.arbitrary()?,
            lease_expired: bytes.arbitrary()?,
        });
    }
    Ok(Task {
        task_id: bytes.arbitrary()?,
        state: *bytes.choose(&[TaskState::Pending, TaskState::InProgress, TaskState::Complete, TaskState::Error])?,
        created_at: at(bytes)?,
        finished_at: maybe(bytes, at)?,
        timed_out: bytes.arbitrary()?,
        now: at(bytes)?,
        history,
        history_is_cut: bytes.arbitrary()?,
    })
}

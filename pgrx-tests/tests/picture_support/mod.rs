//! Pictures to be drawn by the tests.
#![allow(dead_code, reason = "each test binary uses its own part")]

use pg_stepwise_cluster_tests::engine::graph::Graph;
use pg_stepwise_cluster_tests::engine::rule::StepRule;
use pg_stepwise_cluster_tests::engine::state::{StepState, TaskState};
use pg_stepwise_cluster_tests::engine::time::Timestamp;
use pg_stepwise_cluster_tests::picture::model::{Change, Picture, Row, Step, Task, text};

pub fn seconds(count: i64) -> Timestamp {
    Timestamp(count * 1_000_000)
}

pub fn row(state: StepState, worker: &str) -> Row {
    Row {
        state,
        attempts: 1,
        worker: Some(text(worker)),
        visible_at: (!state.is_terminal()).then(|| seconds(20)),
        last_attempted_at: Some(seconds(3)),
        last_failure_at: Some(seconds(5)),
        finished_at: Some(seconds(7)),
        queue_paused: false,
    }
}

/// A picture of a task whose steps have these names and states, again and again.
pub fn picture<'a>(graph: &'a Graph, names: &[String], states: &[StepState], history: Vec<Change>) -> Picture<'a> {
    let step = |index: usize| {
        let name = text(&names[index % names.len()]);
        let row = row(states[index % states.len()], &name);
        Step { queue: name.clone(), name, rule: StepRule::default(), row: Some(row) }
    };
    let task = Task {
        task_id: 7,
        state: TaskState::InProgress,
        created_at: seconds(0),
        finished_at: None,
        timed_out: false,
        now: seconds(10),
        history,
        history_is_cut: false,
    };
    Picture { label: text(&names[0]), graph, steps: (0..graph.len()).map(step).collect(), task: Some(task) }
}

pub fn change(at: i64, step_id: i32, from: StepState, to: StepState, attempt: i32) -> Change {
    Change {
        at: seconds(at),
        step_id: Some(step_id),
        from: Some(from),
        to,
        attempt: Some(attempt),
        worker: None,
        actor: None,
        note: String::new(),
        backoff_seconds: None,
        retryable: None,
        lease_expired: false,
    }
}

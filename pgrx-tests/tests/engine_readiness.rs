//! Readiness and execution context: against the conformance cases and against a naive reading of the rules.

mod engine_support;

use std::collections::HashMap;

use engine_support::step_state;
use pg_stepwise_cluster_tests::engine::backoff::Backoff;
use pg_stepwise_cluster_tests::engine::context::{Context, Tally};
use pg_stepwise_cluster_tests::engine::explain::{Around, Limit, Reason, claimable, explain};
use pg_stepwise_cluster_tests::engine::outcome::{TaskRow, outcome};
use pg_stepwise_cluster_tests::engine::readiness::{Readiness, StepFacts, Surroundings, evaluate};
use pg_stepwise_cluster_tests::engine::rule::{StepKind, StepRule};
use pg_stepwise_cluster_tests::engine::state::{StepState, TaskState};
use pg_stepwise_cluster_tests::engine::time::{Span, Timestamp};
use pg_stepwise_cluster_tests::engine::transition::{StepKey, failed_for_good};
use proptest::prelude::*;

const READINESS: &str = include_str!("../../tests/conformance/readiness.csv");
const CONTEXT: &str = include_str!("../../tests/conformance/context.csv");
const NOW: Timestamp = Timestamp(800_000_000_000_000);
const KEY: StepKey = StepKey { task_id: 1, step_id: 1 };
const LONG_AGO: f64 = 86_400.0;

/// The lines of a file, each as a map from column to field.
fn cases(file: &'static str) -> Vec<HashMap<&'static str, &'static str>> {
    let mut lines = file.lines();
    let columns: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines.map(|line| columns.iter().copied().zip(line.split(',')).collect()).collect()
}

fn ago(seconds: f64) -> Timestamp {
    NOW.plus(Span(-(seconds * 1e6).round() as i64))
}

fn fresh(state: StepState) -> StepFacts {
    StepFacts {
        state,
        attempts: 0,
        remaining_parents: 0,
        total_parents: 0,
        visible_at: None,
        backoff_request_seconds: None,
        retryable: None,
        last_attempted_at: None,
        last_failure_at: None,
    }
}

fn failed(attempts: i32, seconds_ago: f64) -> StepFacts {
    let at = Some(ago(seconds_ago));
    StepFacts { attempts, last_attempted_at: at, last_failure_at: at, ..fresh(StepState::Error) }
}

/// Whether a step counts as one that can still move by itself.
fn live(step: &StepFacts, rule: &StepRule) -> bool {
    match step.state {
        StepState::InProgress => true,
        StepState::Pending => step.remaining_parents == 0,
        StepState::Error => {
            step.remaining_parents == 0 && !failed_for_good(step.state, step.attempts, step.retryable, rule)
        }
        _ => false,
    }
}

/// The state that a task with these steps has by its counters.
fn task_state(steps: &[(StepFacts, StepRule)]) -> Option<TaskState> {
    let count =
        |is: &dyn Fn(&StepFacts, &StepRule) -> bool| steps.iter().filter(|(step, rule)| is(step, rule)).count() as i32;
    outcome(&TaskRow {
        state: TaskState::InProgress,
        total: steps.len() as i32,
        live: count(&live),
        completed: count(&|step, _| step.state.settles()),
        failed: count(&|step, rule| failed_for_good(step.state, step.attempts, step.retryable, rule)),
        cancelled: count(&|step, _| step.state == StepState::Cancelled),
        timed_out: false,
        deadline: None,
        started_at: None,
        finished_at: None,
    })
}

fn context(steps: &[(StepFacts, StepRule)], task: TaskState) -> Context {
    let mut tally = Tally::default();
    for (step, rule) in steps {
        let around = Surroundings { task, queue_paused: false };
        tally.add(step.state, &evaluate(step, rule, &around, KEY, NOW));
    }
    tally.finish(task)
}

fn percent(context: &Context) -> String {
    format!("{}.{:02}", context.completion_basis_points / 100, context.completion_basis_points % 100)
}

#[test]
fn readiness_is_that_of_every_case() {
    for case in cases(READINESS) {
        let id = case["case"];
        let number = |column: &str| case[column].parse::<i32>().ok();
        let age = |column: &str| case[column].parse::<f64>().ok().map(ago);
        let rule = StepRule {
            retry_limit: number("retry_limit").unwrap(),
            retryable: case["retryable"] == "t",
            ..StepRule::default()
        };
        let parents: Vec<(StepFacts, StepRule)> = case["parents"]
            .split_whitespace()
            .map(|state| match StepState::parse(state).unwrap() {
                StepState::Error => (failed(1, 0.0), StepRule::default()),
                state => (fresh(state), StepRule::default()),
            })
            .collect();
        let step = StepFacts {
            attempts: number("attempts").unwrap(),
            backoff_request_seconds: number("backoff_request_seconds"),
            last_attempted_at: age("last_attempt_age_s"),
            last_failure_at: age("failure_age_s"),
            total_parents: parents.len() as i32,
            remaining_parents: parents.iter().filter(|(parent, _)| !parent.state.settles()).count() as i32,
            ..fresh(StepState::parse(case["state"]).unwrap())
        };
        let steps: Vec<(StepFacts, StepRule)> = parents.into_iter().chain([(step, rule)]).collect();
        let task = task_state(&steps).unwrap_or(TaskState::InProgress);
        let got = evaluate(&step, &rule, &Surroundings { task, queue_paused: false }, KEY, NOW);
        let yes = |column: &str| case[column] == "t";
        assert_eq!(got.dependencies_satisfied, yes("dependencies_satisfied"), "{id} dependencies_satisfied");
        assert_eq!(got.retry_eligible, yes("retry_eligible"), "{id} retry_eligible");
        assert_eq!(got.ready_for_execution, yes("ready_for_execution"), "{id} ready_for_execution");
        let expected = case["next_retry_in_s"].parse::<f64>().ok().map(|seconds| ago(-seconds));
        assert_eq!(got.next_retry_at, expected, "{id} next_retry_in_s");
        let context = context(&steps, task);
        assert_eq!(context.execution_status, case["execution_status"], "{id}");
        assert_eq!(context.health_status, case["health_status"], "{id}");
        assert_eq!(percent(&context), case["completion_percentage"], "{id}");
    }
}

#[test]
fn context_is_that_of_every_case() {
    for case in cases(CONTEXT) {
        let id = case["case"];
        let steps = written_task(case["steps"]);
        let task = TaskState::parse(case["task_state"]).unwrap();
        match task_state(&steps) {
            Some(settled) => assert_eq!(settled, task, "{id}"),
            None => assert!(matches!(task, TaskState::Pending | TaskState::InProgress), "{id}"),
        }
        let got = context(&steps, task);
        let counts = [
            got.total_steps,
            got.pending_steps,
            got.in_progress_steps,
            got.completed_steps,
            got.failed_steps,
            got.ready_steps,
        ];
        let expected = case["total/pending/in_progress/completed/failed/ready"];
        assert_eq!(counts.map(|count| count.to_string()).join("/"), expected, "{id}");
        assert_eq!(got.execution_status, case["execution_status"], "{id}");
        assert_eq!(got.health_status, case["health_status"], "{id}");
        assert_eq!(percent(&got), case["completion_percentage"], "{id}");
        let action = match got.execution_status {
            "has_ready_steps" => "execute_ready_steps",
            "processing" => "wait_for_completion",
            "blocked_by_failures" => "handle_failures",
            "all_complete" => "finalize_task",
            "waiting_for_dependencies" => "wait_for_dependencies",
            _ => "none",
        };
        assert_eq!(got.recommended_action, action, "{id}");
    }
}

/// The steps of a task written as chains, such as `C>P; E3`.
fn written_task(text: &str) -> Vec<(StepFacts, StepRule)> {
    let mut steps = Vec::new();
    for chain in text.split(';') {
        let mut before: Option<StepState> = None;
        for word in chain.split('>').map(str::trim) {
            let mut step = match word {
                "E3" => failed(3, LONG_AGO),
                "E1 failed now" => failed(1, 0.0),
                "E1 not retryable" => StepFacts { retryable: Some(false), ..failed(1, LONG_AGO) },
                "I" => StepFacts { attempts: 1, last_attempted_at: Some(NOW), ..fresh(StepState::InProgress) },
                "C" => fresh(StepState::Complete),
                "R" => fresh(StepState::ResolvedManually),
                "X" => fresh(StepState::Cancelled),
                "P" | "a" | "b" | "c" | "d" => fresh(StepState::Pending),
                other => panic!("unknown step {other}"),
            };
            step.total_parents = i32::from(before.is_some());
            step.remaining_parents = i32::from(before.is_some_and(|parent| !parent.settles()));
            before = Some(step.state);
            steps.push((step, StepRule::default()));
        }
    }
    steps
}

fn seconds_around_now() -> impl Strategy<Value = Option<Timestamp>> {
    prop::option::of((-100..100_i64).prop_map(|seconds| NOW.plus(Span::from_secs(seconds))))
}

fn facts() -> impl Strategy<Value = StepFacts> {
    let times = (seconds_around_now(), seconds_around_now(), seconds_around_now());
    let retry = (prop::option::of(-5..100), prop::option::of(any::<bool>()));
    (step_state(), 0..6, 0..3, 0..3, times, retry).prop_map(|(state, attempts, remaining, satisfied, times, retry)| {
        StepFacts {
            state,
            attempts,
            remaining_parents: remaining,
            total_parents: remaining + satisfied,
            visible_at: times.0,
            backoff_request_seconds: retry.0,
            retryable: retry.1,
            last_attempted_at: times.1,
            last_failure_at: times.2,
        }
    })
}

fn rule() -> impl Strategy<Value = StepRule> {
    let kind = prop_oneof![4 => Just(StepKind::Work), 1 => Just(StepKind::Wait)];
    (kind, 0..6, any::<bool>(), 0..20_i64, 0..60_i64).prop_map(|(kind, retry_limit, retryable, base, cap)| StepRule {
        kind,
        retry_limit,
        retryable,
        backoff: Backoff { base: Span::from_secs(base), cap: Span::from_secs(cap), jitter: 0.0 },
        ..StepRule::default()
    })
}

fn surroundings() -> impl Strategy<Value = Surroundings> {
    (prop::sample::select(TaskState::ALL.to_vec()), prop::bool::weighted(0.2))
        .prop_map(|(task, queue_paused)| Surroundings { task, queue_paused })
}

/// The table of readiness columns, read aloud: seconds instead of spans, one sentence per column.
fn naive(step: &StepFacts, rule: &StepRule, around: &Surroundings) -> Readiness {
    let second = 1_000_000;
    let retryable = rule.retryable && step.retryable.unwrap_or(true);
    let attempts_left = step.attempts < rule.retry_limit;
    let in_error = step.state == StepState::Error;
    let exhausted = in_error && !(attempts_left && retryable);
    let exponential = (rule.backoff.base.0 * 2_i64.pow(step.attempts as u32)).min(rule.backoff.cap.0);
    let explicit = step.backoff_request_seconds.filter(|_| in_error || step.state == StepState::Pending);
    let next_retry_at = match explicit {
        _ if exhausted => None,
        Some(seconds) => match step.last_attempted_at {
            Some(Timestamp(at)) => Some(Timestamp(at + i64::from(seconds) * second)),
            None if in_error => step.last_failure_at.map(|Timestamp(at)| Timestamp(at + i64::from(seconds) * second)),
            None => step.visible_at,
        },
        None if in_error => step.last_failure_at.map(|Timestamp(at)| Timestamp(at + exponential)),
        None => None,
    };
    let over = next_retry_at.is_none() || next_retry_at <= Some(NOW);
    let retry_eligible = attempts_left && (step.attempts == 0 || retryable) && over && !exhausted;
    let delayed = step.state == StepState::Pending && explicit.is_none() && step.visible_at > Some(NOW);
    Readiness {
        dependencies_satisfied: step.remaining_parents == 0,
        retry_eligible,
        ready_for_execution: [StepState::Pending, StepState::Error].contains(&step.state)
            && rule.kind != StepKind::Wait
            && step.remaining_parents == 0
            && retry_eligible
            && !delayed
            && [TaskState::Pending, TaskState::InProgress].contains(&around.task)
            && !around.queue_paused,
        last_failure_at: if in_error { step.last_failure_at } else { None },
        next_retry_at,
        total_parents: step.total_parents,
        completed_parents: step.total_parents - step.remaining_parents,
        processed: [StepState::Complete, StepState::ResolvedManually, StepState::Skipped].contains(&step.state),
        in_process: step.state == StepState::InProgress,
        exhausted,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn readiness_is_the_table_read_aloud(step in facts(), rule in rule(), around in surroundings()) {
        prop_assert_eq!(evaluate(&step, &rule, &around, KEY, NOW), naive(&step, &rule, &around));
    }

    #[test]
    fn a_step_without_attempts_is_never_ready(step in facts(), rule in rule(), around in surroundings()) {
        let never = StepRule { retry_limit: 0, ..rule };
        prop_assert!(!evaluate(&step, &never, &around, KEY, NOW).ready_for_execution);
    }

    #[test]
    fn a_step_is_explained_as_claimable_or_by_a_reason(
        step in facts(),
        rule in rule(),
        around in surroundings(),
        deadline_over in prop::bool::weighted(0.2),
        full in prop::sample::subsequence(vec![(Limit::Queue, 5), (Limit::Task, 1), (Limit::Key, 2)], 0..=3),
        parents in prop::collection::vec((1..9, step_state()), 0..4),
    ) {
        let around = Around { task: around.task, queue_paused: around.queue_paused, deadline_over, full: &full };
        let reasons = explain(&step, &rule, &around, &parents, NOW);
        if claimable(&step, &rule, &around, NOW) {
            prop_assert_eq!(reasons, [Reason::Claimable]);
        } else {
            prop_assert!(!reasons.is_empty() && !reasons.contains(&Reason::Claimable), "{:?}", reasons);
        }
    }

    #[test]
    fn a_context_adds_up(steps in prop::collection::vec((facts(), rule()), 0..12), task in prop::sample::select(TaskState::ALL.to_vec())) {
        let got = context(&steps, task);
        let count = |is: &dyn Fn(StepState) -> bool| steps.iter().filter(|(step, _)| is(step.state)).count() as i32;
        prop_assert_eq!(got.total_steps, steps.len() as i32);
        prop_assert_eq!(got.pending_steps, count(&|state| state == StepState::Pending));
        prop_assert_eq!(got.failed_steps, count(&|state| state == StepState::Error));
        prop_assert_eq!(got.completed_steps, count(&StepState::settles));
        prop_assert!(got.ready_steps <= got.pending_steps + got.failed_steps);
        let exact = if steps.is_empty() { 0.0 } else { f64::from(got.completed_steps) / steps.len() as f64 * 10_000.0 };
        prop_assert_eq!(got.completion_basis_points, (exact + 0.5).floor() as i32);
        prop_assert_eq!(got.health_status == "healthy", got.failed_steps == 0 && task != TaskState::Error);
        prop_assert!(task != TaskState::Error || got.execution_status != "waiting_for_dependencies");
        let cancelled = task == TaskState::Cancelled;
        prop_assert_eq!(got.execution_status == "cancelled", cancelled);
        prop_assert_eq!(got.recommended_action == "none", cancelled || task == TaskState::ResolvedManually);
    }
}

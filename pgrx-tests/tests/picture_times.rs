//! The chart of attempts and waits, and the history below it.

mod picture_support;

use pg_stepwise_cluster_tests::engine::graph::Graph;
use pg_stepwise_cluster_tests::engine::state::StepState;
use pg_stepwise_cluster_tests::engine::time::Span;
use pg_stepwise_cluster_tests::picture::gantt::{Bar, Kind, chart};
use pg_stepwise_cluster_tests::picture::model::Change;
use pg_stepwise_cluster_tests::picture::{Format, render};
use picture_support::{change, picture, seconds};
use proptest::prelude::*;

proptest! {
    #[test]
    fn bars_follow_one_another(moves in prop::collection::vec((0..7_usize, 0..5_i64, prop::option::of(0..9_i32)), 0..20)) {
        let graph = Graph::from_parents(vec![vec![]]);
        let (mut state, mut now, mut attempt, mut history) = (StepState::Pending, 0, 0, Vec::new());
        for (to, later, backoff_seconds) in moves {
            let to = StepState::ALL[to];
            if state.is_terminal() || !state.may_become(to) {
                continue;
            }
            now += later;
            attempt += i32::from(to == StepState::InProgress);
            history.push(Change { backoff_seconds, ..change(now, 1, state, to, attempt) });
            state = to;
        }
        let mut picture = picture(&graph, &["a".into()], &[state], history);
        picture.task.as_mut().unwrap().now = seconds(now + 5);
        let Some(chart) = chart(&picture) else { return Ok(()) };
        let mut before = chart.start;
        for bar in chart.lanes.iter().flat_map(|lane| &lane.bars) {
            prop_assert!(before <= bar.from && bar.from <= bar.to && bar.to <= chart.end, "{:?}", chart);
            before = bar.to;
        }
    }
}

#[test]
fn the_chart_tells_waiting_running_and_resting() {
    use StepState::*;
    let graph = Graph::from_parents(vec![vec![], vec![1]]);
    let history = vec![
        change(2, 1, Pending, InProgress, 1),
        // Rests for 2^1 seconds.
        change(3, 1, InProgress, Error, 1),
        change(7, 1, Error, InProgress, 2),
        Change { lease_expired: true, ..change(8, 1, InProgress, Error, 2) },
        change(9, 1, Error, InProgress, 3),
        change(10, 1, InProgress, Complete, 3),
        change(11, 2, Pending, InProgress, 1),
        change(12, 2, InProgress, Pending, 1),
        change(13, 2, Pending, InProgress, 1),
        Change { backoff_seconds: Some(4), ..change(14, 2, InProgress, Error, 1) },
        // An operator makes it longer.
        Change { backoff_seconds: Some(5), ..change(15, 2, Error, Error, 1) },
    ];
    let mut picture = picture(&graph, &["a".into(), "b".into()], &[Complete, Error], history);
    picture.task.as_mut().unwrap().now = seconds(20);
    let lanes = chart(&picture).unwrap().lanes;
    let bars = |nth: usize| -> Vec<(Kind, i64, i64)> {
        let plain = |bar: &Bar| (bar.kind, bar.from.0 / 1_000_000, bar.to.0 / 1_000_000);
        lanes[nth].bars.iter().map(plain).collect()
    };
    let (wait, rest, run) = (Kind::Wait, Kind::Backoff, Kind::Run);
    assert_eq!(
        bars(0),
        [
            (wait, 0, 2),
            (run(Error), 2, 3),
            (rest, 3, 5),
            (wait, 5, 7),
            (run(Error), 7, 8),
            (wait, 8, 9),
            (run(Complete), 9, 10)
        ]
    );
    assert_eq!(
        bars(1),
        [
            (wait, 10, 11),
            (run(Pending), 11, 12),
            (wait, 12, 13),
            (run(Error), 13, 14),
            (rest, 14, 15),
            (rest, 15, 18),
            (wait, 18, 20)
        ]
    );
}

#[test]
fn a_failure_for_good_is_followed_by_nothing_until_a_reset() {
    use StepState::*;
    let graph = Graph::from_parents(vec![vec![]]);
    let history = vec![
        change(0, 1, Pending, InProgress, 1),
        Change { retryable: Some(false), ..change(1, 1, InProgress, Error, 1) },
        change(5, 1, Error, Pending, 0),
    ];
    let picture = picture(&graph, &["a".into()], &[Pending], history);
    let bars = &chart(&picture).unwrap().lanes[0].bars;
    let plain: Vec<(Kind, Span)> = bars.iter().map(|bar| (bar.kind, bar.to.since(bar.from))).collect();
    assert_eq!(plain, [(Kind::Run(Error), Span::from_secs(1)), (Kind::Wait, Span::from_secs(5))]);
}

#[test]
fn of_a_long_history_the_page_lists_the_end() {
    use StepState::*;
    let graph = Graph::from_parents(vec![vec![]]);
    let history: Vec<Change> =
        (0..1_200)
            .map(|nth| {
                if nth % 2 == 0 {
                    change(nth, 1, Pending, InProgress, 1)
                } else {
                    change(nth, 1, InProgress, Pending, 1)
                }
            })
            .collect();
    let mut picture = picture(&graph, &["a".into()], &[Pending], history);
    let page = render(&picture, Format::Html).unwrap();
    let rows = |page: &str| page.matches("<tr><td>").count();
    assert_eq!((rows(&page), page.contains("200 earlier changes are left out")), (1_000, true));
    assert!(page.contains(">19 min 59 s</time>") && !page.contains(">3 min 19 s</time>"));
    let task = picture.task.as_mut().unwrap();
    task.history.truncate(999);
    task.history_is_cut = true;
    let page = render(&picture, Format::Html).unwrap();
    assert_eq!(
        (rows(&page), page.contains("left out"), page.contains("The first 999 changes only")),
        (999, false, true)
    );
}

#[test]
fn the_history_names_who_acted_and_how_long_a_backoff_is() {
    use StepState::*;
    let graph = Graph::from_parents(vec![vec![]]);
    let by = |change: Change, worker: &str, actor: Option<&str>| Change {
        worker: Some(worker.into()),
        actor: actor.map(Into::into),
        ..change
    };
    let history = vec![
        by(change(2, 1, Pending, InProgress, 1), "w1", None),
        by(change(3, 1, InProgress, Error, 1), "w1", None),
        // Counts from the attempt: 3 s are over.
        by(Change { backoff_seconds: Some(48), ..change(5, 1, Error, Error, 1) }, "w1", Some("ann")),
        by(Change { backoff_seconds: Some(0), ..change(6, 1, Error, Error, 1) }, "w1", Some("bob")),
    ];
    let picture = picture(&graph, &["a".into()], &[Error], history);
    let page = render(&picture, Format::Html).unwrap();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("<tr><td>")).collect();
    let ends: Vec<bool> = rows
        .iter()
        .zip([
            "<td>w1</td><td></td></tr>",
            "<td>w1</td><td></td></tr>",
            "<td>ann</td><td></td></tr>",
            "<td>bob</td><td></td></tr>",
        ])
        .map(|(row, end)| row.ends_with(end))
        .collect();
    assert_eq!(ends, [true; 4], "{rows:#?}");
    assert!(rows[2].contains(">backoff of 45 s<") && rows[3].contains(">backoff ended<"), "{rows:#?}");
}

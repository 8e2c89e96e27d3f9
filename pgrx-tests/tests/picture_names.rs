//! Names that want to be more than names, in every format.

mod engine_support;
#[path = "picture_support/escaping.rs"]
mod escaping;
mod picture_support;

use engine_support::{graph, step_state};
use pg_stepwise_cluster_tests::engine::state::StepState;
use pg_stepwise_cluster_tests::picture;
use pg_stepwise_cluster_tests::picture::legible::shown;
use pg_stepwise_cluster_tests::picture::model::{Change, text};
use picture_support::{change, picture};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_name_is_shown_whatever_is_in_it(
        graph in graph(6),
        names in prop::collection::vec(any_name(), 6),
        states in prop::collection::vec(step_state(), 6),
        task in any::<bool>(),
    ) {
        let mut history: Vec<Change> =
            graph.step_ids().map(|id| change(1, id, StepState::Pending, StepState::InProgress, 1)).collect();
        for (change, name) in history.iter_mut().zip(names.iter().cycle()) {
            (change.note, change.worker, change.actor) = (text(name), Some(text(name)), Some(text(name)));
        }
        let mut picture = picture(&graph, &names, &states, history);
        if !task {
            picture.task = None;
            picture.steps.iter_mut().for_each(|step| step.row = None);
        }
        escaping::check(&picture);
    }
}

/// Names as they come, and such as are made to break something.
fn any_name() -> impl Strategy<Value = String> {
    const EVIL: [&str; 14] = [
        "<script>alert(1)</script>",
        "\"]; evil",
        "]]>",
        "-->",
        "</title></style><b onclick=x>",
        "&amp;&#1;&bogus;",
        "\\",
        "\\\"",
        "a\nb\r\n\tc",
        "\u{1}\u{7f}\u{85}\u{2028}\u{202e}\u{fffe}\u{ffff}",
        "%%{init: {}}%%",
        "`#quot;`",
        "end",
        "' OR \"\" //",
    ];
    prop_oneof![
        prop::sample::select(EVIL.to_vec()).prop_map(String::from),
        prop::collection::vec(any::<char>(), 1..40).prop_map(String::from_iter),
        prop::collection::vec(prop::sample::select(EVIL.to_vec()), 2..4).prop_map(|parts| parts.concat()),
    ]
}

#[test]
fn what_cannot_be_shown_is_replaced_by_something_that_can() {
    assert_eq!(shown("plain é 出荷 🚚"), "plain é 出荷 🚚");
    assert_eq!(shown("\0\t\u{1b}[31m"), "␀␉␛[31m");
}

//! Random graphs for the property tests of the engine.
#![allow(dead_code, reason = "each test binary uses its own part")]

use pg_stepwise_cluster_tests::engine::graph::Graph;
use pg_stepwise_cluster_tests::engine::state::StepState;
use proptest::prelude::*;

/// The parents of up to `most` steps, numbered topologically.
pub fn topological_parents(most: usize) -> impl Strategy<Value = Vec<Vec<i32>>> {
    prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..4), 1..=most).prop_map(|picks| {
        picks
            .iter()
            .enumerate()
            .map(|(before, picks)| {
                let mut parents: Vec<i32> = match before {
                    0 => Vec::new(),
                    _ => picks.iter().map(|pick| pick.index(before) as i32 + 1).collect(),
                };
                parents.sort_unstable();
                parents.dedup();
                parents
            })
            .collect()
    })
}

pub fn graph(most: usize) -> impl Strategy<Value = Graph> {
    topological_parents(most).prop_map(Graph::from_parents)
}

pub fn step_state() -> impl Strategy<Value = StepState> {
    prop::sample::select(StepState::ALL.to_vec())
}

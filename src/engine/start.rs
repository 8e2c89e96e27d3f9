//! The steps of a new task.
//!
//! In: the first state, waiting parents and visibility of every step. Out: inserting them, and when "now" is.

use std::collections::HashSet;

use super::graph::Graph;
use super::rule::StepRule;
use super::state::StepState;

/// How a step of a new task begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitialStep {
    pub step_id: i32,
    /// Pending or skipped.
    pub state: StepState,
    pub remaining_parents: i32,
    pub visible: Visible,
}

/// From when a new step may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visible {
    /// By nobody yet: it waits for parents, or is skipped.
    No,
    /// From the start of the task: now, or the time that was asked for.
    AtStart,
    /// By no worker ever (its retry limit is 0), but it keeps the task open: infinity.
    Never,
}

/// The steps of a new task over `graph`, by step id.
///
/// `retry_limits` holds the limit of step `i + 1` at `i`; a missing one is the default. A bypassed step is skipped, and
/// with it every step all of whose parents are skipped.
pub fn initial_steps(graph: &Graph, retry_limits: &[i32], bypassed: &HashSet<i32>) -> Vec<InitialStep> {
    let mut steps: Vec<InitialStep> = Vec::with_capacity(graph.len());
    for (step_id, index) in graph.step_ids().zip(0_usize..) {
        let parents = graph.parents(step_id);
        // Step ids are topological, so every parent is already there.
        let remaining = parents
            .iter()
            .filter(|&&parent| {
                let before = usize::try_from(parent - 1).ok().and_then(|index| steps.get(index));
                before.is_none_or(|step| step.state != StepState::Skipped)
            })
            .count();
        let skipped = bypassed.contains(&step_id) || (remaining == 0 && !parents.is_empty());
        let retry_limit = retry_limits.get(index).copied().unwrap_or(StepRule::DEFAULT_RETRY_LIMIT);
        let visible = match (skipped, remaining) {
            (true, _) | (false, 1..) => Visible::No,
            (false, 0) if retry_limit <= 0 => Visible::Never,
            (false, 0) => Visible::AtStart,
        };
        steps.push(InitialStep {
            step_id,
            state: if skipped { StepState::Skipped } else { StepState::Pending },
            remaining_parents: i32::try_from(remaining).unwrap_or(i32::MAX),
            visible,
        });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_visible_and_the_rest_waits() {
        let graph = Graph::from_parents(vec![vec![], vec![], vec![1, 2]]);
        let steps = initial_steps(&graph, &[3, 0, 3], &HashSet::new());
        assert_eq!(
            steps.iter().map(|step| step.visible).collect::<Vec<_>>(),
            [Visible::AtStart, Visible::Never, Visible::No]
        );
        assert_eq!(steps.iter().map(|step| step.remaining_parents).collect::<Vec<_>>(), [0, 0, 2]);
    }

    #[test]
    fn a_step_with_only_bypassed_parents_is_skipped_with_them() {
        let graph = Graph::from_parents(vec![vec![], vec![1], vec![], vec![2, 3]]);
        let steps = initial_steps(&graph, &[3; 4], &HashSet::from([1]));
        assert_eq!(
            steps.iter().map(|step| step.state == StepState::Skipped).collect::<Vec<_>>(),
            [true, true, false, false]
        );
        assert_eq!((steps[3].remaining_parents, steps[3].visible), (1, Visible::No));
    }
}

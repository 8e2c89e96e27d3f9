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
    /// Pending or, of a bypassed step, resolved manually.
    pub state: StepState,
    pub remaining_parents: i32,
    pub visible: Visible,
}

/// From when a new step may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visible {
    /// By nobody yet: it waits for parents, or is bypassed.
    No,
    /// From the start of the task: now, or the time that was asked for.
    AtStart,
    /// By no worker ever (its retry limit is 0), but it keeps the task open: infinity.
    Never,
}

/// The steps of a new task over `graph`, by step id.
///
/// `retry_limits` holds the limit of step `i + 1` at `i`; a missing one is the default. A bypassed step counts as
/// resolved from the start, so its dependents do not wait for it.
pub fn initial_steps(graph: &Graph, retry_limits: &[i32], bypassed: &HashSet<i32>) -> Vec<InitialStep> {
    let first_state = |step_id| match bypassed.contains(&step_id) {
        true => StepState::ResolvedManually,
        false => StepState::Pending,
    };
    let first = |(step_id, index): (i32, usize)| {
        let state = first_state(step_id);
        let remaining = graph.parents(step_id).iter().filter(|&&parent| !first_state(parent).settles()).count();
        let retry_limit = retry_limits.get(index).copied().unwrap_or(StepRule::DEFAULT_RETRY_LIMIT);
        let visible = match remaining {
            1.. => Visible::No,
            _ if state != StepState::Pending => Visible::No,
            _ if retry_limit <= 0 => Visible::Never,
            _ => Visible::AtStart,
        };
        InitialStep { step_id, state, remaining_parents: i32::try_from(remaining).unwrap_or(i32::MAX), visible }
    };
    graph.step_ids().zip(0_usize..).map(first).collect()
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
    fn nobody_waits_for_a_bypassed_step() {
        let graph = Graph::from_parents(vec![vec![], vec![1], vec![], vec![2, 3]]);
        let steps = initial_steps(&graph, &[3; 4], &HashSet::from([2]));
        assert_eq!(steps.iter().map(|step| step.remaining_parents).collect::<Vec<_>>(), [0, 1, 0, 1]);
        assert_eq!((steps[1].state, steps[1].visible), (StepState::ResolvedManually, Visible::No));
        assert_eq!((steps[3].state, steps[3].visible), (StepState::Pending, Visible::No));
        let steps = initial_steps(&graph, &[3; 4], &HashSet::from([1, 2, 3]));
        assert_eq!((steps[3].state, steps[3].visible), (StepState::Pending, Visible::AtStart));
    }
}

//! The steps of a new task.
//!
//! In: the first state and waiting parents of every step, and which are ready. Out: inserting them, and when "now" is.

use std::collections::HashSet;

use super::graph::Graph;
use super::state::StepState;

/// How a step of a new task begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitialStep {
    pub step_id: i32,
    /// Pending or, of a bypassed step, resolved manually.
    pub state: StepState,
    pub remaining_parents: i32,
    /// Pending with nothing to wait for but its time (`StepRule::visible_from`).
    pub ready: bool,
}

/// The steps of a new task over `graph`, by step id. A bypassed step counts as resolved from the start, so its
/// dependents do not wait for it.
pub fn initial_steps(graph: &Graph, bypassed: &HashSet<i32>) -> Vec<InitialStep> {
    let first_state = |step_id| match bypassed.contains(&step_id) {
        true => StepState::ResolvedManually,
        false => StepState::Pending,
    };
    let first = |step_id: i32| {
        let state = first_state(step_id);
        let remaining = graph.parents(step_id).iter().filter(|&&parent| !first_state(parent).settles()).count();
        let ready = remaining == 0 && state == StepState::Pending;
        InitialStep { step_id, state, remaining_parents: i32::try_from(remaining).unwrap_or(i32::MAX), ready }
    };
    graph.step_ids().map(first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_ready_and_the_rest_waits() {
        let graph = Graph::from_parents(vec![vec![], vec![], vec![1, 2]]);
        let steps = initial_steps(&graph, &HashSet::new());
        assert_eq!(steps.iter().map(|step| step.ready).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(steps.iter().map(|step| step.remaining_parents).collect::<Vec<_>>(), [0, 0, 2]);
    }

    #[test]
    fn nobody_waits_for_a_bypassed_step() {
        let graph = Graph::from_parents(vec![vec![], vec![1], vec![], vec![2, 3]]);
        let steps = initial_steps(&graph, &HashSet::from([2]));
        assert_eq!(steps.iter().map(|step| step.remaining_parents).collect::<Vec<_>>(), [0, 1, 0, 1]);
        assert_eq!((steps[1].state, steps[1].ready), (StepState::ResolvedManually, false));
        assert_eq!((steps[3].state, steps[3].ready), (StepState::Pending, false));
        let steps = initial_steps(&graph, &HashSet::from([1, 2, 3]));
        assert_eq!((steps[3].state, steps[3].ready), (StepState::Pending, true));
    }
}

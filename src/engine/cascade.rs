//! Which steps fall with a step that was cancelled or skipped.
//!
//! In: the descendants that can no longer run, or whose branch was not taken. Out: changing and recording them.

use std::collections::HashMap;

use super::graph::Graph;
use super::state::StepState;

/// A step that has just become cancelled or skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    pub step_id: i32,
    pub state: StepState,
}

/// A step that falls in consequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fall {
    pub step_id: i32,
    /// Cancelled or skipped.
    pub to: StepState,
    /// The settled step from which it fell; of several cancelled ones, that with the lowest id that reaches it.
    pub cause: i32,
}

/// The steps of one task that fall with `settled`, by step id.
///
/// A pending descendant of a cancelled step is cancelled, along paths of steps that fall; a pending step all of whose
/// parents are skipped is skipped; where both hold, cancelled. `states` tells the current state of a step of the task.
/// Time and memory grow with the steps that fall and their edges, not with the graph.
pub fn falls(graph: &Graph, states: &dyn Fn(i32) -> Option<StepState>, settled: &[Settled]) -> Vec<Fall> {
    let mut roots = settled.to_vec();
    roots.sort_unstable_by_key(|root| root.step_id);
    let gone = roots.iter().map(|root| (root.step_id, root.state)).collect();
    let mut cascade = Cascade { graph, states, gone, skipped_parents: HashMap::new(), falls: Vec::new() };
    // Skips come second, when all that a cancelled step takes with it is already gone.
    for kind in [StepState::Cancelled, StepState::Skipped] {
        for root in roots.iter().filter(|root| root.state == kind) {
            cascade.spread(root.step_id, kind);
        }
    }
    cascade.falls.sort_unstable_by_key(|fall| fall.step_id);
    cascade.falls
}

struct Cascade<'a> {
    graph: &'a Graph,
    states: &'a dyn Fn(i32) -> Option<StepState>,
    /// The settled steps and those that fell, which `states` may not know yet.
    gone: HashMap<i32, StepState>,
    /// How many of a step's first parents are known to be skipped; a skip is final, so this only grows.
    skipped_parents: HashMap<i32, usize>,
    falls: Vec<Fall>,
}

impl Cascade<'_> {
    fn spread(&mut self, cause: i32, to: StepState) {
        let graph = self.graph;
        let mut open = vec![cause];
        while let Some(step_id) = open.pop() {
            for &child in graph.children(step_id) {
                let stands = self.state(child) == Some(StepState::Pending);
                if stands && (to == StepState::Cancelled || self.all_parents_skipped(child)) {
                    self.gone.insert(child, to);
                    self.falls.push(Fall { step_id: child, to, cause });
                    open.push(child);
                }
            }
        }
    }

    fn all_parents_skipped(&mut self, step_id: i32) -> bool {
        let parents = self.graph.parents(step_id);
        let mut known = self.skipped_parents.get(&step_id).copied().unwrap_or(0);
        while parents.get(known).is_some_and(|&parent| self.state(parent) == Some(StepState::Skipped)) {
            known += 1;
        }
        self.skipped_parents.insert(step_id, known);
        known == parents.len()
    }

    fn state(&self, step_id: i32) -> Option<StepState> {
        self.gone.get(&step_id).copied().or_else(|| (self.states)(step_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fallen(parents: Vec<Vec<i32>>, settled: &[(i32, StepState)]) -> Vec<(i32, StepState, i32)> {
        let settled: Vec<Settled> = settled.iter().map(|&(step_id, state)| Settled { step_id, state }).collect();
        let falls = falls(&Graph::from_parents(parents), &|_| Some(StepState::Pending), &settled);
        falls.into_iter().map(|fall| (fall.step_id, fall.to, fall.cause)).collect()
    }

    #[test]
    fn a_cancelled_step_takes_all_its_descendants() {
        let parents = vec![vec![], vec![1], vec![], vec![2, 3]];
        let cancelled = StepState::Cancelled;
        assert_eq!(fallen(parents, &[(1, cancelled)]), [(2, cancelled, 1), (4, cancelled, 1)]);
    }

    #[test]
    fn a_skipped_step_takes_those_that_have_no_other_parent() {
        let parents = vec![vec![], vec![1], vec![], vec![2, 3], vec![1, 2]];
        let skipped = StepState::Skipped;
        assert_eq!(fallen(parents, &[(1, skipped)]), [(2, skipped, 1), (5, skipped, 1)]);
    }

    #[test]
    fn where_both_reach_a_step_it_is_cancelled() {
        let parents = vec![vec![], vec![], vec![1, 2]];
        let settled = [(1, StepState::Skipped), (2, StepState::Cancelled)];
        assert_eq!(fallen(parents, &settled), [(3, StepState::Cancelled, 2)]);
    }
}

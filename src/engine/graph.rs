//! The graph of a template's steps, numbered so that parents come before children.
//!
//! In: ordering and checking named dependencies, parents, children and levels by step id. Out: what a step is, and its state.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use thiserror::Error;

/// A directed acyclic graph of the steps 1..=n, numbered topologically.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Graph {
    parents: Edges,
    children: Edges,
    levels: Vec<i32>,
}

/// Neighbours of every step in one array: those of step `i + 1` lie from `starts[i]` to `starts[i + 1]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Edges {
    starts: Vec<usize>,
    ids: Vec<i32>,
}

/// Why steps and dependencies are no graph that could run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GraphError {
    #[error("duplicate step name")]
    DuplicateStep { name: String },
    #[error("unknown dependency")]
    UnknownDependency { step: String, dependency: String },
    #[error("step depends on itself")]
    SelfDependency { step: String },
    /// The steps of the cycle along its edges, parent first; the first again at the end.
    #[error("dependencies form a cycle")]
    Cycle { path: Vec<String> },
}

impl GraphError {
    /// The names behind the message.
    pub fn detail(&self) -> String {
        match self {
            Self::DuplicateStep { name } => format!("Step \"{name}\" is defined more than once."),
            Self::UnknownDependency { step, dependency } => {
                format!("Step \"{step}\" depends on \"{dependency}\", which is not a step of the template.")
            }
            Self::SelfDependency { step } => format!("Step \"{step}\" depends on \"{step}\"."),
            Self::Cycle { .. } => self.path_text(),
        }
    }

    /// A cycle as `a → b → a`, shortened in the middle beyond 50 names; empty for another error.
    pub fn path_text(&self) -> String {
        const ARROW: &str = " → ";
        const SHOWN: usize = 50;
        let Self::Cycle { path } = self else { return String::new() };
        match (path.get(..SHOWN / 2), path.len().checked_sub(SHOWN)) {
            (Some(head), Some(more @ 1..)) => {
                let tail = path.get(path.len() - SHOWN / 2..).unwrap_or_default();
                format!("{} … ({more} more) … {}", head.join(ARROW), tail.join(ARROW))
            }
            _ => path.join(ARROW),
        }
    }
}

impl Graph {
    pub fn len(&self) -> usize {
        self.levels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// The steps that `step_id` waits for, ascending; none for an id that is not in the graph.
    #[inline]
    pub fn parents(&self, step_id: i32) -> &[i32] {
        self.parents.of(step_id)
    }

    /// The steps that wait for `step_id`, ascending; none for an id that is not in the graph.
    #[inline]
    pub fn children(&self, step_id: i32) -> &[i32] {
        self.children.of(step_id)
    }

    /// The length of the longest path from a root to the step; 0 for a root and for an id that is not in the graph.
    #[inline]
    pub fn level(&self, step_id: i32) -> i32 {
        index_of(step_id).and_then(|index| self.levels.get(index)).copied().unwrap_or(0)
    }

    /// 1..=n, parents before children.
    pub fn step_ids(&self) -> impl Iterator<Item = i32> {
        1..=self.last_id()
    }

    /// The graph in which step `i + 1` has the parents at `i`. For a graph that [`order`] has numbered before; a parent
    /// that is not a step before its child is left out.
    pub fn from_parents(mut parents: Vec<Vec<i32>>) -> Graph {
        let mut levels: Vec<i32> = Vec::with_capacity(parents.len());
        for (of_step, step_id) in parents.iter_mut().zip(1_i32..) {
            of_step.retain(|parent| (1..step_id).contains(parent));
            of_step.sort_unstable();
            of_step.dedup();
            let above = of_step.iter().filter_map(|&parent| levels.get(index_of(parent)?)).max();
            levels.push(above.map_or(0, |level| level + 1));
        }
        let children = Edges::reversed(&parents);
        Graph { parents: Edges::packed(&parents), children, levels }
    }

    /// The path from a root to a step without children whose weights add up to the most, by step id. `weights` holds
    /// that of step `i + 1` at `i`, none of them negative; a missing one is 0. Of several, the one with the lowest ids.
    pub fn heaviest_path(&self, weights: &[i64]) -> Vec<i32> {
        let weight = |step_id| index_of(step_id).and_then(|index| weights.get(index)).copied().unwrap_or(0);
        let mut totals: Vec<i64> = Vec::with_capacity(self.len());
        let mut from: Vec<Option<i32>> = Vec::with_capacity(self.len());
        let total_of = |totals: &[i64], step_id| index_of(step_id).and_then(|index| totals.get(index)).copied();
        for step_id in self.step_ids() {
            let mut best: Option<(i64, i32)> = None;
            for &parent in self.parents(step_id) {
                let total = total_of(&totals, parent).unwrap_or(0);
                if best.is_none_or(|(most, _)| total > most) {
                    best = Some((total, parent));
                }
            }
            totals.push(best.map_or(0, |(total, _)| total).saturating_add(weight(step_id)));
            from.push(best.map(|(_, parent)| parent));
        }
        let mut last: Option<(i64, i32)> = None;
        for step_id in self.step_ids().filter(|&step_id| self.children(step_id).is_empty()) {
            let total = total_of(&totals, step_id).unwrap_or(0);
            if last.is_none_or(|(most, _)| total > most) {
                last = Some((total, step_id));
            }
        }
        let mut path = Vec::new();
        let mut next = last.map(|(_, step_id)| step_id);
        while let Some(step_id) = next {
            path.push(step_id);
            next = index_of(step_id).and_then(|index| from.get(index).copied()).flatten();
        }
        path.reverse();
        path
    }

    fn last_id(&self) -> i32 {
        i32::try_from(self.levels.len()).unwrap_or(i32::MAX)
    }
}

impl Edges {
    #[inline]
    fn of(&self, step_id: i32) -> &[i32] {
        let range = index_of(step_id).and_then(|index| Some(*self.starts.get(index)?..*self.starts.get(index + 1)?));
        range.and_then(|range| self.ids.get(range)).unwrap_or_default()
    }

    fn packed(lists: &[Vec<i32>]) -> Edges {
        let mut edges = Edges { starts: Vec::with_capacity(lists.len() + 1), ids: Vec::new() };
        edges.ids.reserve_exact(lists.iter().map(Vec::len).sum());
        edges.starts.push(0);
        for list in lists {
            edges.ids.extend_from_slice(list);
            edges.starts.push(edges.ids.len());
        }
        edges
    }

    /// The same edges seen from the other end. Children come out ascending, because steps are visited in order.
    fn reversed(parents: &[Vec<i32>]) -> Edges {
        let mut children = vec![Vec::new(); parents.len()];
        for (of_step, step_id) in parents.iter().zip(1_i32..) {
            for &parent in of_step {
                if let Some(list) = index_of(parent).and_then(|index| children.get_mut(index)) {
                    list.push(step_id);
                }
            }
        }
        Edges::packed(&children)
    }
}

/// Numbers the steps: the graph, and for step id `i + 1` the index into `names` at `i`.
///
/// Of the steps whose parents all have a number, the one defined first comes next; so a definition that already is in
/// order keeps it. The same dependency named twice counts once. `depends_on[i]` belongs to `names[i]`.
pub fn order(names: &[&str], depends_on: &[Vec<&str>]) -> Result<(Graph, Vec<usize>), GraphError> {
    let parents = resolve(names, depends_on)?;
    let mut children = vec![Vec::new(); names.len()];
    let mut waiting: Vec<usize> = parents.iter().map(Vec::len).collect();
    for (index, of_step) in parents.iter().enumerate() {
        for &parent in of_step {
            children[parent].push(index);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..names.len()).filter(|&index| waiting[index] == 0).map(Reverse).collect();
    let mut sequence = Vec::with_capacity(names.len());
    let mut step_ids = vec![0; names.len()];
    while let Some(Reverse(index)) = ready.pop() {
        sequence.push(index);
        step_ids[index] = i32::try_from(sequence.len()).unwrap_or(i32::MAX);
        for &child in &children[index] {
            waiting[child] -= 1;
            if waiting[child] == 0 {
                ready.push(Reverse(child));
            }
        }
    }
    if sequence.len() < names.len() {
        return Err(GraphError::Cycle { path: find_cycle(names, &parents, &waiting) });
    }
    let numbered = sequence.iter().map(|&index| parents[index].iter().map(|&parent| step_ids[parent]).collect());
    Ok((Graph::from_parents(numbered.collect()), sequence))
}

/// The parents of every step as indices into `names`, each once.
fn resolve(names: &[&str], depends_on: &[Vec<&str>]) -> Result<Vec<Vec<usize>>, GraphError> {
    let mut indices = HashMap::with_capacity(names.len());
    for (index, &name) in names.iter().enumerate() {
        if indices.insert(name, index).is_some() {
            return Err(GraphError::DuplicateStep { name: name.to_owned() });
        }
    }
    let mut parents = Vec::with_capacity(names.len());
    for (index, &name) in names.iter().enumerate() {
        let wanted = depends_on.get(index).map(Vec::as_slice).unwrap_or_default();
        let mut of_step = Vec::with_capacity(wanted.len());
        for &dependency in wanted {
            match indices.get(dependency) {
                Some(&parent) if parent == index => {
                    return Err(GraphError::SelfDependency { step: name.to_owned() });
                }
                Some(&parent) => of_step.push(parent),
                None => {
                    let (step, dependency) = (name.to_owned(), dependency.to_owned());
                    return Err(GraphError::UnknownDependency { step, dependency });
                }
            }
        }
        of_step.sort_unstable();
        of_step.dedup();
        parents.push(of_step);
    }
    Ok(parents)
}

/// One cycle among the steps that still wait, parent first, beginning and ending with its first-defined step.
///
/// A waiting step has a waiting parent, so going from parent to parent must come back to a step seen before.
fn find_cycle(names: &[&str], parents: &[Vec<usize>], waiting: &[usize]) -> Vec<String> {
    let waits = |index: usize| waiting.get(index).is_some_and(|&count| count > 0);
    let mut trail: Vec<usize> = Vec::new();
    let mut position = vec![None; names.len()];
    let mut next = (0..names.len()).find(|&index| waits(index));
    while let Some(index) = next {
        if let Some(start) = position[index] {
            let mut cycle = trail.split_off(start);
            cycle.reverse();
            let first = cycle.iter().enumerate().min_by_key(|&(_, step)| step).map_or(0, |(place, _)| place);
            cycle.rotate_left(first);
            cycle.extend(cycle.first().copied());
            return cycle.into_iter().map(|step| names[step].to_owned()).collect();
        }
        position[index] = Some(trail.len());
        trail.push(index);
        next = parents[index].iter().copied().find(|&parent| waits(parent));
    }
    Vec::new()
}

/// The place of a step in arrays that begin with step 1.
#[inline]
fn index_of(step_id: i32) -> Option<usize> {
    usize::try_from(step_id).ok()?.checked_sub(1)
}

const _: () = assert!(super::template::MAX_STEPS < i32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_in_order_keeps_its_order() {
        let (graph, sequence) =
            order(&["a", "b", "c", "d"], &[vec![], vec!["a"], vec![], vec!["b", "a", "b"]]).unwrap();
        assert_eq!(sequence, [0, 1, 2, 3]);
        assert_eq!(graph.parents(4), [1, 2]);
        assert_eq!(graph.children(1), [2, 4]);
        assert_eq!([1, 2, 3, 4].map(|id| graph.level(id)), [0, 1, 0, 2]);
    }

    #[test]
    fn of_several_ready_steps_the_first_defined_comes_first() {
        let (_, sequence) = order(&["late", "x", "root", "y"], &[vec!["root"], vec![], vec![], vec![]]).unwrap();
        assert_eq!(sequence, [1, 2, 0, 3]);
    }

    #[test]
    fn ids_outside_the_graph_have_no_neighbours() {
        let (graph, _) = order(&["a", "b"], &[vec![], vec!["a"]]).unwrap();
        for id in [i32::MIN, -1, 0, 3, i32::MAX] {
            assert!(graph.parents(id).is_empty() && graph.children(id).is_empty() && graph.level(id) == 0);
        }
        assert_eq!(Graph::default().step_ids().count(), 0);
    }

    #[test]
    fn a_cycle_is_shown_from_parent_to_child() {
        let refused = order(&["r", "b", "a", "c"], &[vec![], vec!["a", "r"], vec!["c"], vec!["b"]]).unwrap_err();
        assert_eq!(refused.path_text(), "b → c → a → b");
        let pair = order(&["a", "b"], &[vec!["b"], vec!["a"]]).unwrap_err();
        assert_eq!(pair.detail(), "a → b → a");
    }

    #[test]
    fn a_long_cycle_is_shortened_in_the_middle() {
        let names: Vec<String> = (0..60).map(|n| format!("s{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let depends_on: Vec<Vec<&str>> = (0..60).map(|n| vec![names[(n + 59) % 60]]).collect();
        let text = order(&names, &depends_on).unwrap_err().path_text();
        assert!(text.starts_with("s0 → s1 → "), "{text}");
        assert!(text.contains("s24 … (11 more) … s36"), "{text}");
        assert!(text.ends_with("s59 → s0"), "{text}");
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let own = |text: &str| text.to_owned();
        assert_eq!(order(&["a", "a"], &[]), Err(GraphError::DuplicateStep { name: own("a") }));
        assert_eq!(order(&["a"], &[vec!["a"]]), Err(GraphError::SelfDependency { step: own("a") }));
        let unknown = GraphError::UnknownDependency { step: own("a"), dependency: own("b") };
        assert_eq!(order(&["a"], &[vec!["b"]]), Err(unknown));
    }
}

//! The graph of a template, the first states over it, and what falls along it.

mod engine_support;
#[path = "cluster/shapes.rs"]
mod shapes;

use std::collections::{BTreeMap, HashSet};

use engine_support::{graph, step_state, topological_parents};
use pg_stepwise_cluster_tests::engine::cascade::{Settled, falls};
use pg_stepwise_cluster_tests::engine::graph::{Graph, GraphError, order};
use pg_stepwise_cluster_tests::engine::start::initial_steps;
use pg_stepwise_cluster_tests::engine::state::StepState;
use proptest::prelude::*;

fn named(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("s{n}")).collect()
}

/// Names in `definition` order and each one's dependencies.
fn dependencies<'a>(names: &'a [String], edges: &[(usize, usize)]) -> Vec<Vec<&'a str>> {
    let mut depends_on = vec![Vec::new(); names.len()];
    for &(parent, child) in edges {
        depends_on[child].push(names[parent].as_str());
    }
    depends_on
}

/// Kahn's algorithm in its dullest form: always the first-defined step all of whose parents are out.
fn naive_order(count: usize, edges: &[(usize, usize)]) -> Option<Vec<usize>> {
    let mut out: Vec<usize> = Vec::new();
    while out.len() < count {
        let free = |step: &usize| edges.iter().all(|(parent, child)| child != step || out.contains(parent));
        let next = (0..count).find(|step| !out.contains(step) && free(step))?;
        out.push(next);
    }
    Some(out)
}

fn edges(count: usize) -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((0..count, 0..count), 0..count * 2)
        .prop_map(|edges| edges.into_iter().filter(|(parent, child)| parent != child).collect())
}

proptest! {
    #[test]
    fn an_order_is_topological_and_stable_or_there_is_a_real_cycle(edges in (1_usize..12).prop_flat_map(edges)) {
        let names = named(12);
        let texts: Vec<&str> = names.iter().map(String::as_str).collect();
        match (order(&texts, &dependencies(&names, &edges)), naive_order(12, &edges)) {
            (Ok((graph, sequence)), Some(expected)) => {
                prop_assert_eq!(&sequence, &expected);
                let step_id = |index: usize| sequence.iter().position(|&at| at == index).unwrap() as i32 + 1;
                for (index, _) in names.iter().enumerate() {
                    let mut parents: Vec<i32> =
                        edges.iter().filter(|edge| edge.1 == index).map(|edge| step_id(edge.0)).collect();
                    parents.sort_unstable();
                    parents.dedup();
                    prop_assert_eq!(graph.parents(step_id(index)), parents);
                }
            }
            (Err(GraphError::Cycle { path }), None) => {
                prop_assert!(path.len() >= 3 && path.first() == path.last());
                let simple: HashSet<&String> = path.iter().skip(1).collect();
                prop_assert_eq!(simple.len(), path.len() - 1);
                for pair in path.windows(2) {
                    let index = |name: &String| names.iter().position(|other| other == name).unwrap();
                    prop_assert!(edges.contains(&(index(&pair[0]), index(&pair[1]))), "{pair:?} is no edge");
                }
            }
            (got, expected) => prop_assert!(false, "{got:?}, but naively {expected:?}"),
        }
    }

    #[test]
    fn both_ends_know_every_edge_and_levels_are_longest_paths(parents in topological_parents(40)) {
        let graph = Graph::from_parents(parents.clone());
        let mut levels: Vec<i32> = Vec::new();
        for (of_step, step_id) in parents.iter().zip(1..) {
            prop_assert_eq!(graph.parents(step_id), of_step.as_slice());
            levels.push(of_step.iter().map(|&parent| levels[parent as usize - 1] + 1).max().unwrap_or(0));
            prop_assert_eq!(graph.level(step_id), *levels.last().unwrap());
            let children: Vec<i32> =
                parents.iter().zip(1..).filter(|(theirs, _)| theirs.contains(&step_id)).map(|(_, id)| id).collect();
            prop_assert_eq!(graph.children(step_id), children);
        }
        prop_assert_eq!(graph.step_ids().count(), graph.len());
    }

    #[test]
    fn anything_may_be_loaded_as_a_graph(parents in prop::collection::vec(prop::collection::vec(any::<i32>(), 0..5), 0..9)) {
        let graph = Graph::from_parents(parents);
        for step_id in graph.step_ids() {
            prop_assert!(graph.parents(step_id).iter().all(|&parent| 0 < parent && parent < step_id));
        }
    }

    #[test]
    fn what_falls_is_the_fixpoint(
        graph in graph(25),
        states in prop::collection::vec(step_state(), 25),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let settled: Vec<Settled> = picks
            .iter()
            .map(|pick| pick.index(graph.len()))
            .filter(|&at| matches!(states[at], StepState::Cancelled | StepState::Skipped))
            .map(|at| Settled { step_id: at as i32 + 1, state: states[at] })
            .collect();
        let state = |id: i32| states[..graph.len()].get(id as usize - 1).copied();
        let got = falls(&graph, &state, &settled);
        prop_assert!(got.windows(2).all(|pair| pair[0].step_id < pair[1].step_id));
        let reached: BTreeMap<i32, StepState> = got.iter().map(|fall| (fall.step_id, fall.to)).collect();
        prop_assert_eq!(&reached, &naive_falls(&graph, &state, &settled));
        for fall in &got {
            let origin = settled.iter().find(|root| root.step_id == fall.cause);
            prop_assert_eq!(origin.map(|root| root.state), Some(fall.to), "{:?}", fall);
            let mut alone: Vec<&Settled> =
                settled.iter().filter(|root| root.state == fall.to && fall.to == StepState::Cancelled).collect();
            alone.sort_by_key(|root| root.step_id);
            let first = alone.into_iter().find(|root| naive_falls(&graph, &state, &[**root]).contains_key(&fall.step_id));
            prop_assert!(first.is_none_or(|root| root.step_id == fall.cause), "{:?} but first {:?}", fall, first);
        }
    }

    #[test]
    fn the_heaviest_path_is_a_path_and_none_is_heavier(
        graph in graph(12),
        weights in prop::collection::vec(0..50_i64, 12),
    ) {
        let weight = |path: &[i32]| path.iter().map(|&id| weights[id as usize - 1]).sum::<i64>();
        let path = graph.heaviest_path(&weights);
        prop_assert!(graph.parents(path[0]).is_empty());
        prop_assert!(path.windows(2).all(|pair| graph.children(pair[0]).contains(&pair[1])));
        let mut open: Vec<Vec<i32>> = graph.step_ids().filter(|&id| graph.parents(id).is_empty()).map(|id| vec![id]).collect();
        while let Some(other) = open.pop() {
            prop_assert!(weight(&other) <= weight(&path), "{:?} {:?}", other, path);
            let last = *other.last().unwrap();
            open.extend(graph.children(last).iter().map(|&child| [other.as_slice(), &[child]].concat()));
        }
    }

    #[test]
    fn a_new_task_waits_for_nobody_who_was_bypassed(
        graph in graph(25),
        bypassed in prop::collection::hash_set(1_i32..=25, 0..6),
    ) {
        let steps = initial_steps(&graph, &bypassed);
        prop_assert_eq!(steps.len(), graph.len());
        for step in &steps {
            let id = step.step_id;
            let bypass = bypassed.contains(&id);
            prop_assert_eq!(step.state, if bypass { StepState::ResolvedManually } else { StepState::Pending });
            let remaining = graph.parents(id).iter().filter(|parent| !bypassed.contains(parent)).count() as i32;
            prop_assert_eq!(step.remaining_parents, remaining);
            prop_assert_eq!(step.ready, !bypass && remaining == 0);
        }
    }
}

/// Looks at every step again and again until nothing changes.
fn naive_falls(
    graph: &Graph,
    state: &dyn Fn(i32) -> Option<StepState>,
    settled: &[Settled],
) -> BTreeMap<i32, StepState> {
    let mut reached: BTreeMap<i32, StepState> = BTreeMap::new();
    for to in [StepState::Cancelled, StepState::Skipped] {
        loop {
            let of_kind = |id: &i32| {
                reached.get(id) == Some(&to) || settled.iter().any(|root| root.step_id == *id && root.state == to)
            };
            let skipped = |id: &i32| reached.get(id).copied().or(state(*id)) == Some(StepState::Skipped);
            let next = graph.step_ids().find(|id| {
                state(*id) == Some(StepState::Pending)
                    && !reached.contains_key(id)
                    && graph.parents(*id).iter().any(of_kind)
                    && (to == StepState::Cancelled || graph.parents(*id).iter().all(skipped))
            });
            match next {
                Some(id) => reached.insert(id, to),
                None => break,
            };
        }
    }
    reached
}

#[test]
fn a_wide_fan_in_of_skips_is_linear() {
    let width = 50_000;
    let mut parents = vec![Vec::new(); width];
    parents.push((1..=width as i32).collect());
    let settled: Vec<Settled> =
        (1..=width as i32).map(|step_id| Settled { step_id, state: StepState::Skipped }).collect();
    let fallen = falls(&Graph::from_parents(parents), &|_| Some(StepState::Pending), &settled);
    assert_eq!(fallen.len(), 1);
}

#[test]
fn the_shapes_have_their_levels() {
    for shape in shapes::shapes() {
        let (name, steps) = (shape.name, &shape.steps);
        let depends_on: Vec<Vec<&str>> = steps.iter().map(|step| shape.parents(step)).collect();
        let (graph, sequence) = order(steps, &depends_on).unwrap();
        let level = |index: usize| graph.level(sequence.iter().position(|&at| at == index).unwrap() as i32 + 1);
        for (place, wanted) in shape.levels.split(' ').enumerate() {
            let (pattern, expected) = match wanted.split_once(':') {
                Some((pattern, expected)) => (pattern, expected.parse::<i32>().unwrap()),
                None => (steps[place], wanted.parse().unwrap()),
            };
            let fitting: Vec<usize> = (0..steps.len()).filter(|&index| fits(pattern, steps[index])).collect();
            assert!(!fitting.is_empty(), "{name}: no step fits {pattern}");
            for index in fitting {
                assert_eq!(level(index), expected, "{name}: {}", steps[index]);
            }
        }
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    match (pattern.split_once('*'), pattern) {
        (Some((head, tail)), _) => name.starts_with(head) && name.ends_with(tail),
        (None, "root") => name == "root_initialization",
        (None, "setups") => name.ends_with("_setup"),
        (None, "tasks") => name.contains("_task_"),
        (None, exact) => name == exact,
    }
}

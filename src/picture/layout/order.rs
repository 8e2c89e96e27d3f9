//! The order of the vertices in each layer: sweeps that sort a layer by where its neighbours lie, then sifting, which puts
//! each vertex where it makes the fewest crossings. The best order seen is kept.
use super::Layered;

/// Sweeps without an improvement before it is left as it is.
const PATIENCE: usize = 4;
const SWEEPS: usize = 24;
/// Rounds of sifting after a sweep.
const ROUNDS: usize = 3;
/// Sifting compares the links of every vertex with those of its whole layer: up to so many comparisons.
const COMPARED: usize = 200_000;

pub fn fewest_crossings(mut graph: Layered) -> Layered {
    let mut best: Option<(usize, Vec<Vec<usize>>)> = None;
    for start in [from_parent_to_child(&graph), from_end_to_end(&graph)] {
        if best.as_ref().is_some_and(|(fewest, _)| *fewest == 0) {
            break;
        }
        arrange(&mut graph, &start);
        let found = improve(&mut graph);
        if best.as_ref().is_none_or(|(fewest, _)| found.0 < *fewest) {
            best = Some(found);
        }
    }
    if let Some((_, layers)) = best {
        graph.layers = layers;
    }
    graph
}

/// The fewest crossings that sweeps from the present order lead to, and the order that has them.
fn improve(graph: &mut Layered) -> (usize, Vec<Vec<usize>>) {
    let mut place = places(graph);
    let mut best = graph.layers.clone();
    let mut fewest = crossings(graph, &place);
    let comparisons = comparisons(graph);
    let mut idle = 0;
    for sweep in 0..SWEEPS {
        if fewest == 0 || idle >= PATIENCE {
            break;
        }
        let count = graph.layers.len();
        for step in 1..count {
            let (layer, forward) = if sweep % 2 == 0 { (step, true) } else { (count - 1 - step, false) };
            sort(graph, &mut place, layer, forward);
        }
        if comparisons <= COMPARED {
            sift(graph, &mut place);
        }
        let now = crossings(graph, &place);
        if now < fewest {
            (fewest, idle) = (now, 0);
            best.clone_from(&graph.layers);
        } else {
            idle += 1;
        }
    }
    (fewest, best)
}

/// Of each vertex, its place in its layer.
fn places(graph: &Layered) -> Vec<usize> {
    let mut place = vec![0; graph.before.len()];
    for (at, &vertex) in graph.layers.iter().flat_map(|layer| layer.iter().enumerate()) {
        place[vertex] = at;
    }
    place
}

fn comparisons(graph: &Layered) -> usize {
    let links = |vertex: &usize| graph.before[*vertex].len() + graph.after[*vertex].len();
    let of_layer = |layer: &Vec<usize>| {
        let most = layer.iter().map(links).max().unwrap_or(0);
        layer.len() * layer.iter().map(links).sum::<usize>() * most
    };
    graph.layers.iter().map(of_layer).sum()
}

/// Puts the vertices of each layer into the order of the list, which has every vertex once.
fn arrange(graph: &mut Layered, order: &[usize]) {
    let mut layer_of = vec![0; graph.before.len()];
    for (layer, vertices) in graph.layers.iter_mut().enumerate() {
        for vertex in vertices.drain(..) {
            layer_of[vertex] = layer;
        }
    }
    for &vertex in order {
        graph.layers[layer_of[vertex]].push(vertex);
    }
}

/// A walk into the depth, from the first step on: a forest comes out without crossings.
fn from_parent_to_child(graph: &Layered) -> Vec<usize> {
    let mut order = Vec::with_capacity(graph.before.len());
    let mut seen = vec![false; graph.before.len()];
    for first in graph.layers.concat() {
        let mut open = vec![first];
        while let Some(vertex) = open.pop() {
            if !std::mem::replace(&mut seen[vertex], true) {
                order.push(vertex);
                open.extend(graph.after[vertex].iter().rev());
            }
        }
    }
    order
}

/// Through each part of the graph from one of its ends to the other: what is near comes near, and no part is folded.
fn from_end_to_end(graph: &Layered) -> Vec<usize> {
    let mut order = Vec::with_capacity(graph.before.len());
    let (mut seen, mut probed) = (vec![false; graph.before.len()], vec![false; graph.before.len()]);
    for first in graph.layers.concat() {
        if seen[first] {
            continue;
        }
        // The vertex that is met last lies at an end.
        let end = nearest_first(graph, first, &mut probed).last().copied().unwrap_or(first);
        order.extend(nearest_first(graph, end, &mut seen));
    }
    order
}

/// The vertices that can be reached along links in either direction, the nearest first.
fn nearest_first(graph: &Layered, first: usize, seen: &mut [bool]) -> Vec<usize> {
    seen[first] = true;
    let mut met = vec![first];
    let mut at = 0;
    while let Some(&vertex) = met.get(at) {
        for &other in graph.before[vertex].iter().chain(&graph.after[vertex]) {
            if !std::mem::replace(&mut seen[other], true) {
                met.push(other);
            }
        }
        at += 1;
    }
    met
}

/// By the mean place of the neighbours in the layer before (or after); one without neighbours stays about where it is.
fn sort(graph: &mut Layered, place: &mut [usize], layer: usize, forward: bool) {
    let neighbours = if forward { &graph.before } else { &graph.after };
    let beside = if forward { layer - 1 } else { layer + 1 };
    let scale = graph.layers[beside].len() as f64 / graph.layers[layer].len().max(1) as f64;
    let mean = |vertex: usize| match neighbours[vertex].len() {
        0 => (place[vertex] as f64 + 0.5) * scale - 0.5,
        count => neighbours[vertex].iter().map(|&other| place[other] as f64).sum::<f64>() / count as f64,
    };
    let mut keyed: Vec<(f64, usize)> = graph.layers[layer].iter().map(|&vertex| (mean(vertex), vertex)).collect();
    keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (at, (vertex, (_, sorted))) in graph.layers[layer].iter_mut().zip(keyed).enumerate() {
        *vertex = sorted;
        place[sorted] = at;
    }
}

/// Takes each vertex out of its layer and puts it back where it makes the fewest crossings, on both sides of the layer.
fn sift(graph: &mut Layered, place: &mut [usize]) {
    for _ in 0..ROUNDS {
        let mut moved = false;
        for layer in 0..graph.layers.len() {
            for vertex in graph.layers[layer].clone() {
                let from = place[vertex];
                let row = &graph.layers[layer];
                // What it gains to pass one neighbour after the other, to the left and to the right.
                let (mut to, mut least) = (from, 0);
                let mut gain = 0;
                for at in (0..from).rev() {
                    gain += between(graph, place, vertex, row[at]) - between(graph, place, row[at], vertex);
                    if gain < least {
                        (to, least) = (at, gain);
                    }
                }
                gain = 0;
                for (at, &other) in row.iter().enumerate().skip(from + 1) {
                    gain += between(graph, place, other, vertex) - between(graph, place, vertex, other);
                    if gain < least {
                        (to, least) = (at, gain);
                    }
                }
                if to != from {
                    moved = true;
                    let row = &mut graph.layers[layer];
                    row.remove(from);
                    row.insert(to, vertex);
                    for (at, &of_row) in row.iter().enumerate() {
                        place[of_row] = at;
                    }
                }
            }
        }
        if !moved {
            break;
        }
    }
}

/// Crossings between the links of two vertices of a layer, the first to the left of the second.
fn between(graph: &Layered, place: &[usize], left: usize, right: usize) -> i64 {
    let count = |neighbours: &[Vec<usize>]| -> usize {
        let (lefts, rights) = (&neighbours[left], &neighbours[right]);
        lefts.iter().map(|&one| rights.iter().filter(|&&other| place[other] < place[one]).count()).sum()
    };
    (count(&graph.before) + count(&graph.after)) as i64
}

/// All crossings, each pair of layers in the time of a sort.
fn crossings(graph: &Layered, place: &[usize]) -> usize {
    let mut total = 0;
    for pair in graph.layers.windows(2) {
        let [upper, lower] = pair else { continue };
        // A Fenwick tree of the ends seen so far.
        let mut seen = vec![0_usize; lower.len() + 1];
        let mut links = 0;
        for &vertex in upper {
            let mut ends: Vec<usize> = graph.after[vertex].iter().map(|&other| place[other]).collect();
            ends.sort_unstable();
            for &end in &ends {
                let (mut at, mut not_beyond) = (end + 1, 0);
                while at > 0 {
                    not_beyond += seen[at];
                    at &= at - 1;
                }
                total += links - not_beyond;
            }
            for &end in &ends {
                let mut at = end + 1;
                while at < seen.len() {
                    seen[at] += 1;
                    at += at & at.wrapping_neg();
                }
                links += 1;
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Graph;

    /// A square of steps, each waiting for the ones above and to the left of it: it can be drawn without a crossing.
    #[test]
    fn sweeps_and_sifting_take_crossings_away() {
        const SIDE: usize = 5;
        let mut cells: Vec<(usize, usize)> = (0..SIDE * SIDE).map(|at| (at / SIDE, at % SIDE)).collect();
        // By level, and in a level mixed.
        cells.sort_by_key(|(row, column)| (row + column, row * 7 % SIDE));
        let id = |cell: (usize, usize)| cells.iter().position(|&other| other == cell).map_or(0, |at| at as i32 + 1);
        let parents = cells.iter().map(|&(row, column)| {
            let above = row.checked_sub(1).map(|row| id((row, column)));
            above.into_iter().chain(column.checked_sub(1).map(|column| id((row, column)))).collect()
        });
        let graph = Graph::from_parents(parents.collect());
        let mut layered = Layered::new(&graph).unwrap();
        let by_number: Vec<usize> = (0..layered.before.len()).collect();
        arrange(&mut layered, &by_number);
        assert!(crossings(&layered, &places(&layered)) > 0);
        let (fewest, order) = improve(&mut layered);
        assert_eq!((fewest, order.concat().len()), (0, SIDE * SIDE));
    }
}

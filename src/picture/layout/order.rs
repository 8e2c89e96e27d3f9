//! The order of the vertices in each layer: sweeps that sort a layer by where its neighbours lie, then swaps of
//! neighbours, keeping the best order seen.
use super::Layered;

/// Sweeps without an improvement before it is left as it is.
const PATIENCE: usize = 4;
const SWEEPS: usize = 24;
/// Vertices up to which pairs are swapped: the time grows with the square of their links.
const SWAPPED: usize = 1_500;

pub fn fewest_crossings(mut graph: Layered) -> Layered {
    start_from_the_first_layer(&mut graph);
    let mut place = vec![0; graph.before.len()];
    number(&graph.layers, &mut place);
    let mut best = graph.layers.clone();
    let mut fewest = crossings(&graph, &place);
    let mut idle = 0;
    for sweep in 0..SWEEPS {
        if fewest == 0 || idle >= PATIENCE {
            break;
        }
        let count = graph.layers.len();
        for step in 1..count {
            let (layer, forward) = if sweep % 2 == 0 { (step, true) } else { (count - 1 - step, false) };
            sort(&mut graph, &mut place, layer, forward);
        }
        if graph.before.len() <= SWAPPED {
            swap_pairs(&mut graph, &mut place);
        }
        let now = crossings(&graph, &place);
        if now < fewest {
            (fewest, idle) = (now, 0);
            best.clone_from(&graph.layers);
        } else {
            idle += 1;
        }
    }
    graph.layers = best;
    graph
}

fn number(layers: &[Vec<usize>], place: &mut [usize]) {
    for (at, &vertex) in layers.iter().flat_map(|layer| layer.iter().enumerate()) {
        place[vertex] = at;
    }
}

/// What hangs together begins together: a walk into the depth, from the first step on.
fn start_from_the_first_layer(graph: &mut Layered) {
    let mut layer_of = vec![0; graph.before.len()];
    for (layer, vertices) in graph.layers.iter().enumerate() {
        for &vertex in vertices {
            layer_of[vertex] = layer;
        }
    }
    let mut layers = vec![Vec::new(); graph.layers.len()];
    let mut seen = vec![false; graph.before.len()];
    for first in graph.layers.concat() {
        let mut open = vec![first];
        while let Some(vertex) = open.pop() {
            if !std::mem::replace(&mut seen[vertex], true) {
                layers[layer_of[vertex]].push(vertex);
                open.extend(graph.after[vertex].iter().rev());
            }
        }
    }
    graph.layers = layers;
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

/// Swaps neighbours of a layer wherever that takes a crossing away, on both sides of it.
fn swap_pairs(graph: &mut Layered, place: &mut [usize]) {
    for _ in 0..4 {
        let mut swapped = false;
        for layer in 0..graph.layers.len() {
            for at in 1..graph.layers[layer].len() {
                let (left, right) = (graph.layers[layer][at - 1], graph.layers[layer][at]);
                let kept = between(graph, place, left, right);
                if kept > between(graph, place, right, left) {
                    graph.layers[layer].swap(at - 1, at);
                    (place[right], place[left]) = (at - 1, at);
                    swapped = true;
                }
            }
        }
        if !swapped {
            break;
        }
    }
}

/// Crossings between the links of two vertices of a layer, the first to the left of the second.
fn between(graph: &Layered, place: &[usize], left: usize, right: usize) -> usize {
    let count = |neighbours: &[Vec<usize>]| -> usize {
        let rights: Vec<usize> = neighbours[right].iter().map(|&other| place[other]).collect();
        neighbours[left].iter().map(|&other| rights.iter().filter(|&&at| at < place[other]).count()).sum()
    };
    count(&graph.before) + count(&graph.after)
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

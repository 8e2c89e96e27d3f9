//! Where in its layer each vertex lies: as near to its neighbours as the order and the room allow.
use super::Layered;

const SWEEPS: usize = 12;

/// The centre of each vertex across the layers; the first box begins at 0.
pub fn centres(graph: &Layered, of_step: f64, gap: f64) -> Vec<f64> {
    let mut centre = vec![0.0; graph.before.len()];
    // The distance of each vertex from the one before it in its layer.
    let apart = |left: usize, right: usize| {
        let room = (graph.breadth(left, of_step) + graph.breadth(right, of_step)) / 2.0;
        room + if graph.is_bend(left) && graph.is_bend(right) { gap / 2.0 } else { gap }
    };
    for layer in &graph.layers {
        let mut at = 0.0;
        for (nth, &vertex) in layer.iter().enumerate() {
            at += if nth == 0 { 0.0 } else { apart(layer[nth - 1], vertex) };
            centre[vertex] = at;
        }
        for &vertex in layer {
            centre[vertex] -= at / 2.0;
        }
    }
    let count = graph.layers.len();
    for sweep in 0..SWEEPS {
        for nth in 0..count {
            let layer = if sweep % 2 == 0 { nth } else { count - 1 - nth };
            let sides: &[&[Vec<usize>]] = match sweep {
                // In the end both sides count.
                _ if sweep + 4 >= SWEEPS => &[&graph.before, &graph.after],
                _ if sweep % 2 == 0 => &[&graph.before],
                _ => &[&graph.after],
            };
            settle(graph, layer, sides, &apart, &mut centre);
        }
    }
    let first = graph.layers.iter().filter_map(|layer| layer.first());
    let start =
        first.map(|&vertex| centre[vertex] - graph.breadth(vertex, of_step) / 2.0).fold(f64::INFINITY, f64::min);
    centre.iter().map(|at| (at - start).round()).collect()
}

/// Moves the vertices of a layer to where the squares of their distances from the wished places are least: an isotonic
/// regression, by pooling neighbours that would overlap.
fn settle(
    graph: &Layered,
    layer: usize,
    sides: &[&[Vec<usize>]],
    apart: &impl Fn(usize, usize) -> f64,
    centre: &mut [f64],
) {
    struct Pool {
        wish: f64,
        weight: f64,
        members: usize,
    }
    let vertices = &graph.layers[layer];
    let mut offsets = Vec::with_capacity(vertices.len());
    let mut pools: Vec<Pool> = Vec::with_capacity(vertices.len());
    let mut offset = 0.0;
    for (nth, &vertex) in vertices.iter().enumerate() {
        offset += if nth == 0 { 0.0 } else { apart(vertices[nth - 1], vertex) };
        offsets.push(offset);
        let (wish, weight) = wish(graph, vertex, sides, centre);
        let mut pool = Pool { wish: wish - offset, weight, members: 1 };
        while let Some(before) = pools.pop_if(|before| before.wish > pool.wish) {
            let weight = before.weight + pool.weight;
            let wish = (before.wish * before.weight + pool.wish * pool.weight) / weight;
            pool = Pool { wish, weight, members: before.members + pool.members };
        }
        pools.push(pool);
    }
    let mut nth = 0;
    for pool in pools {
        for _ in 0..pool.members {
            centre[vertices[nth]] = pool.wish + offsets[nth];
            nth += 1;
        }
    }
}

/// The mean place of the neighbours, and how much it matters. Long edges should be straight.
fn wish(graph: &Layered, vertex: usize, sides: &[&[Vec<usize>]], centre: &[f64]) -> (f64, f64) {
    let (mut sum, mut weight) = (0.0, 0.0);
    for &other in sides.iter().flat_map(|side| &side[vertex]) {
        let strength = match (graph.is_bend(vertex), graph.is_bend(other)) {
            (true, true) => 8.0,
            (false, false) => 1.0,
            _ => 2.0,
        };
        sum += strength * centre[other];
        weight += strength;
    }
    if weight > 0.0 { (sum / weight, weight) } else { (centre[vertex], 0.01) }
}

//! Where boxes and edges go: a layered drawing after Sugiyama. A step lies on the layer of its level, so every edge goes
//! forward; an edge across layers bends around the boxes on its way; crossings are few, parents and children near.
//!
//! In: a graph and the size of a box. Out: what is in a box, and how it looks.

mod order;
mod place;

use super::PictureError;
use crate::engine::graph::Graph;
use std::collections::BTreeMap;

/// Beyond these a drawing could not be read, and would take long.
pub const MOST_STEPS: usize = 2_000;
pub const MOST_EDGES: usize = 20_000;
/// Bends: places where an edge passes a layer.
pub const MOST_BENDS: usize = 20_000;

/// Around everything.
const MARGIN: f64 = 16.0;
/// The width that a page has for a drawing.
const PAGE: f64 = 960.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Down,
    Right,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    pub width: f64,
    pub height: f64,
}

/// A piece of an edge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Piece {
    pub from: Point,
    pub to: Point,
    /// The child whose box it reaches; `None`: it goes on.
    pub reaches: Option<i32>,
}

/// The edges that leave one step: those to later layers share their way until they part.
#[derive(Debug, Clone, PartialEq)]
pub struct Wires {
    pub parent: i32,
    pub pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    pub direction: Direction,
    pub size: Size,
    /// The size of every box.
    pub step: Size,
    /// The upper left corner of step `i + 1`, at `i`.
    pub boxes: Vec<Point>,
    pub wires: Vec<Wires>,
}

/// The graph with a vertex for each step and each bend, by layer. Every link leads to the next layer.
struct Layered {
    /// Vertices of each layer, in order. Step `i + 1` is vertex `i`; then come the bends.
    layers: Vec<Vec<usize>>,
    before: Vec<Vec<usize>>,
    after: Vec<Vec<usize>>,
    steps: usize,
}

pub fn lay_out(graph: &Graph, step: Size) -> Result<Layout, PictureError> {
    let layered = Layered::new(graph)?;
    let direction = direction(&layered, step);
    // Along the direction lie the layers, across it the places in a layer.
    let (thickness, breadth) = match direction {
        Direction::Down => (step.height, step.width),
        Direction::Right => (step.width, step.height),
    };
    let (between_layers, between_boxes) = gaps(direction);
    let layered = order::fewest_crossings(layered);
    let centres = place::centres(&layered, breadth, between_boxes);

    // Where each layer begins. Edges that go far across get more room, so that they do not lie flat.
    let mut starts = Vec::with_capacity(layered.layers.len());
    let mut along = MARGIN;
    for layer in &layered.layers {
        starts.push(along);
        let links = layer.iter().flat_map(|&from| layered.after[from].iter().map(move |&to| (from, to)));
        let farthest = links.map(|(from, to)| (centres[from] - centres[to]).abs()).fold(0.0, f64::max);
        along += thickness + (farthest / 8.0).round().clamp(between_layers, 2.2 * between_layers);
    }
    let along = starts.last().map_or(0.0, |start| start + thickness) + MARGIN;
    let last = centres.iter().zip(0..).map(|(centre, vertex)| centre + layered.breadth(vertex, breadth) / 2.0);
    let across = 2.0 * MARGIN + last.fold(0.0, f64::max);
    let start_of = |layer: usize| starts[layer];
    let point = |along: f64, across: f64| match direction {
        Direction::Down => Point { x: across, y: along },
        Direction::Right => Point { x: along, y: across },
    };

    let mut layer_of = vec![0; layered.before.len()];
    for (layer, vertices) in layered.layers.iter().enumerate() {
        for &vertex in vertices {
            layer_of[vertex] = layer;
        }
    }
    let across_of = |vertex: usize| MARGIN + centres[vertex];
    let boxes = (0..layered.steps).map(|at| point(start_of(layer_of[at]), across_of(at) - breadth / 2.0)).collect();
    let mut wires = Vec::new();
    for source in 0..layered.steps {
        let mut pieces = Vec::new();
        let mut open = vec![source];
        while let Some(vertex) = open.pop() {
            let end = point(start_of(layer_of[vertex]) + thickness, across_of(vertex));
            if vertex >= layered.steps {
                // Straight past the boxes of its layer.
                let from = point(start_of(layer_of[vertex]), across_of(vertex));
                pieces.push(Piece { from, to: end, reaches: None });
            }
            for &next in &layered.after[vertex] {
                let to = point(start_of(layer_of[next]), across_of(next));
                let is_step = next < layered.steps;
                pieces.push(Piece { from: end, to, reaches: is_step.then(|| next as i32 + 1) });
                if !is_step {
                    open.push(next);
                }
            }
        }
        if !pieces.is_empty() {
            wires.push(Wires { parent: source as i32 + 1, pieces });
        }
    }
    let corner = point(along, across);
    Ok(Layout { direction, size: Size { width: corner.x, height: corner.y }, step, boxes, wires })
}

/// Downwards, unless that would be wider than a page and to the right would be narrower.
fn direction(layered: &Layered, step: Size) -> Direction {
    let widest = layered.layers.iter().map(|layer| layer.iter().filter(|&&vertex| vertex < layered.steps).count());
    let downwards = widest.max().unwrap_or(0) as f64 * (step.width + gaps(Direction::Down).1);
    let rightwards = layered.layers.len() as f64 * (step.width + gaps(Direction::Right).0);
    if downwards > PAGE && rightwards < downwards { Direction::Right } else { Direction::Down }
}

/// Between layers, and between boxes of a layer.
fn gaps(direction: Direction) -> (f64, f64) {
    match direction {
        Direction::Down => (40.0, 24.0),
        Direction::Right => (64.0, 16.0),
    }
}

impl Layered {
    fn new(graph: &Graph) -> Result<Self, PictureError> {
        let steps = graph.len();
        let limit = |what, count, most| {
            if count > most { Err(PictureError::TooLarge { what, count, most }) } else { Ok(()) }
        };
        limit("steps", steps, MOST_STEPS)?;
        limit("dependencies", graph.step_ids().map(|id| graph.parents(id).len()).sum(), MOST_EDGES)?;
        let layer = |step_id: i32| graph.level(step_id) as usize;
        let bends = graph.step_ids().map(|id| {
            let last = graph.children(id).iter().map(|&child| layer(child)).max();
            last.map_or(0, |last| last - layer(id) - 1)
        });
        limit("bends", bends.sum(), MOST_BENDS)?;

        let mut layers = vec![Vec::new(); graph.step_ids().map(|id| layer(id) + 1).max().unwrap_or(0)];
        for step_id in graph.step_ids() {
            layers[layer(step_id)].push(step_id as usize - 1);
        }
        let (mut before, mut after) = (vec![Vec::new(); steps], vec![Vec::new(); steps]);
        for step_id in graph.step_ids() {
            let source = step_id as usize - 1;
            // By layer of the child: one way for all, as far as the last needs it.
            let mut children: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for &child in graph.children(step_id) {
                children.entry(layer(child)).or_default().push(child as usize - 1);
            }
            let Some(last) = children.keys().next_back().copied() else { continue };
            let mut from = source;
            for (next, on_it) in layers.iter_mut().enumerate().take(last + 1).skip(layer(step_id) + 1) {
                for &child in children.get(&next).into_iter().flatten() {
                    after[from].push(child);
                    before[child].push(from);
                }
                if next < last {
                    let bend = after.len();
                    on_it.push(bend);
                    after.push(Vec::new());
                    before.push(vec![from]);
                    after[from].push(bend);
                    from = bend;
                }
            }
        }
        Ok(Self { layers, before, after, steps })
    }

    fn is_bend(&self, vertex: usize) -> bool {
        vertex >= self.steps
    }

    /// What a vertex takes of its layer.
    fn breadth(&self, vertex: usize, of_step: f64) -> f64 {
        if self.is_bend(vertex) { 2.0 } else { of_step }
    }
}

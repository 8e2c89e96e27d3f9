//! Where boxes and edges go, and what is too large for it.

mod engine_support;
mod picture_support;

use engine_support::graph;
use pg_stepwise_cluster_tests::engine::graph::Graph;
use pg_stepwise_cluster_tests::engine::state::StepState;
use pg_stepwise_cluster_tests::picture::layout::{Direction, Layout, Point, Size, lay_out};
use pg_stepwise_cluster_tests::picture::{Format, PictureError, render};
use picture_support::picture;
use proptest::prelude::*;
use std::collections::BTreeSet;

const BOX: Size = Size { width: 180.0, height: 46.0 };

/// Along the direction of the layout, and across it.
fn along(layout: &Layout, point: Point) -> f64 {
    if layout.direction == Direction::Down { point.y } else { point.x }
}

fn overlaps(a: Point, b: Point, room: f64) -> bool {
    (a.x - b.x).abs() < BOX.width + room && (a.y - b.y).abs() < BOX.height + room
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn boxes_lie_apart_and_inside_and_every_edge_goes_forward(graph in graph(200)) {
        let layout = lay_out(&graph, BOX).unwrap();
        let inside = |point: Point, size: Size| {
            point.x >= 0.0 && point.y >= 0.0
                && point.x + size.width <= layout.size.width && point.y + size.height <= layout.size.height
        };
        prop_assert_eq!(layout.boxes.len(), graph.len());
        for (nth, &corner) in layout.boxes.iter().enumerate() {
            prop_assert!(inside(corner, BOX), "{nth}: {corner:?} in {:?}", layout.size);
            for &other in &layout.boxes[nth + 1..] {
                prop_assert!(!overlaps(corner, other, 8.0), "{corner:?} {other:?}");
            }
        }
        let mut reached = BTreeSet::new();
        for wires in &layout.wires {
            let corner = layout.boxes[wires.parent as usize - 1];
            let mut ends = vec![match layout.direction {
                Direction::Down => Point { x: corner.x + BOX.width / 2.0, y: corner.y + BOX.height },
                Direction::Right => Point { x: corner.x + BOX.width, y: corner.y + BOX.height / 2.0 },
            }];
            for piece in &wires.pieces {
                prop_assert!(along(&layout, piece.to) > along(&layout, piece.from), "{piece:?}");
                prop_assert!(inside(piece.from, Size { width: 0.0, height: 0.0 }), "{piece:?}");
                ends.push(piece.to);
                if let Some(child) = piece.reaches {
                    prop_assert!(reached.insert((wires.parent, child)), "{} to {child} twice", wires.parent);
                    let corner = layout.boxes[child as usize - 1];
                    let entry = match layout.direction {
                        Direction::Down => Point { x: corner.x + BOX.width / 2.0, y: corner.y },
                        Direction::Right => Point { x: corner.x, y: corner.y + BOX.height / 2.0 },
                    };
                    prop_assert_eq!(piece.to, entry);
                } else if piece.from.x == piece.to.x || piece.from.y == piece.to.y {
                    // What passes a layer passes between its boxes.
                    let middle = Point { x: (piece.from.x + piece.to.x) / 2.0, y: (piece.from.y + piece.to.y) / 2.0 };
                    let hit = layout.boxes.iter().find(|at| {
                        (at.x..at.x + BOX.width).contains(&middle.x) && (at.y..at.y + BOX.height).contains(&middle.y)
                    });
                    prop_assert!(hit.is_none(), "{piece:?} passes through {hit:?}");
                }
            }
            // Each piece begins where the step or another piece ends.
            prop_assert!(wires.pieces.iter().all(|piece| ends.contains(&piece.from)));
        }
        let edges: BTreeSet<(i32, i32)> =
            graph.step_ids().flat_map(|id| graph.parents(id).iter().map(move |&parent| (parent, id))).collect();
        prop_assert_eq!(reached, edges);
    }

    #[test]
    fn a_forest_is_drawn_without_crossings(picks in prop::collection::vec(any::<prop::sample::Index>(), 1..80)) {
        // Each step has at most one parent among those before it: place 0 stands for none.
        let parents = picks.iter().enumerate().map(|(before, pick)| match pick.index(before + 1) {
            0 => Vec::new(),
            parent => vec![parent as i32],
        });
        let graph = Graph::from_parents(parents.collect());
        let layout = lay_out(&graph, BOX).unwrap();
        let across = |step_id: i32| {
            let corner = layout.boxes[step_id as usize - 1];
            if layout.direction == Direction::Down { corner.x } else { corner.y }
        };
        let edges: Vec<(i32, i32)> = graph.step_ids().filter_map(|id| Some((*graph.parents(id).first()?, id))).collect();
        for (nth, a) in edges.iter().enumerate() {
            for b in edges[nth + 1..].iter().filter(|b| graph.level(a.0) == graph.level(b.0)) {
                let (above, below) = (across(a.0) - across(b.0), across(a.1) - across(b.1));
                prop_assert!(above * below >= 0.0, "{a:?} crosses {b:?}");
            }
        }
    }
}

/// A zigzag of steps and children, numbered out of order: it can be drawn without a crossing.
#[test]
fn crossings_are_taken_away() {
    const PAIRS: i32 = 12;
    // 5 and 12 have no common divisor, so each place comes once.
    let step_at = |place: i32| place * 5 % PAIRS + 1;
    let mut parents = vec![Vec::new(); 2 * PAIRS as usize];
    for place in 0..PAIRS {
        let child = (PAIRS + place * 7 % PAIRS) as usize;
        parents[child] = (place..(place + 2).min(PAIRS)).map(step_at).collect();
    }
    let graph = Graph::from_parents(parents);
    let layout = lay_out(&graph, BOX).unwrap();
    let across = |step_id: i32| {
        let corner = layout.boxes[step_id as usize - 1];
        if layout.direction == Direction::Down { corner.x } else { corner.y }
    };
    let edges: Vec<(i32, i32)> =
        graph.step_ids().flat_map(|id| graph.parents(id).iter().map(move |&parent| (parent, id))).collect();
    let cross = |a: &(i32, i32), b: &(i32, i32)| (across(a.0) - across(b.0)) * (across(a.1) - across(b.1)) < 0.0;
    let crossings: usize =
        edges.iter().enumerate().map(|(nth, a)| edges[nth..].iter().filter(|b| cross(a, b)).count()).sum();
    assert_eq!(crossings, 0);
}

#[test]
fn large_graphs_are_refused_where_they_cannot_be_read() {
    let chain = |steps: i32| {
        Graph::from_parents((0..steps).map(|before| if before == 0 { vec![] } else { vec![before] }).collect())
    };
    assert!(lay_out(&chain(2_000), BOX).is_ok());
    let refused = |graph: &Graph| lay_out(graph, BOX).unwrap_err();
    assert_eq!(refused(&chain(2_001)), PictureError::TooLarge { what: "steps", count: 2_001, most: 2_000 });
    let full = |wide: i32| {
        Graph::from_parents((0..2 * wide).map(|nth| if nth < wide { vec![] } else { (1..=wide).collect() }).collect())
    };
    assert!(lay_out(&full(141), BOX).is_ok());
    assert_eq!(refused(&full(142)), PictureError::TooLarge { what: "dependencies", count: 20_164, most: 20_000 });
    // Each step of a long chain is also waited for at its end.
    let mut parents: Vec<Vec<i32>> = (0..400).map(|before| if before == 0 { vec![] } else { vec![before] }).collect();
    parents.push((1..=400).collect());
    assert!(matches!(refused(&Graph::from_parents(parents)), PictureError::TooLarge { what: "bends", .. }));
}

/// In a thread with little room: what recursed over the graph would end the process.
#[test]
fn a_hundred_thousand_steps_are_written_in_proportion() {
    const STEPS: i32 = 100_000;
    type Parents = fn(i32) -> Vec<i32>;
    // Step `nth` counts from 0; ids from 1.
    let shapes: [(&str, Parents); 4] = [
        ("chain", |nth| if nth == 0 { vec![] } else { vec![nth] }),
        ("fan out and in", |nth| match nth {
            0 => vec![],
            _ if nth == STEPS - 1 => (2..STEPS).collect(),
            _ => vec![1],
        }),
        // Two children each, of which one has children: the deepest tree.
        ("comb", |nth| if nth == 0 { vec![] } else { vec![((nth - 1) / 2 * 2).max(1)] }),
        ("ladder", |nth| if nth < 2 { vec![] } else { vec![nth - 1, nth] }),
    ];
    for (name, parents) in shapes {
        let run = move || {
            let graph = Graph::from_parents((0..STEPS).map(parents).collect());
            let picture = picture(&graph, &["step".into()], &StepState::ALL, Vec::new());
            for format in [Format::Text, Format::Mermaid, Format::Dot] {
                let text = render(&picture, format).unwrap();
                assert!(text.len() < 400 * STEPS as usize, "{name}: {} bytes of {format:?}", text.len());
                assert!(text.lines().count() >= STEPS as usize);
            }
            for format in [Format::Svg, Format::Html] {
                assert!(matches!(render(&picture, format), Err(PictureError::TooLarge { .. })));
            }
        };
        std::thread::Builder::new().stack_size(256 * 1024).spawn(run).unwrap().join().unwrap();
    }
}

//! The graphs of `tests/conformance/shapes.csv`, read for whoever runs them: as templates, with the failures of a run
//! and the number of claims that it takes.
#![allow(dead_code)] // each test file uses a part of it

use serde_json::{Value, json};
use std::collections::BTreeMap;

const SHAPES: &str = include_str!("../../../tests/conformance/shapes.csv");

pub struct Shape {
    pub name: &'static str,
    /// The steps' names, in the order in which they appear.
    pub steps: Vec<&'static str>,
    /// Parent and child.
    pub edges: Vec<(&'static str, &'static str)>,
    /// As written: what each step's level is, see the README beside the table.
    pub levels: &'static str,
    /// How many attempts of a step fail, the first ones; the others succeed.
    pub failures: BTreeMap<&'static str, i32>,
    /// Claims of a run in which these attempts fail, until the task is complete.
    pub claims_to_finish: i64,
}

pub fn shapes() -> Vec<Shape> {
    let mut lines = SHAPES.lines();
    assert_eq!(lines.next(), Some("shape,edges,levels,failures,claims_to_finish"));
    lines.map(Shape::read).collect()
}

impl Shape {
    fn read(line: &'static str) -> Shape {
        let fields: Vec<&str> = line.split(',').collect();
        let [name, graph, levels, failures, claims] = fields[..] else { panic!("not five fields: {line}") };
        let (steps, edges) = steps_and_edges(graph);
        let failures = failures.split_whitespace().map(|failure| {
            let (step, attempts) = failure.split_once(':').expect("a step and a number");
            assert!(steps.contains(&step), "{name} has no step {step}");
            (step, attempts.parse().expect("a number of attempts"))
        });
        let failures = failures.collect();
        Shape { name, steps, edges, levels, failures, claims_to_finish: claims.parse().expect("a number of claims") }
    }

    pub fn parents(&self, step: &str) -> Vec<&'static str> {
        self.edges.iter().filter(|edge| edge.1 == step).map(|edge| edge.0).collect()
    }

    /// A definition for `register_template`, in the namespace, and so the queue, `shapes`. A step's handler is its name.
    /// Leases are long, because a busy machine is no reason for another attempt; backoffs are short.
    pub fn template(&self) -> Value {
        let steps = self.steps.iter().map(|step| json!({"name": step, "depends_on": self.parents(step)}));
        json!({
            "namespace": "shapes", "name": self.name, "version": "1.0.0",
            "defaults": {"retry_limit": 3, "timeout": "1h", "backoff": {"base": "1ms", "cap": "10ms"}},
            "steps": steps.collect::<Vec<Value>>()
        })
    }
}

fn steps_and_edges(text: &'static str) -> (Vec<&'static str>, Vec<(&'static str, &'static str)>) {
    let (mut steps, mut edges) = (Vec::new(), Vec::new());
    for chain in text.split(';') {
        let groups: Vec<Vec<&str>> = chain.split('>').map(|group| group.split_whitespace().collect()).collect();
        for step in groups.iter().flatten() {
            if !steps.contains(step) {
                steps.push(*step);
            }
        }
        for pair in groups.windows(2) {
            edges.extend(pair[0].iter().flat_map(|parent| pair[1].iter().map(|child| (*parent, *child))));
        }
    }
    (steps, edges)
}

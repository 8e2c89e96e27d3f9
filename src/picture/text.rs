//! `text`: a tree for a terminal, a line for each step.
//!
//! A graph is no tree: a step with several parents stands below the one that comes latest (of several, the first); at
//! the end of the lines of the others an arrow names it with its number. A step that alone follows another stands below
//! it without an indent, so a long chain stays narrow. Beyond a depth the tree goes on further down, at the left.
use super::legible::{columns, cut_to_columns, duration};
use super::look::look;
use super::model::{Picture, Step};
use crate::engine::state::StepState;
use std::collections::VecDeque;

/// Widest name, in columns.
const NAME: usize = 48;
/// Deepest indent, in columns; the output stays proportional to the number of steps.
const DEEPEST: usize = 36;

const COLUMNS: usize = 7;
type Line = [String; COLUMNS];

pub fn render(picture: &Picture) -> String {
    let tree = Tree::new(picture);
    let head: Line = match picture.task {
        Some(_) => ["", "step", "state", "tried", "ran", "worker", ""].map(String::from),
        None => ["", "step", "queue", "tries", "timeout", "", ""].map(String::from),
    };
    let mut lines = vec![head];
    for at in tree.walk() {
        let Some(step) = picture.step(at.step_id) else { continue };
        let name = format!("{}{}", at.lead, cut_to_columns(&step.name, NAME));
        let [second, third, fourth, fifth] = facts(picture, step);
        let notes = [at.after, picture.outlook(at.step_id), tree.elsewhere(picture, at.step_id, at.is_deepest)];
        let notes = notes.into_iter().filter(|note| !note.is_empty()).collect::<Vec<_>>().join("  ");
        lines.push([at.step_id.to_string(), name, second, third, fourth, fifth, notes]);
    }
    let mut out = heading(picture);
    out.push_str("\n\n");
    table(&mut out, &lines);
    out
}

fn heading(picture: &Picture) -> String {
    let age = picture.age().map_or_else(String::new, |age| format!(", {}", duration(age)));
    format!("{}: {}{age}", picture.title(), picture.summary())
}

fn facts(picture: &Picture, step: &Step) -> [String; 4] {
    match &step.row {
        Some(row) => {
            let symbol = look(row.state).symbol;
            let tried = match (row.attempts, row.state) {
                (0, state) if state != StepState::Pending => String::new(),
                (attempts, _) => format!("{attempts}/{}", step.rule.retry_limit),
            };
            let ran = picture.ran(step).map(duration).unwrap_or_default();
            [format!("{symbol} {}", row.state), tried, ran, row.worker.clone().unwrap_or_default()]
        }
        None => [step.queue.clone(), step.rule.retry_limit.to_string(), duration(step.rule.timeout), String::new()],
    }
}

/// Columns as wide as their widest cell, no blanks at the ends of lines.
fn table(out: &mut String, lines: &[Line]) {
    let mut widths = [0; COLUMNS];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = columns(cell).max(*width);
        }
    }
    for line in lines {
        let mut blanks = 0;
        for (place, (cell, width)) in line.iter().zip(widths).enumerate() {
            let missing = width - columns(cell);
            // Numbers stand to the right.
            let (before, after) = if place == 0 { (missing, 0) } else { (0, missing) };
            if !cell.is_empty() {
                out.extend(std::iter::repeat_n(' ', blanks + before));
                out.push_str(cell);
                blanks = after;
            } else {
                blanks += width;
            }
            // A column without any cell takes no room.
            blanks += if width == 0 { 0 } else { 2 };
        }
        out.push('\n');
    }
}

/// The tree that a graph is shown as.
struct Tree {
    /// Of step `i + 1`, at `i`: the steps that stand below it.
    below: Vec<Vec<i32>>,
    roots: Vec<i32>,
    /// Of step `i + 1`, at `i`: the children that stand below another parent.
    elsewhere: Vec<Vec<i32>>,
}

/// A line of the tree.
struct Place {
    step_id: i32,
    /// What stands before the name.
    lead: String,
    /// What stands before the names below.
    indent: String,
    /// Where the tree goes on further down: after which step.
    after: String,
    /// The steps below stand further down.
    is_deepest: bool,
}

impl Tree {
    fn new(picture: &Picture) -> Self {
        let graph = picture.graph;
        let mut tree =
            Tree { below: vec![Vec::new(); graph.len()], roots: Vec::new(), elsewhere: vec![Vec::new(); graph.len()] };
        for step_id in graph.step_ids() {
            let parents = graph.parents(step_id);
            let latest = parents.iter().copied().max_by_key(|&id| (graph.level(id), std::cmp::Reverse(id)));
            match latest {
                Some(latest) => tree.below[latest as usize - 1].push(step_id),
                None => tree.roots.push(step_id),
            }
            for &parent in parents.iter().filter(|&&parent| Some(parent) != latest) {
                tree.elsewhere[parent as usize - 1].push(step_id);
            }
        }
        tree
    }

    /// All lines, from the top to the bottom.
    fn walk(&self) -> Vec<Place> {
        let root =
            |step_id, after| Place { step_id, lead: String::new(), indent: String::new(), after, is_deepest: false };
        let mut waiting: VecDeque<Place> = self.roots.iter().map(|&id| root(id, String::new())).collect();
        let mut out = Vec::with_capacity(self.below.len());
        let mut stack = Vec::new();
        while let Some(first) = waiting.pop_front() {
            stack.push(first);
            while let Some(mut place) = stack.pop() {
                let below = &self.below[place.step_id as usize - 1];
                let indent = &place.indent;
                if let [only] = below[..] {
                    let (lead, indent) = (format!("{indent}↓ "), indent.clone());
                    stack.push(Place { step_id: only, lead, indent, after: String::new(), is_deepest: false });
                } else if !below.is_empty() && columns(indent) >= DEEPEST {
                    place.is_deepest = true;
                    waiting.extend(below.iter().map(|&id| root(id, format!("after {}", place.step_id))));
                } else {
                    for (nth, &id) in below.iter().enumerate().rev() {
                        let (tee, line) =
                            if nth + 1 == below.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
                        let (lead, indent) = (format!("{indent}{tee}"), format!("{indent}{line}"));
                        stack.push(Place { step_id: id, lead, indent, after: String::new(), is_deepest: false });
                    }
                }
                out.push(place);
            }
        }
        out
    }

    /// `→ 5 merge_branches`: children whose lines stand elsewhere.
    fn elsewhere(&self, picture: &Picture, step_id: i32, with_below: bool) -> String {
        let mut ids = self.elsewhere[step_id as usize - 1].clone();
        if with_below {
            ids.extend(&self.below[step_id as usize - 1]);
            ids.sort_unstable();
        }
        if ids.is_empty() { String::new() } else { format!("→ {}", picture.named(&ids)) }
    }
}

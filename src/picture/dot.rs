//! `dot`: the language of Graphviz.
use super::look::{PLAIN, class, look};
use super::model::{Picture, Step};
use std::fmt::Write;

pub fn render(picture: &Picture) -> String {
    let title = quoted(&picture.title());
    let mut out =
        format!("digraph {title} {{\n    graph [label={title}, labelloc=t, fontname=\"Helvetica\", rankdir=TB];\n");
    out.push_str("    node [shape=box, fontname=\"Helvetica\", fontcolor=\"#1b1f24\", margin=\"0.2,0.08\"];\n");
    out.push_str("    edge [color=\"#6b7480\", arrowsize=0.7];\n");
    for (step, step_id) in picture.steps.iter().zip(1..) {
        let state = step.row.as_ref().map(|row| row.state);
        let look = state.map_or(PLAIN, look);
        let (width, dashes) = look.border;
        let line = if dashes.is_empty() { "" } else { ",dashed" };
        let _ = writeln!(
            out,
            "    s{step_id} [label={}, class=\"{}\", style=\"rounded,filled{line}\", fillcolor=\"{}\", color=\"{}\", penwidth={width}];",
            label(step),
            class(state),
            look.tint[0],
            look.strong[0]
        );
    }
    for step_id in picture.graph.step_ids() {
        for parent in picture.graph.parents(step_id) {
            let _ = writeln!(out, "    s{parent} -> s{step_id};");
        }
    }
    out.push_str("}\n");
    out
}

fn label(step: &Step) -> String {
    let name = quoted(&step.name);
    let Some(row) = &step.row else { return name };
    let tried = if row.attempts > 0 { format!(" {}/{}", row.attempts, step.rule.retry_limit) } else { String::new() };
    let open = name.strip_suffix('"').unwrap_or(&name);
    format!("{open}\\n{} {}{tried}\"", look(row.state).symbol, row.state)
}

/// A quoted string: no escape sequence and no character reference in it but its own.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('&', "&amp;").replace('\\', "\\\\").replace('"', "\\\""))
}

//! `mermaid`: a flowchart for Markdown, with a class for each state that occurs.
use super::look::{PLAIN, class, look};
use super::model::{Picture, Step};
use crate::engine::state::StepState;
use std::fmt::Write;

pub fn render(picture: &Picture) -> String {
    let mut out = format!("---\ntitle: \"{}\"\n---\nflowchart TD\n", title(picture));
    for (step, step_id) in picture.steps.iter().zip(1..) {
        let state = step.row.as_ref().map(|row| row.state);
        let _ = writeln!(out, "    s{step_id}[\"{}{}\"]:::{}", label(&step.name), second_line(step), class(state));
    }
    for step_id in picture.graph.step_ids() {
        for parent in picture.graph.parents(step_id) {
            let _ = writeln!(out, "    s{parent} --> s{step_id}");
        }
    }
    let states: Vec<Option<StepState>> = match picture.task {
        Some(_) => picture.tally().into_iter().map(|(state, _)| Some(state)).collect(),
        None => vec![None],
    };
    for state in states {
        let look = state.map_or(PLAIN, look);
        let (width, dashes) = look.border;
        let dashes = if dashes.is_empty() { String::new() } else { format!(",stroke-dasharray:{dashes}") };
        let _ = writeln!(
            out,
            "    classDef {} fill:{},stroke:{},stroke-width:{width}px,color:#1b1f24{dashes}",
            class(state),
            look.tint[0],
            look.strong[0]
        );
    }
    out
}

/// In a double-quoted scalar of YAML. Mermaid takes tags out of a title and knows no references there.
fn title(picture: &Picture) -> String {
    picture.title().replace('\\', "\\\\").replace('"', "\\\"").replace('<', "‹").replace('>', "›")
}

fn second_line(step: &Step) -> String {
    let Some(row) = &step.row else { return String::new() };
    let tried = if row.attempts > 0 { format!(" {}/{}", row.attempts, step.rule.retry_limit) } else { String::new() };
    format!("<br/>{} {}{tried}", look(row.state).symbol, row.state)
}

/// In a quoted label: whatever could mean something to Mermaid, to Markdown or to HTML by its number.
fn label(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_ascii() && !c.is_ascii_alphanumeric() && !matches!(c, ' ' | '_' | '-' | '.' | ',') {
            let _ = write!(out, "#{};", c as u32);
        } else {
            out.push(c);
        }
    }
    out
}

//! `svg`: the graph, drawn. It brings its style along, for light and dark surroundings, and needs nothing else.
use super::PictureError;
use super::layout::{Direction, Layout, Piece, Point, Size, lay_out};
use super::legible::{cut_to_ems, duration, width_in_ems, xml};
use super::look::{Look, PLAIN, class, look};
use super::model::{Picture, Step};
use crate::engine::state::StepState;
use std::fmt::Write;

const HEIGHT: f64 = 46.0;
const NARROWEST: f64 = 136.0;
const WIDEST: f64 = 268.0;
const NAME: f64 = 13.0;
const FACT: f64 = 11.0;
/// Regular letters beside bold ones, which widths are estimated for.
const REGULAR: f64 = 0.9;
/// The stripe with the sign at the left.
const STRIPE: f64 = 26.0;
/// Left and right of the texts.
const PADDING: f64 = 9.0;

pub fn render(picture: &Picture) -> Result<String, PictureError> {
    let layout = lay_out(picture.graph, Size { width: width_of_boxes(picture), height: HEIGHT })?;
    let Size { width, height } = layout.size;
    let id = picture.task.as_ref().map_or(0, |task| task.task_id);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"stepwise\" role=\"img\" \
         aria-labelledby=\"stepwise-title-{id} stepwise-desc-{id}\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n\
         <title id=\"stepwise-title-{id}\">{}</title>\n<desc id=\"stepwise-desc-{id}\">{}</desc>\n<style>{}</style>\n\
         <rect class=\"paper\" width=\"{width}\" height=\"{height}\"/>\n",
        xml(&picture.title()),
        xml(&description(picture)),
        style(picture)
    );
    wires(&mut out, picture, &layout);
    for ((step, step_id), corner) in picture.steps.iter().zip(1..).zip(&layout.boxes) {
        draw_step(&mut out, picture, step, step_id, *corner, layout.step);
    }
    out.push_str("</svg>\n");
    Ok(out)
}

/// Wide enough for every name, within limits.
fn width_of_boxes(picture: &Picture) -> f64 {
    let wanted = picture.steps.iter().zip(1..).map(|(step, step_id)| {
        let fact = FACT * REGULAR * width_in_ems(&fact(picture, step, step_id));
        (NAME * width_in_ems(&step.name)).max(fact) + STRIPE + 2.0 * PADDING
    });
    let widest = wanted.fold(NARROWEST, f64::max).min(WIDEST);
    // Even: the middle of a box lies on a whole pixel.
    (widest / 2.0).ceil() * 2.0
}

fn description(picture: &Picture) -> String {
    let states: Vec<String> =
        picture.tally().into_iter().map(|(state, count)| format!("{count} {}", words(state))).collect();
    if states.is_empty() { picture.summary() } else { format!("{}: {}", picture.summary(), states.join(", ")) }
}

/// A state in a sentence.
pub fn words(state: StepState) -> String {
    state.as_str().replace('_', " ")
}

/// The second line of a box.
fn fact(picture: &Picture, step: &Step, step_id: i32) -> String {
    let Some(row) = &step.row else {
        let tries = if step.rule.retry_limit == 1 { "try" } else { "tries" };
        return format!("{} · {} {tries}", step.queue, step.rule.retry_limit);
    };
    let mut parts = vec![words(row.state)];
    if row.attempts > 0 {
        parts[0] += &format!(" {}/{}", row.attempts, step.rule.retry_limit);
    }
    let outlook = || picture.outlook(step_id);
    parts.push(match row.state {
        // Whom it waits for is what the edges show.
        StepState::Pending if row.visible_at.is_none() => String::new(),
        StepState::Pending | StepState::Error => outlook(),
        StepState::InProgress if picture.is_abandoned(step) => outlook(),
        _ => picture.ran(step).map(duration).unwrap_or_default(),
    });
    parts.retain(|part| !part.is_empty());
    parts.join(" · ")
}

fn draw_step(out: &mut String, picture: &Picture, step: &Step, step_id: i32, at: Point, size: Size) {
    let state = step.row.as_ref().map(|row| row.state);
    let look = state.map_or(PLAIN, look);
    let fact = fact(picture, step, step_id);
    let room = size.width - STRIPE - 2.0 * PADDING;
    let Point { x, y } = at;
    let text = x + STRIPE + PADDING;
    let _ = write!(out, "<g class=\"{}\"><title>{}", class(state), xml(&step.name));
    let worker = step.row.as_ref().and_then(|row| row.worker.as_deref());
    let more =
        [fact.clone(), worker.map_or_else(String::new, |worker| format!("worker {worker}")), picture.outlook(step_id)];
    for line in more.iter().filter(|line| !line.is_empty()) {
        let _ = write!(out, "\n{}", xml(line));
    }
    let (width, height) = (size.width, size.height);
    let _ = writeln!(
        out,
        "</title><rect class=\"box\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"7\"/>\
         <path class=\"stripe\" d=\"M{} {y}h-{}a7 7 0 0 0-7 7v{}a7 7 0 0 0 7 7h{}z\"/>\
         <path class=\"sign\" transform=\"translate({} {})\" d=\"{}\"/>\
         <text class=\"name\" x=\"{text}\" y=\"{}\">{}</text><text class=\"fact\" x=\"{text}\" y=\"{}\">{}</text></g>",
        x + STRIPE,
        STRIPE - 7.0,
        height - 14.0,
        STRIPE - 7.0,
        x + STRIPE / 2.0,
        y + height / 2.0,
        look.glyph,
        y + 20.0,
        xml(&cut_to_ems(&step.name, room / NAME)),
        y + 36.0,
        xml(&cut_to_ems(&fact, room / (FACT * REGULAR))),
    );
}

/// Those that still hold something back first: the others lie above them.
fn wires(out: &mut String, picture: &Picture, layout: &Layout) {
    for settled in [false, true] {
        let is_settled = |parent| picture.task.is_none() || picture.is_settled(parent);
        for wires in layout.wires.iter().filter(|wires| is_settled(wires.parent) == settled) {
            let past = if settled { " past" } else { "" };
            let _ = write!(out, "<path class=\"wire{past}\" d=\"");
            for piece in &wires.pieces {
                line(out, piece, layout.direction);
            }
            let _ = write!(out, "\"/><path class=\"tip{past}\" d=\"");
            for piece in wires.pieces.iter().filter(|piece| piece.reaches.is_some()) {
                tip(out, piece.to, layout.direction);
            }
            out.push_str("\"/>\n");
        }
    }
}

fn line(out: &mut String, piece: &Piece, direction: Direction) {
    let Piece { from, mut to, reaches } = *piece;
    if reaches.is_some() {
        // Up to the tip, not under it.
        match direction {
            Direction::Down => to.y -= 2.0,
            Direction::Right => to.x -= 2.0,
        }
    }
    let _ = match direction {
        Direction::Down if from.x == to.x => write!(out, "M{} {}V{}", from.x, from.y, to.y),
        Direction::Right if from.y == to.y => write!(out, "M{} {}H{}", from.x, from.y, to.x),
        Direction::Down => {
            let half = (from.y + to.y) / 2.0;
            write!(out, "M{} {}C{} {half} {} {half} {} {}", from.x, from.y, from.x, to.x, to.x, to.y)
        }
        Direction::Right => {
            let half = (from.x + to.x) / 2.0;
            write!(out, "M{} {}C{half} {} {half} {} {} {}", from.x, from.y, from.y, to.y, to.x, to.y)
        }
    };
}

fn tip(out: &mut String, at: Point, direction: Direction) {
    let _ = match direction {
        Direction::Down => write!(out, "M{} {}l4-7h-8z", at.x, at.y - 1.0),
        Direction::Right => write!(out, "M{} {}l-7-4v8z", at.x - 1.0, at.y),
    };
}

fn style(picture: &Picture) -> String {
    let looks: Vec<(&str, Look)> = match picture.task {
        Some(_) => picture.tally().into_iter().map(|(state, _)| (class(Some(state)), look(state))).collect(),
        None => vec![(class(None), PLAIN)],
    };
    let mut out = String::from(
        ".stepwise{font-family:system-ui,-apple-system,\"Segoe UI\",Roboto,\"Helvetica Neue\",\"DejaVu Sans\",sans-serif}\
         .stepwise .name{font-size:13px;font-weight:600}.stepwise .fact{font-size:11px}\
         .stepwise .wire{fill:none;stroke-width:1.5;stroke-dasharray:5 4}.stepwise .wire.past{stroke-dasharray:none}\
         .stepwise .sign{fill:none;stroke-width:2;stroke-linecap:round;stroke-linejoin:round}",
    );
    for (class, look) in &looks {
        let (width, dashes) = look.border;
        let _ = write!(out, ".stepwise .{class} .box{{stroke-width:{width}");
        if !dashes.is_empty() {
            let _ = write!(out, ";stroke-dasharray:{dashes}");
        }
        let _ = write!(out, "}}.stepwise .{class} .stripe{{stroke-width:{width}}}");
    }
    // Ink, quiet ink, paper, wire, wire whose parent is settled.
    let schemes = [
        (0, ["#1b1f24", "#57606a", "#ffffff", "#8c959f", "#424a53"]),
        (1, ["#e6edf3", "#a3adb8", "#0d1117", "#6e7681", "#b1bac4"]),
    ];
    for (scheme, [ink, quiet, paper, wire, past]) in schemes {
        if scheme == 1 {
            out.push_str("@media(prefers-color-scheme:dark){");
        }
        let _ = write!(
            out,
            ".stepwise .paper{{fill:{paper}}}.stepwise .name{{fill:{ink}}}.stepwise .fact{{fill:{quiet}}}\
             .stepwise .wire{{stroke:{wire}}}.stepwise .tip{{fill:{wire}}}\
             .stepwise .wire.past{{stroke:{past}}}.stepwise .tip.past{{fill:{past}}}.stepwise .sign{{stroke:{paper}}}"
        );
        for (class, look) in &looks {
            let (tint, strong) = (look.tint[scheme], look.strong[scheme]);
            let _ = write!(
                out,
                ".stepwise .{class} .box{{fill:{tint};stroke:{strong}}}.stepwise .{class} .stripe{{fill:{strong};stroke:{strong}}}"
            );
        }
    }
    out.push('}');
    out
}

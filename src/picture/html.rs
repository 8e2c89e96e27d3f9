//! `html`: one page of its own, with the graph, a chart of attempts and waits, and the history. It asks for nothing from
//! anywhere, runs no script, and says so to the browser. It is well-formed XML too, which tests can check.
use super::PictureError;
use super::gantt::{Bar, Chart, Kind, chart};
use super::legible::{duration, xml};
use super::look::look;
use super::model::{Change, Picture, Task, positive};
use super::svg::{self, words};
use crate::engine::state::StepState;
use crate::engine::time::{Span, Timestamp, rfc3339};
use std::collections::HashMap;
use std::fmt::Write;

/// Rows of the table; of more, the last.
const MOST_ROWS: usize = 1_000;

pub fn render(picture: &Picture) -> Result<String, PictureError> {
    let graph = svg::render(picture)?;
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n<title>{}</title>\n<style>\n{}{}</style>\n</head>\n<body>\n<main>\n",
        xml(&picture.title()),
        include_str!("page.css"),
        state_colours(picture),
    );
    header(&mut out, picture);
    let natural = attribute(&graph, "width");
    let share = |at: &str, whole: &str| {
        let at = graph.split_once("class=\"box\"").and_then(|(_, first)| attribute(first, at).parse::<f64>().ok());
        let whole = attribute(&graph, whole).parse::<f64>().unwrap_or(1.0).max(1.0);
        (at.unwrap_or_default() / whole * 1_000.0).round() / 10.0
    };
    let _ = write!(
        out,
        "<section aria-labelledby=\"graph\">\n<h2 id=\"graph\">Graph</h2>\n<div class=\"pan\" tabindex=\"0\" role=\"region\" \
         aria-label=\"Graph\" style=\"--natural:{natural}px\">\n<div class=\"sheet\"><i class=\"first\" \
         style=\"left:{}%;top:{}%\"></i>\n{graph}</div></div>\n</section>\n",
        share("x", "width"),
        share("y", "height"),
    );
    match &picture.task {
        Some(task) => {
            if let Some(chart) = chart(picture) {
                draw_chart(&mut out, picture, &chart);
            }
            history(&mut out, picture, task);
        }
        None => steps(&mut out, picture),
    }
    out.push_str("</main>\n</body>\n</html>\n");
    Ok(out)
}

/// The first attribute of this name.
fn attribute<'a>(text: &'a str, name: &str) -> &'a str {
    let value = text.split_once(&format!(" {name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
    value.map_or("0", |(value, _)| value)
}

/// `--strong` and `--tint` for each state's class.
fn state_colours(picture: &Picture) -> String {
    let mut out = String::new();
    if picture.task.is_none() {
        return out;
    }
    for scheme in [0, 1] {
        out.push_str(if scheme == 1 { "@media(prefers-color-scheme:dark){" } else { "" });
        for state in StepState::ALL {
            let look = look(state);
            let _ = write!(out, ".is-{state}{{--strong:{};--tint:{}}}", look.strong[scheme], look.tint[scheme]);
        }
    }
    out.push_str("}\n");
    out
}

fn header(out: &mut String, picture: &Picture) {
    let Some(task) = &picture.task else {
        let _ = write!(
            out,
            "<header>\n<p class=\"over\">Template</p>\n<h1>{}</h1>\n<p class=\"facts\">{}</p>\n</header>\n",
            xml(&picture.label),
            xml(&picture.summary())
        );
        return;
    };
    let state = StepState::parse(task.state.as_str()).unwrap_or(StepState::Pending);
    let _ = write!(
        out,
        "<header>\n<p class=\"over\">Task {}</p>\n<h1>{}</h1>\n\
         <p class=\"facts\"><span class=\"state is-{state}\">{} {}</span> {}<span>{} of {} steps done</span> \
         <span>created <time>{}</time></span> <span>{} {}</span></p>\n",
        task.task_id,
        xml(&picture.label),
        look(state).symbol,
        words(state),
        if task.timed_out { "<span>timed out</span> " } else { "" },
        picture.settled(),
        picture.steps.len(),
        moment(task.created_at),
        if task.finished_at.is_some() { "took" } else { "open for" },
        duration(picture.age().unwrap_or_default()),
    );
    // What is done first, what is to come last.
    let mut shares = picture.tally();
    shares.sort_by_key(|(state, _)| (!state.settles(), *state == StepState::Pending));
    out.push_str("<div class=\"share\" aria-hidden=\"true\">");
    for &(state, count) in &shares {
        let _ = write!(out, "<i class=\"is-{state}\" style=\"flex:{count}\"></i>");
    }
    out.push_str("</div>\n<ul class=\"key\">");
    for &(state, count) in &shares {
        let look = look(state);
        let _ = write!(out, "<li class=\"is-{state}\"><b>{}</b> {count} {}</li>", look.symbol, words(state));
    }
    out.push_str("</ul>\n</header>\n");
}

/// `2026-01-31 12:00:00 UTC`
fn moment(at: Timestamp) -> String {
    let text = rfc3339(at);
    match text.split_once('T') {
        Some((date, time)) => format!("{date} {} UTC", time.split('.').next().unwrap_or(time)),
        None => text,
    }
}

fn draw_chart(out: &mut String, picture: &Picture, chart: &Chart) {
    let whole = positive(chart.end.since(chart.start)).0.max(1);
    let percent = |micros: i64| (micros.clamp(0, whole) as f64 / whole as f64 * 100_000.0).round() / 1000.0;
    let tick = tick(whole);
    let _ = write!(
        out,
        "<section aria-labelledby=\"chart\">\n<h2 id=\"chart\">Attempts and waits</h2>\n<ul class=\"key\">\
         <li><i class=\"bar wait\"></i> waits for a worker</li><li><i class=\"bar run is-in_progress\"></i> runs</li>\
         <li><i class=\"bar run is-complete\"></i> ran, complete</li><li><i class=\"bar run is-error\"></i> ran, failed</li>\
         <li><i class=\"bar backoff\"></i> backoff</li></ul>\n<div class=\"chart\" style=\"--tick:{}%\">\n<div class=\"axis\">",
        (tick as f64 / whole as f64 * 100_000.0).round() / 1000.0,
    );
    for at in (0..=whole / tick).map(|nth| nth * tick) {
        // A mark near the end has no room for its label.
        if percent(at) <= 80.0 {
            let _ = write!(out, "<span style=\"left:{}%\">{}</span>", percent(at), duration(Span(at)));
        }
    }
    out.push_str("</div>\n");
    for lane in &chart.lanes {
        let name = xml(picture.name(lane.step_id));
        let runs = lane.bars.iter().filter(|bar| matches!(bar.kind, Kind::Run(_)));
        let (mut attempts, mut total) = (0, 0);
        for bar in runs {
            attempts += 1;
            total = i64::saturating_add(total, bar.to.since(bar.from).0);
        }
        let sum = match attempts {
            0 => String::new(),
            1 => duration(Span(total)),
            _ => format!("{attempts} × · {}", duration(Span(total))),
        };
        let _ = write!(
            out,
            "<div class=\"lane\"><span class=\"who\" title=\"{name}\">{name}</span><span class=\"sum\">{sum}</span><span class=\"track\">"
        );
        for bar in &lane.bars {
            let (kind, title) = describe(bar);
            let from = percent(bar.from.since(chart.start).0);
            let width = percent(bar.to.since(chart.start).0) - from;
            let _ = write!(
                out,
                "<i class=\"bar {kind}\" style=\"left:{from}%;width:{width:.3}%\" title=\"{}\"></i>",
                xml(&title)
            );
        }
        out.push_str("</span></div>\n");
    }
    out.push_str("</div>\n");
    let waiting = picture.steps.len() - chart.lanes.len();
    if waiting > 0 {
        let _ = writeln!(out, "<p class=\"note\">Not ready so far: {waiting} of {} steps.</p>", picture.steps.len());
    }
    out.push_str("</section>\n");
}

/// The distance between the marks of the axis, in microseconds: a length that people count in, at most four of them.
fn tick(whole: i64) -> i64 {
    const SECOND: i64 = 1_000_000;
    const NICE: [i64; 16] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 10_800, 21_600, 43_200];
    let fits = |tick: &i64| whole / tick <= 4;
    let below = [1, 2, 5].into_iter().flat_map(|digit| [1_000, 10_000, 100_000].map(|power| digit * power));
    let mut below: Vec<i64> = below.collect();
    below.sort_unstable();
    let above = NICE.map(|seconds| seconds * SECOND);
    let days = (0..20).map(|doubled| (86_400 * SECOND) << doubled);
    below.into_iter().chain(above).chain(days).find(fits).unwrap_or(i64::MAX)
}

fn describe(bar: &Bar) -> (String, String) {
    let length = duration(bar.to.since(bar.from));
    match bar.kind {
        Kind::Wait => ("wait".into(), format!("waited {length}")),
        Kind::Backoff => ("backoff".into(), format!("backoff {length}")),
        Kind::Run(state) => {
            let ended = match state {
                StepState::InProgress => "still running".to_owned(),
                StepState::Pending => "given back".to_owned(),
                state => words(state),
            };
            let attempt = bar.attempt.map_or_else(String::new, |attempt| format!("attempt {attempt}: "));
            let worker = bar.worker.as_ref().map_or_else(String::new, |worker| format!(", {worker}"));
            (format!("run is-{state}"), format!("{attempt}{ended}, {length}{worker}"))
        }
    }
}

fn history(out: &mut String, picture: &Picture, task: &Task) {
    let left_out = task.history.len().saturating_sub(MOST_ROWS);
    out.push_str("<section aria-labelledby=\"history\">\n<h2 id=\"history\">History</h2>\n");
    if task.history_is_cut {
        let _ = writeln!(out, "<p class=\"note\">The first {} changes only.</p>", task.history.len());
    }
    if left_out > 0 {
        let _ = writeln!(out, "<p class=\"note\">{left_out} earlier changes are left out.</p>");
    }
    out.push_str(
        "<table class=\"history\">\n<thead><tr><th>After</th><th>Step</th><th>Change</th><th>Attempt</th><th>By</th>\
         <th>Why</th></tr></thead>\n<tbody>\n",
    );
    let mut claimed = HashMap::new();
    for (nth, change) in task.history.iter().enumerate() {
        if change.to == StepState::InProgress {
            claimed.insert(change.step_id, change.at);
        }
        if nth < left_out {
            continue;
        }
        let subject = match change.step_id {
            Some(step_id) => xml(picture.name(step_id)),
            None => "<em>task</em>".to_owned(),
        };
        // Of what an operator does, the row keeps the worker of the last attempt.
        let by = change.actor.as_deref().or(change.worker.as_deref()).unwrap_or("");
        let attempt =
            change.attempt.filter(|attempt| *attempt > 0).map_or_else(String::new, |number| number.to_string());
        let _ = writeln!(
            out,
            "<tr><td><time title=\"{}\">{}</time></td><th scope=\"row\">{subject}</th><td>{}</td><td>{attempt}</td><td>{}</td><td>{}</td></tr>",
            moment(change.at),
            duration(positive(change.at.since(task.created_at))),
            states(change, claimed.get(&change.step_id).copied()),
            xml(by),
            xml(&change.note),
        );
    }
    out.push_str("</tbody>\n</table>\n</section>\n");
}

/// `claimed`: when the step's last attempt began.
fn states(change: &Change, claimed: Option<Timestamp>) -> String {
    let to = format!("<span class=\"state is-{}\">{} {}</span>", change.to, look(change.to).symbol, words(change.to));
    match change.from {
        Some(_) if change.sets_backoff() => {
            let rest = change.backoff_end(claimed).map(|end| positive(end.since(change.at)));
            let backoff = match rest.filter(|rest| rest.0 > 0) {
                Some(rest) => format!("backoff of {}", duration(rest)),
                None => "backoff ended".to_owned(),
            };
            format!("{to} <span class=\"from\">{backoff}</span>")
        }
        Some(from) => format!("<span class=\"from\">{} →</span> {to}", words(from)),
        None => format!("<span class=\"from\">created →</span> {to}"),
    }
}

/// The table of a template.
fn steps(out: &mut String, picture: &Picture) {
    out.push_str(
        "<section aria-labelledby=\"steps\">\n<h2 id=\"steps\">Steps</h2>\n<table class=\"steps\">\n<thead><tr><th>#</th>\
         <th>Step</th><th>After</th><th>Queue</th><th>Tries</th><th>Timeout</th></tr></thead>\n<tbody>\n",
    );
    for (step, step_id) in picture.steps.iter().zip(1..) {
        let _ = writeln!(
            out,
            "<tr><td>{step_id}</td><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            xml(&step.name),
            xml(&picture.named(picture.graph.parents(step_id))),
            xml(&step.queue),
            step.rule.retry_limit,
            duration(step.rule.timeout),
        );
    }
    out.push_str("</tbody>\n</table>\n</section>\n");
}

//! Results: printed as they come, written as JSON at the end.
use crate::Result;
use crate::drain::Sample;
use crate::meter::Figures;
use crate::spread::Spread;
use serde_json::{Value, json};
use std::path::Path;

/// One contender's line in a case.
pub struct Line {
    pub name: &'static str,
    pub rate: Spread,
    /// The rate divided by each reference's of the same round; none for a reference by itself.
    pub ratios: Vec<(&'static str, Spread)>,
    /// What the first ratio should reach.
    pub target: Option<f64>,
    /// Medians.
    pub figures: Figures,
}

/// Contenders that ran in turn under the same conditions.
pub struct Case {
    pub workload: &'static str,
    pub title: String,
    /// What is counted per second, and what the figures are per.
    pub unit: &'static str,
    pub references: Vec<&'static str>,
    pub lines: Vec<Line>,
}

impl Case {
    /// Sums up rounds: `rounds[r][c]` is contender c's run in round r. `references` are names too.
    pub fn of(
        workload: &'static str,
        title: String,
        unit: &'static str,
        names: &[&'static str],
        references: &[&'static str],
        rounds: &[Vec<Sample>],
    ) -> Case {
        let place = |reference: &'static str| Some((reference, names.iter().position(|name| *name == reference)?));
        let references: Vec<(&'static str, usize)> = references.iter().copied().filter_map(place).collect();
        let line = |(index, name): (usize, &&'static str)| {
            let runs = || rounds.iter().map(|round| &round[index]);
            let median = |at: usize| Spread::of(runs().filter_map(|run| Some(run.figures.get(at)?.1)));
            let ratio = |&(reference, at): &(&'static str, usize)| {
                let ratios = rounds.iter().map(|round| round[index].rate / round[at].rate);
                Spread::of(ratios).filter(|_| at != index).map(|ratio| (reference, ratio))
            };
            let figures = runs().next()?.figures.iter().enumerate();
            Some(Line {
                name,
                rate: Spread::of(runs().map(|run| run.rate))?,
                ratios: references.iter().filter_map(ratio).collect(),
                target: None,
                figures: figures.filter_map(|(at, (name, _))| Some((*name, median(at)?.median))).collect(),
            })
        };
        let lines = names.iter().enumerate().filter_map(line).collect();
        let references = references.into_iter().map(|(name, _)| name).collect();
        Case { workload, title, unit, references, lines }
    }
}

/// What must hold on any machine: the value is at most the limit.
pub struct Bound {
    pub what: String,
    pub value: f64,
    pub limit: f64,
}

impl Bound {
    fn holds(&self) -> bool {
        self.value <= self.limit
    }
}

pub struct Report {
    machine: Value,
    cases: Vec<Case>,
    bounds: Vec<Bound>,
}

impl Report {
    /// Prints the heading.
    pub fn begin(machine: Value) -> Report {
        let text = |key: &str| machine[key].as_str().unwrap_or("?").to_owned();
        println!(
            "pg_stepwise {} ({}) on PostgreSQL {}, {}; {} cores, {}",
            text("pg_stepwise"),
            text("commit"),
            text("postgresql"),
            text("date"),
            machine["cores"],
            text("cpu"),
        );
        println!("median [least – greatest] of the rounds; ratios are of the same round");
        for difference in machine["floor_differs_in"].as_array().into_iter().flatten() {
            println!(
                "note: the floor's tables are not the extension's: only in {}",
                difference.as_str().unwrap_or("?")
            );
        }
        Report { machine, cases: Vec::new(), bounds: Vec::new() }
    }

    pub fn add(&mut self, case: Case) {
        print!("{}", printed(&case));
        self.cases.push(case);
    }

    /// A figure of the case added last.
    pub fn figure(&self, name: &str, figure: &str) -> Option<f64> {
        let line = self.cases.last()?.lines.iter().find(|line| line.name == name)?;
        line.figures.iter().find(|(name, _)| *name == figure).map(|(_, value)| *value)
    }

    pub fn bound(&mut self, what: String, value: Option<f64>, limit: f64) {
        self.bounds.extend(value.map(|value| Bound { what, value, limit }));
    }

    /// Prints the bounds, writes the file; whether all bounds hold.
    pub fn finish(self, file: Option<&Path>) -> Result<bool> {
        if !self.bounds.is_empty() {
            println!("\nBounds that hold on any machine:");
        }
        for bound in &self.bounds {
            let verdict = if bound.holds() { "ok  " } else { "FAIL" };
            println!("  {verdict} {:<60} {:>8.2} ≤ {:.2}", bound.what, bound.value, bound.limit);
        }
        if let Some(file) = file {
            std::fs::write(file, format!("{:#}\n", self.to_json()))?;
        }
        Ok(self.bounds.iter().all(Bound::holds))
    }

    fn to_json(&self) -> Value {
        let spread = |spread: &Spread| json!({ "median": spread.median, "low": spread.low, "high": spread.high });
        let line = |line: &Line| {
            json!({
                "contender": line.name,
                "per_second": spread(&line.rate),
                "ratios": line.ratios.iter().map(|(name, ratio)| ((*name).to_owned(), spread(ratio)))
                    .collect::<serde_json::Map<_, _>>(),
                "target": line.target,
                "figures": line.figures.iter().map(|(name, value)| ((*name).to_owned(), json!(value)))
                    .collect::<serde_json::Map<_, _>>(),
            })
        };
        let case = |case: &Case| {
            let lines: Vec<Value> = case.lines.iter().map(line).collect();
            json!({ "workload": case.workload, "case": case.title, "unit": case.unit, "lines": lines })
        };
        let bound = |bound: &Bound| json!({ "what": bound.what, "value": bound.value, "limit": bound.limit, "ok": bound.holds() });
        json!({
            "machine": self.machine,
            "cases": self.cases.iter().map(case).collect::<Vec<_>>(),
            "bounds": self.bounds.iter().map(bound).collect::<Vec<_>>(),
        })
    }
}

/// Three digits that count, thousands apart.
fn short(value: f64) -> String {
    if value >= 1000.0 {
        let whole = value.round() as u64;
        return format!("{} {:03}", whole / 1000, whole % 1000);
    }
    let decimals = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}")
}

/// A case as a table: rates and ratios to the left, then one column per figure.
fn printed(case: &Case) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for (name, _) in case.lines.iter().flat_map(|line| &line.figures) {
        if !columns.contains(name) {
            columns.push(name);
        }
    }
    let width = |column: &str| column.chars().count().max(8) + 2;
    let mut text = format!("\n{} {}\n  {:<32}{:>27}", case.workload, case.title, "", format!("{}s/s", case.unit));
    for reference in &case.references {
        text.push_str(&format!("{:>22}", format!("÷ {reference}")));
    }
    text.push_str(&format!("{:>8}", "target"));
    for column in &columns {
        text.push_str(&format!("{column:>width$}", width = width(column)));
    }
    for line in &case.lines {
        let rate = format!("{} [{} – {}]", short(line.rate.median), short(line.rate.low), short(line.rate.high));
        text.push_str(&format!("\n  {:<32}{rate:>27}", line.name));
        for reference in &case.references {
            let ratio = line.ratios.iter().find(|(name, _)| name == reference).map(|(_, ratio)| ratio);
            let ratio =
                ratio.map_or_else(String::new, |of| format!("{:.2} [{:.2} – {:.2}]", of.median, of.low, of.high));
            text.push_str(&format!("{ratio:>22}"));
        }
        text.push_str(&format!("{:>8}", line.target.map_or_else(String::new, |target| format!("≥ {target}"))));
        for column in &columns {
            let figure = line.figures.iter().find(|(name, _)| name == column);
            let figure = figure.map_or_else(|| "–".to_owned(), |(_, value)| short(*value));
            text.push_str(&format!("{figure:>width$}", width = width(column)));
        }
    }
    text.push('\n');
    text
}

//! The command line.
use crate::Result;
use crate::workload;
use std::path::PathBuf;

#[derive(Debug, Default)]
pub struct Options {
    /// None: the short set.
    pub workloads: Vec<String>,
    /// None: each workload's own.
    pub batches: Vec<usize>,
    pub sizes: Vec<usize>,
    pub tasks: Option<usize>,
    pub rounds: Option<usize>,
    /// Connections at once; none: each workload's own.
    pub workers: Vec<usize>,
    /// How long w13 takes.
    pub minutes: Option<f64>,
    /// All workloads, at their full sizes.
    pub full: bool,
    /// Only contenders whose names contain this.
    pub only: Option<String>,
    /// Value of synchronous_commit; none: both.
    pub commit: Option<String>,
    pub json: Option<PathBuf>,
    pub assert: bool,
}

/// What runs unless something is asked for: a few minutes.
const SHORT: &[&str] = &["w0", "w1", "w1m", "w2", "w3", "w8", "w9", "w10"];

pub fn help() -> String {
    let mut text = String::from(
        "\
Measures pg_stepwise beside a floor of hand-written SQL: both in turn, in one run, on one cluster.

usage: make bench ARGS=\"...\"     (or: .ci/bench ...)

  --workload LIST   which workloads, by comma, or all (default: the short set)
  --batch LIST      steps per call, by comma (w1: 1,10,100)
  --sizes LIST      steps per task, by comma (w2, w3, w5)
  --tasks N         tasks per run (w1: 2000, a quarter of that at batch 1; w10: 5000)
  --workers LIST    connections at once, by comma (w1m)
  --minutes N       how long w13 takes
  --full            all workloads, at their full sizes: some hours
  --rounds N        times that every contender runs (default 3)
  --commit on|off   only the cases with this synchronous_commit (w1, w12; default: both)
  --only TEXT       only the contenders whose names contain TEXT (w1 to w3), to profile one
  --json FILE       write the results to FILE too
  --assert          exit with 1 if a bound that does not depend on the machine's speed fails
  --help            this text

Connects by PGHOST (a socket's directory), PGPORT, PGUSER and PGDATABASE as a superuser. It empties the tables of the
extension in that database and keeps its own in schema \"floor\": use a database made for it, as .ci/bench does.

workloads:
",
    );
    for workload in workload::ALL {
        text.push_str(&format!("  {:<5}{}\n", workload.name, workload.about));
    }
    text
}

impl Options {
    /// `None`: help was asked for.
    pub fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>> {
        let mut options = Options::default();
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let mut value = || value.clone().or_else(|| arguments.next()).ok_or(format!("{name} needs a value"));
            match name.as_str() {
                "--workload" => options.workloads = names(&value()?)?,
                "--batch" => options.batches = numbers(&name, &value()?)?,
                "--sizes" => options.sizes = numbers(&name, &value()?)?,
                "--tasks" => options.tasks = Some(number(&name, &value()?)?),
                "--rounds" => options.rounds = Some(number(&name, &value()?)?),
                "--commit" => match value()?.as_str() {
                    commit @ ("on" | "off") => options.commit = Some(commit.to_owned()),
                    commit => return Err(format!("--commit: {commit} is neither on nor off").into()),
                },
                "--workers" => options.workers = numbers(&name, &value()?)?,
                "--minutes" => options.minutes = Some(value()?.parse()?),
                "--full" => options.full = true,
                "--only" => options.only = Some(value()?),
                "--json" => options.json = Some(value()?.into()),
                "--assert" => options.assert = true,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        Ok(Some(options))
    }

    pub fn wants(&self, workload: &str) -> bool {
        match self.workloads.as_slice() {
            [] => self.full || SHORT.contains(&workload),
            names => names.iter().any(|name| name == workload || name == "all"),
        }
    }

    pub fn wants_contender(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    pub fn batches_or(&self, default: &[usize]) -> Vec<usize> {
        if self.batches.is_empty() { default.to_vec() } else { self.batches.clone() }
    }

    pub fn sizes_or(&self, default: &[usize]) -> Vec<usize> {
        if self.sizes.is_empty() { default.to_vec() } else { self.sizes.clone() }
    }

    pub fn workers_or(&self, default: &[usize]) -> Vec<usize> {
        if self.workers.is_empty() { default.to_vec() } else { self.workers.clone() }
    }

    pub fn rounds_or(&self, default: usize) -> usize {
        self.rounds.unwrap_or(default)
    }
}

fn names(list: &str) -> Result<Vec<String>> {
    let names: Vec<String> = list.split(',').map(|name| name.trim().to_lowercase()).collect();
    match names.iter().find(|name| *name != "all" && workload::ALL.iter().all(|known| known.name != **name)) {
        Some(name) => Err(format!("unknown workload {name}").into()),
        None => Ok(names),
    }
}

fn number(name: &str, text: &str) -> Result<usize> {
    match text.trim().parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{name}: {text} is not a positive number").into()),
    }
}

fn numbers(name: &str, list: &str) -> Result<Vec<usize>> {
    list.split(',').map(|text| number(name, text)).collect()
}

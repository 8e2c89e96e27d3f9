//! The workloads, each in a file of its own. A new one is a file with a `WORKLOAD`, and a line here.
mod chain;
mod create;
mod drive;
mod events;
mod fan;
mod ladder;
mod readiness;

use crate::Result;
use crate::drain::{self, Sample};
use crate::lab::Lab;
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;

pub struct Workload {
    pub name: &'static str,
    pub about: &'static str,
    /// Adds its cases and bounds to the report.
    pub run: fn(&mut Lab, &Options, &mut Report) -> Result<()>,
}

pub const ALL: &[Workload] = &[
    ladder::WORKLOAD,
    fan::WORKLOAD,
    chain::WORKLOAD,
    readiness::WORKLOAD,
    create::WORKLOAD,
    events::WORKLOAD,
    drive::WORKLOAD,
];

/// The main contenders, on one task of each shape: what W2 and W3 differ in.
fn one_task(
    lab: &mut Lab,
    report: &mut Report,
    workload: &'static str,
    shape: &Shape,
    batch: usize,
    rounds: usize,
) -> Result<()> {
    let contenders = ladder::MAIN;
    let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
    let samples = in_turn(rounds, contenders, |it| drain::run(lab, it.system, it.settings, shape, 1, batch))?;
    let title = format!("{}, batch {batch}, synchronous_commit=off, notify=off; one task, {rounds} rounds", shape.name);
    report.add(Case::of(workload, title, "step", &names, &[ladder::FLOOR, ladder::PINNED], &samples));
    Ok(())
}

/// Runs contenders in turn: A B C A B C …
fn in_turn<C>(rounds: usize, contenders: &[C], mut run: impl FnMut(&C) -> Result<Sample>) -> Result<Vec<Vec<Sample>>> {
    (0..rounds).map(|_| contenders.iter().map(&mut run).collect()).collect()
}

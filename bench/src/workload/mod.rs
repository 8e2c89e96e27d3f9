//! The workloads, each in a file of its own. A new one is a file with a `WORKLOAD`, and a line here.
mod behind;
mod beside;
mod chain;
mod create;
mod crowd;
mod drive;
mod events;
mod fan;
mod graph;
mod idle;
mod ladder;
mod payload;
mod readiness;
mod snapshot;
mod soak;
mod storm;

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
    idle::WORKLOAD,
    ladder::WORKLOAD,
    crowd::WORKLOAD,
    fan::WORKLOAD,
    chain::WORKLOAD,
    graph::WORKLOAD,
    readiness::WORKLOAD,
    beside::WORKLOAD,
    snapshot::WORKLOAD,
    behind::WORKLOAD,
    storm::WORKLOAD,
    create::WORKLOAD,
    payload::WORKLOAD,
    events::WORKLOAD,
    soak::WORKLOAD,
    drive::WORKLOAD,
];

/// The main contenders, on one task of each shape: what W2 and W3 differ in.
fn one_task(
    lab: &mut Lab,
    report: &mut Report,
    options: &Options,
    workload: &'static str,
    shape: &Shape,
    batch: usize,
) -> Result<()> {
    let rounds = options.rounds_or(3);
    // As many steps of ladders, beside the one task.
    const LADDERS: ladder::Contender = ladder::Contender { name: "as many steps of ladders", ..ladder::MAIN[0] };
    let all: Vec<&ladder::Contender> = ladder::MAIN.iter().chain([&LADDERS]).collect();
    let contenders: Vec<_> = all.into_iter().filter(|it| options.wants_contender(it.name)).collect();
    let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
    let (ladders, ladder) = (shape.len().div_ceil(10), Shape::ladder10());
    let samples = in_turn(rounds, &contenders, |it| match it.name == LADDERS.name {
        true => drain::run(lab, it.system, it.settings, &ladder, ladders, batch),
        false => drain::run(lab, it.system, it.settings, shape, 1, batch),
    })?;
    let title = format!("{}, batch {batch}, synchronous_commit=off, notify=off; one task, {rounds} rounds", shape.name);
    let references = [ladder::FLOOR, ladder::PINNED, LADDERS.name];
    report.add(Case::of(workload, title, "step", &names, &references, &samples));
    Ok(())
}

/// Runs contenders in turn: A B C A B C …
fn in_turn<C>(rounds: usize, contenders: &[C], mut run: impl FnMut(&C) -> Result<Sample>) -> Result<Vec<Vec<Sample>>> {
    (0..rounds).map(|_| contenders.iter().map(&mut run).collect()).collect()
}

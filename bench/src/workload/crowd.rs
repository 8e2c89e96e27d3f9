//! W1 with several workers at once.
use super::ladder::{FLOOR, PINNED};
use super::{Workload, in_turn, ladder};
use crate::Result;
use crate::crowd;
use crate::lab::Lab;
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;

pub const WORKLOAD: Workload =
    Workload { name: "w1m", about: "ladder of ten steps, 2 and 4 workers at once, one step per call (--workers)", run };

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    let contenders: Vec<_> = ladder::MAIN.iter().take(4).filter(|it| options.wants_contender(it.name)).collect();
    let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
    let rounds = options.rounds_or(3);
    for workers in options.workers_or(if options.full { &[2, 4] } else { &[4] }) {
        for batch in options.batches_or(&[1]) {
            let tasks = options.tasks.unwrap_or(500);
            let samples = in_turn(rounds, &contenders, |it| {
                crowd::run(lab, it.system, it.settings, &Shape::ladder10(), tasks, batch, workers)
            })?;
            let title = format!(
                "ladder10, {workers} workers, batch {batch}, synchronous_commit=off, notify=off; {tasks} tasks, {rounds} rounds"
            );
            let mut case = Case::of("w1m", title, "step", &names, &[FLOOR, PINNED], &samples);
            for line in case.lines.iter_mut().filter(|line| line.name == ladder::SEPARATE && batch == 1) {
                line.target = Some(2.0);
            }
            report.add(case);
            for name in [ladder::SEPARATE, ladder::COMBINED] {
                let deadlocks = report.figure(name, "deadlocks");
                report.bound(format!("w1m {workers} workers, batch {batch}, {name}: deadlocks"), deadlocks, 0.0);
            }
        }
    }
    Ok(())
}

//! W7: claims while another session holds an old snapshot, so that nothing of what is done can be cleaned away.
use super::{Workload, in_turn};
use crate::Result;
use crate::drain::{self, Sample};
use crate::lab::Lab;
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;
use crate::worker::{RESULT, System};
use std::time::Instant;

pub const WORKLOAD: Workload = Workload {
    name: "w7",
    about: "one step per call under a snapshot held all the while: 10 000 steps (--sizes up to 100000)",
    run,
};

const SETTINGS: &[(&str, &str)] = &[("synchronous_commit", "off"), ("stepwise.notify", "off")];
const CONTENDERS: [(&str, bool); 2] = [("held snapshot", true), ("none held", false)];

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    for steps in options.sizes_or(if options.full { &[10_000, 100_000] } else { &[10_000] }) {
        let rounds = options.rounds_or(if options.full { 3 } else { 1 });
        let names: Vec<&str> = CONTENDERS.iter().map(|contender| contender.0).collect();
        let samples = in_turn(rounds, &CONTENDERS, |(_, held)| drain_under(lab, *held, steps))?;
        let title = format!("ladder10, {steps} steps, one per call, synchronous_commit=off; {rounds} rounds");
        report.add(Case::of("w7", title, "step", &names, &[names[1]], &samples));
        let ratio = report.figure(names[0], "end ÷ start");
        report.bound(format!("w7, {steps} steps: time of a turn at the end ÷ at the start"), ratio, 3.0);
    }
    Ok(())
}

fn drain_under(lab: &mut Lab, held: bool, steps: usize) -> Result<Sample> {
    let shape = Shape::ladder10();
    drain::fill(lab, "stepwise", &shape, steps / shape.len())?;
    let mut holder = lab.connect(&[])?;
    if held {
        holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM stepwise.steps")?;
    }
    let mut worker = System::Separate.worker(lab, SETTINGS, 1, RESULT)?;
    let part = steps / 20;
    let mut marks = vec![Instant::now()];
    let started = Instant::now();
    let mut done = 0;
    while worker.turn()? > 0 {
        done += 1;
        if done % part == 0 {
            marks.push(Instant::now());
        }
    }
    let rate = done as f64 / started.elapsed().as_secs_f64();
    // The first part warms caches up.
    let took = |part: usize| (marks[part + 1] - marks[part]).as_secs_f64();
    let ratio = took(marks.len() - 2) / took(1);
    Ok(Sample {
        rate,
        figures: vec![("end ÷ start", ratio), ("µs at the end", took(marks.len() - 2) * 1e6 / part as f64)],
    })
}

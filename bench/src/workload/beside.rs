//! W6: claims while many finished steps lie about. Their cost must not grow with history.
use super::{Workload, in_turn};
use crate::Result;
use crate::cpu::Cpu;
use crate::drain::{self, Sample};
use crate::lab::Lab;
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;
use crate::statements;
use crate::worker::{RESULT, System};
use std::time::Instant;

pub const WORKLOAD: Workload = Workload {
    name: "w6",
    about: "claims beside 0, 100 000 and 1 000 000 finished steps (--sizes up to 10000000)",
    run,
};

const SETTINGS: &[(&str, &str)] = &[("synchronous_commit", "off"), ("stepwise.notify", "off")];
const NONE: &str = "claim and complete";

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    let sizes = options.sizes_or(if options.full { &[100_000, 1_000_000, 10_000_000] } else { &[100_000, 1_000_000] });
    let live = options.tasks.unwrap_or(100);
    let mut buffers = Vec::new();
    for finished in std::iter::once(0).chain(sizes) {
        drain::empty(lab, "stepwise")?;
        let template_id = drain::register(lab, &Shape::ladder10())?;
        drain::add_finished(lab, template_id, finished / 10)?;
        let rounds = options.rounds_or(3);
        let samples = in_turn(rounds, &[System::Separate], |system| {
            drain::create(lab, "stepwise", template_id, live)?;
            lab.control.batch_execute("CHECKPOINT")?;
            let mut worker = system.worker(lab, SETTINGS, 1, RESULT)?;
            let cpu = Cpu::of(worker.client())?;
            let (before, started, mut steps) = (cpu.micros(), Instant::now(), 0);
            while worker.turn()? > 0 {
                steps += 1;
            }
            let rate = f64::from(steps) / started.elapsed().as_secs_f64();
            let cpu = cpu.micros().zip(before).map(|(now, before)| ("CPU µs", (now - before) / f64::from(steps)));
            Ok(Sample { rate, figures: cpu.into_iter().collect() })
        })?;
        let title = format!("one step per call beside {finished} finished steps; {live} tasks, {rounds} rounds");
        let mut case = Case::of("w6", title, "step", &[NONE], &[], &samples);
        drain::create(lab, "stepwise", template_id, live)?;
        let mut worker = System::Separate.worker(lab, SETTINGS, 1, RESULT)?;
        let figures = statements::of_turns(lab, worker.as_mut(), "stepwise", 2)?;
        buffers.extend(figures.iter().find(|(name, _)| *name == "buffers/claim").map(|(_, value)| *value));
        case.lines[0].figures.extend(figures);
        report.add(case);
    }
    if let [none, .., most] = buffers[..] {
        report.bound(
            "w6: buffers per claim, beside the most finished steps ÷ beside none".into(),
            Some(most / none),
            // Indexes grow by a level or two, whatever is claimed.
            1.15,
        );
    }
    Ok(())
}

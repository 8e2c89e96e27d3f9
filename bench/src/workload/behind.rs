//! W8: claims behind many steps that cannot be claimed yet.
use super::{Workload, in_turn};
use crate::Result;
use crate::cpu::Cpu;
use crate::drain::{self, Sample};
use crate::lab::Lab;
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;
use crate::worker::{RESULT, System};
use std::time::Instant;

pub const WORKLOAD: Workload =
    Workload { name: "w8", about: "claims behind 20 000 steps that cannot be claimed (--sizes up to 100000)", run };

const SETTINGS: &[(&str, &str)] = &[("synchronous_commit", "off"), ("stepwise.notify", "off")];
const NOTHING: &str = "nothing in front";
/// What stands in front, as the arguments that create it.
const CONTENDERS: [(&str, &str); 4] = [
    (NOTHING, ""),
    ("delayed", "run_at => now() + interval '1 hour'"),
    ("delayed, of higher priority", "run_at => now() + interval '1 hour', priority => 10"),
    ("of a paused queue, of higher priority", "priority => 10"),
];

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    for count in options.sizes_or(if options.full { &[100_000] } else { &[20_000] }) {
        let rounds = options.rounds_or(3);
        let names: Vec<&str> = CONTENDERS.iter().map(|contender| contender.0).collect();
        let samples = in_turn(rounds, &CONTENDERS, |(name, front)| behind(lab, name, front, count))?;
        let title = format!("ladder10, one step per call, behind {count} steps; {rounds} rounds");
        report.add(Case::of("w8", title, "step", &names, &[NOTHING], &samples));
    }
    Ok(())
}

fn behind(lab: &mut Lab, name: &str, front: &str, count: usize) -> Result<Sample> {
    drain::empty(lab, "stepwise")?;
    let queue = if name.contains("queue") { "bench_paused" } else { "bench" };
    lab.control.batch_execute(&format!(
        "SELECT stepwise.register_template('{{\"namespace\": \"bench\", \"name\": \"front_{queue}\", \
             \"steps\": [{{\"name\": \"a\", \"queue\": \"{queue}\"}}]}}')"
    ))?;
    if queue != "bench" {
        lab.control.batch_execute(&format!("SELECT stepwise.pause_queue('{queue}')"))?;
    }
    if !front.is_empty() {
        for _ in 0..count.div_ceil(1000) {
            lab.control.batch_execute(&format!(
                "SELECT stepwise.create_tasks('front_{queue}', array_fill('{{}}'::jsonb, '{{1000}}'), 'bench', {front})"
            ))?;
        }
    }
    let template_id = drain::register(lab, &Shape::ladder10())?;
    drain::create(lab, "stepwise", template_id, 200)?;
    drain::settle(lab, "stepwise")?;
    let mut worker = System::Separate.worker(lab, SETTINGS, 1, RESULT)?;
    let cpu = Cpu::of(worker.client())?;
    let (before, started, mut steps) = (cpu.micros(), Instant::now(), 0);
    while worker.turn()? > 0 {
        steps += 1;
    }
    let seconds = started.elapsed().as_secs_f64();
    if steps != 2000 {
        return Err(format!("w8: {steps} steps were claimed behind {name}, not 2000").into());
    }
    let cpu = cpu.micros().zip(before).map(|(now, before)| ("CPU µs", (now - before) / f64::from(steps)));
    Ok(Sample { rate: f64::from(steps) / seconds, figures: cpu.into_iter().collect() })
}

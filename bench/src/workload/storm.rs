//! W9: many steps come back at once: the leases of dead workers, and failures.
use super::{Workload, in_turn};
use crate::Result;
use crate::cpu::Cpu;
use crate::drain::{self, Sample};
use crate::lab::Lab;
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;
use crate::wire::Uuid;
use std::time::Instant;

pub const WORKLOAD: Workload = Workload {
    name: "w9",
    about: "claims of 2 000 steps, for the first time, after their leases, after failures (--sizes up to 100000)",
    run,
};

const BATCH: usize = 100;
const FIRST: &str = "claimed for the first time";
const CONTENDERS: [&str; 3] = [FIRST, "after their leases", "after failures"];

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    for steps in options.sizes_or(if options.full { &[10_000, 100_000] } else { &[2000] }) {
        let rounds = options.rounds_or(3);
        let samples = in_turn(rounds, &CONTENDERS, |name| storm(lab, name, steps))?;
        let title = format!("{steps} steps claimed {BATCH} per call; {rounds} rounds");
        report.add(Case::of("w9", title, "claimed step", &CONTENDERS, &[FIRST], &samples));
    }
    Ok(())
}

fn storm(lab: &mut Lab, name: &str, steps: usize) -> Result<Sample> {
    drain::fill(lab, "stepwise", &Shape::chain(1), steps)?;
    let mut client = lab.connect(&[("synchronous_commit", "off"), ("stepwise.notify", "off")])?;
    let claim = client.prepare("SELECT receipt FROM stepwise.claim_steps('w', max_steps => $1)")?;
    let fail = client.prepare("SELECT outcome FROM stepwise.fail_steps($1::uuid[])")?;
    let mut receipts: Vec<Uuid> = Vec::new();
    if name != FIRST {
        for _ in 0..steps.div_ceil(BATCH) {
            receipts.extend(client.query(&claim, &[&(BATCH as i32)])?.iter().map(|row| row.get::<_, Uuid>(0)));
        }
        if name.contains("failures") {
            for batch in receipts.chunks(1000) {
                client.query(&fail, &[&batch])?;
            }
        }
        drain::settle(lab, "stepwise")?;
        client.batch_execute("SET stepwise.clock_offset = '1 hour'")?;
    }
    let cpu = Cpu::of(&mut client)?;
    let (before, started, mut claimed) = (cpu.micros(), Instant::now(), 0);
    loop {
        let rows = client.query(&claim, &[&(BATCH as i32)])?.len();
        claimed += rows;
        if rows == 0 {
            break;
        }
    }
    let rate = claimed as f64 / started.elapsed().as_secs_f64();
    if claimed != steps {
        return Err(format!("w9: {claimed} steps were claimed {name}, not {steps}").into());
    }
    let cpu = cpu.micros().zip(before).map(|(now, before)| ("CPU µs", (now - before) / claimed as f64));
    Ok(Sample { rate, figures: cpu.into_iter().collect() })
}

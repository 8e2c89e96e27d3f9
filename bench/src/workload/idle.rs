//! W0: what a claim of nothing takes: the way in, the switch of rights, a look at the queues.
use super::{Workload, in_turn};
use crate::Result;
use crate::cpu::Cpu;
use crate::drain::{self, Sample};
use crate::lab::Lab;
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;
use std::time::Instant;

pub const WORKLOAD: Workload =
    Workload { name: "w0", about: "a claim of nothing, in the server and over the socket", run };

/// Calls in one loop.
const CALLS: i32 = 2000;

/// How a claim is asked for, and whether tasks are there that are not due yet.
const CONTENDERS: [(&str, &str, bool); 4] = [
    ("every queue", "claim_steps('w')", false),
    ("one queue", "claim_steps('w', '{bench}')", false),
    ("every queue, 1000 tasks delayed", "claim_steps('w')", true),
    ("nothing at all", "now()", false),
];

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    let rounds = options.rounds_or(3);
    let names: Vec<&str> = CONTENDERS.iter().map(|contender| contender.0).collect();
    for (way, ask) in [("in the server", in_server as Asking), ("over the socket", over_the_socket)] {
        let samples = in_turn(rounds, &CONTENDERS, |(_, call, delayed)| {
            drain::empty(lab, "stepwise")?;
            drain::register(lab, &Shape::ladder10())?;
            if *delayed {
                lab.control.batch_execute(
                    "SELECT stepwise.create_tasks('ladder10', array_fill('{}'::jsonb, '{1000}'), 'bench', \
                         run_at => now() + interval '1 hour')",
                )?;
            }
            lab.control.batch_execute("VACUUM (ANALYZE) stepwise.steps")?;
            ask(lab, call)
        })?;
        let title = format!("claims that find nothing, {way}, {rounds} rounds of {CALLS} calls");
        report.add(Case::of("w0", title, "call", &names, &[names[3]], &samples));
    }
    Ok(())
}

type Asking = fn(&mut Lab, &str) -> Result<Sample>;

fn in_server(lab: &mut Lab, call: &str) -> Result<Sample> {
    let mut client = lab.connect(&[])?;
    client.batch_execute(&format!(
        "CREATE FUNCTION pg_temp.ask(calls integer) RETURNS void LANGUAGE plpgsql AS \
         $f$ BEGIN FOR i IN 1 .. calls LOOP PERFORM * FROM stepwise.{call}; END LOOP; END $f$"
    ))?;
    let loops = client.prepare("SELECT pg_temp.ask($1)")?;
    client.execute(&loops, &[&100])?;
    let cpu = Cpu::of(&mut client)?;
    let (before, started) = (cpu.micros(), Instant::now());
    client.execute(&loops, &[&CALLS])?;
    Ok(sample(started, before, &cpu))
}

fn over_the_socket(lab: &mut Lab, call: &str) -> Result<Sample> {
    let mut client = lab.connect(&[])?;
    let ask = client.prepare(&format!("SELECT * FROM stepwise.{call}"))?;
    for _ in 0..100 {
        client.query(&ask, &[])?;
    }
    let cpu = Cpu::of(&mut client)?;
    let (before, started) = (cpu.micros(), Instant::now());
    for _ in 0..CALLS {
        client.query(&ask, &[])?;
    }
    Ok(sample(started, before, &cpu))
}

fn sample(started: Instant, cpu_before: Option<f64>, cpu: &Cpu) -> Sample {
    let micros = started.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS);
    let cpu = cpu.micros().zip(cpu_before).map(|(now, before)| ("CPU µs", (now - before) / f64::from(CALLS)));
    let figures = cpu.into_iter().chain([("µs", micros)]).collect();
    Sample { rate: 1e6 / micros, figures }
}

//! W4: one task whose graph is drawn at random: how long it takes to register, to create, to ask about and to draw.
use super::{Workload, in_turn};
use crate::Result;
use crate::cpu::Cpu;
use crate::drain::{self, Sample};
use crate::lab::Lab;
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;
use crate::wire::Json;
use crate::worker::CONTEXT;
use postgres::Client;
use std::time::Instant;

pub const WORKLOAD: Workload = Workload {
    name: "w4",
    about: "a random graph of 1 000 and 10 000 steps: register, create, readiness, picture",
    run,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Register,
    FloorRegister,
    Create,
    FloorCreate,
    Readiness,
    Picture,
}

const ACTS: [(&str, Act); 6] = [
    ("register_template", Act::Register),
    ("floor's rows of a template", Act::FloorRegister),
    ("create_task", Act::Create),
    ("floor's bulk insert", Act::FloorCreate),
    ("get_step_readiness_status", Act::Readiness),
    ("render_task, mermaid", Act::Picture),
];

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    for steps in options.sizes_or(if options.full { &[1000, 10_000, 100_000] } else { &[1000, 10_000] }) {
        let rounds = options.rounds_or(3);
        let names: Vec<&str> = ACTS.iter().map(|act| act.0).collect();
        let mut round = 0;
        let samples = in_turn(rounds, &ACTS, |(_, act)| {
            round += 1;
            one(lab, *act, steps, round)
        })?;
        let title = format!("a random graph of {steps} steps; {rounds} rounds");
        let case = Case::of("w4", title, "step", &names, &[ACTS[1].0, ACTS[3].0], &samples);
        let micros = |name: &str| case.lines.iter().find(|line| line.name == name).map(|line| 1e6 / line.rate.median);
        let over = micros(ACTS[2].0).zip(micros(ACTS[3].0)).map(|(ours, floor)| ours - floor);
        report.add(case);
        println!("  create_task: {:.2} µs per step over the floor", over.unwrap_or(f64::NAN));
    }
    Ok(())
}

/// One act, timed in the session that does it, whose memory is read when it is done.
fn one(lab: &mut Lab, act: Act, steps: usize, round: usize) -> Result<Sample> {
    let mut shape = Shape::scattered(steps);
    let mut client = lab.connect(&[("synchronous_commit", "off"), ("stepwise.notify", "off")])?;
    if act == Act::Register {
        // A template that is there would only be found.
        shape.name = format!("{}_{round}_{}", shape.name, std::process::id());
        let definition = shape.definition().to_string();
        return timed(&mut client, steps, |client| {
            client.query_one("SELECT stepwise.register_template($1)", &[&Json(&definition)]).map(|_| ())
        });
    }
    let schema = if matches!(act, Act::FloorRegister | Act::FloorCreate) { "floor" } else { "stepwise" };
    drain::empty(lab, schema)?;
    let template_id = drain::register(lab, &shape)?;
    lab.control.batch_execute("CHECKPOINT")?;
    let contexts = vec![Json(CONTEXT)];
    let create = "SELECT stepwise.create_tasks(t.name, $2::jsonb[], 'bench') FROM stepwise.templates AS t WHERE t.template_id = $1";
    match act {
        Act::Register => unreachable!("done above"),
        Act::FloorRegister => timed(&mut client, steps, |_| drain::register_floor(lab, &shape, template_id)),
        Act::Create => {
            // The template is read once per session.
            client.query(create, &[&template_id, &contexts])?;
            timed(&mut client, steps, |client| client.query(create, &[&template_id, &contexts]).map(|_| ()))
        }
        Act::FloorCreate => {
            let sql = include_str!("../../floor/create.sql");
            client.query(sql, &[&template_id, &contexts])?;
            timed(&mut client, steps, |client| client.query(sql, &[&template_id, &contexts]).map(|_| ()))
        }
        Act::Readiness | Act::Picture => {
            let task_id: i64 = client.query_one(create, &[&template_id, &contexts])?.get(0);
            let sql = match act {
                Act::Readiness => "SELECT count(*) FROM stepwise.get_step_readiness_status($1)",
                _ => "SELECT length(stepwise.render_task($1, 'mermaid'))",
            };
            client.query(sql, &[&task_id])?;
            timed(&mut client, steps, |client| client.query(sql, &[&task_id]).map(|_| ()))
        }
    }
}

fn timed<E: Into<Box<dyn std::error::Error>>>(
    client: &mut Client,
    steps: usize,
    act: impl FnOnce(&mut Client) -> std::result::Result<(), E>,
) -> Result<Sample> {
    let cpu = Cpu::of(client)?;
    let started = Instant::now();
    act(client).map_err(Into::into)?;
    let seconds = started.elapsed().as_secs_f64();
    let mut figures = vec![("µs", seconds * 1e6 / steps as f64), ("s in all", seconds)];
    figures.extend(cpu.kept_bytes().map(|bytes| ("memory kept B", bytes / steps as f64)));
    Ok(Sample { rate: steps as f64 / seconds, figures })
}

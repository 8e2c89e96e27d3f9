//! W10: tasks created in calls of 1, 100 and 1000, beside the floor's one statement.
use super::{Workload, in_turn};
use crate::Result;
use crate::cpu::Cpu;
use crate::drain::{self, Sample};
use crate::lab::{Lab, Setting};
use crate::meter::{Figures, Meter};
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;
use crate::wire::Json;
use crate::worker::CONTEXT;
use std::time::Instant;

pub const WORKLOAD: Workload =
    Workload { name: "w10", about: "create_tasks: ladder10 in calls of 1, 100 and 1000", run };

const OURS: &str = "create_tasks";
const FLOOR: &str = "floor";
const SETTINGS: &[Setting] = &[("synchronous_commit", "off"), ("stepwise.notify", "off")];

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    let rounds = options.rounds_or(3);
    for batch in options.batches_or(&[1, 100, 1000]) {
        let tasks = options.tasks.unwrap_or(if batch == 1 { 1000 } else { 5000 });
        let samples = in_turn(rounds, &[OURS, FLOOR], |name| create(lab, name, tasks, batch))?;
        let title = format!("ladder10, {batch} per call, synchronous_commit=off; {tasks} tasks, {rounds} rounds");
        report.add(Case::of("w10", title, "task", &[OURS, FLOOR], &[FLOOR], &samples));
        let figure = |name| report.figure(name, "WAL B, no images");
        let ratio = figure(OURS).zip(figure(FLOOR)).map(|(ours, floor)| ours / floor);
        report.bound(format!("w10, {batch} per call: WAL B, no images ÷ floor"), ratio, 1.2);
    }
    Ok(())
}

fn create(lab: &mut Lab, name: &str, tasks: usize, batch: usize) -> Result<Sample> {
    let schema = if name == FLOOR { "floor" } else { "stepwise" };
    drain::fill(lab, schema, &Shape::ladder10(), 1)?;
    let mut client = lab.connect(SETTINGS)?;
    let floor = if name == FLOOR { Some(client.prepare(include_str!("../../floor/create.sql"))?) } else { None };
    let ours = client.prepare("SELECT stepwise.create_tasks('ladder10', $1::jsonb[], 'bench')")?;
    let template_id = drain::register(lab, &Shape::ladder10())?;
    let contexts = vec![Json(CONTEXT); batch];
    let before = Meter::read(lab, schema)?;
    let cpu = Cpu::of(&mut client)?;
    let cpu_before = cpu.micros();
    let started = Instant::now();
    let mut created = 0;
    while created < tasks {
        let rows = match &floor {
            Some(statement) => client.query(statement, &[&template_id, &contexts])?,
            None => client.query(&ours, &[&contexts])?,
        };
        created += rows.len();
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu = cpu.micros().zip(cpu_before).map(|(now, before)| ("CPU µs", (now - before) / created as f64));
    Meter::flush(&mut client)?;
    let mut figures: Figures = cpu.into_iter().collect();
    figures.extend(before.per_unit(lab, schema, created as f64)?);
    check(lab, schema, created + 1)?;
    Ok(Sample { rate: created as f64 / seconds, figures })
}

/// As many tasks, steps and rows of history as were asked for.
fn check(lab: &mut Lab, schema: &str, tasks: usize) -> Result<()> {
    let row = lab.control.query_one(
        &format!(
            "SELECT (SELECT count(*) FROM {schema}.tasks WHERE live_steps = 1), \
                 (SELECT count(*) FROM {schema}.steps WHERE (remaining_parents = 0) = (visible_at IS NOT NULL)), \
                 (SELECT count(*) FROM {schema}.transitions)"
        ),
        &[],
    )?;
    let found: [i64; 3] = [row.get(0), row.get(1), row.get(2)];
    let tasks = tasks as i64;
    match found == [tasks, 10 * tasks, tasks] {
        true => Ok(()),
        false => Err(format!("{schema}: {found:?} tasks, steps, transitions after creating {tasks} tasks").into()),
    }
}

//! W13: W1 for a while, with failures, vacuumed as a site would: whether anything grows or slows down.
use super::Workload;
use crate::Result;
use crate::cpu::Cpu;
use crate::drain::{self, Sample};
use crate::lab::Lab;
use crate::meter::Meter;
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;
use crate::wire::{Json, Uuid};
use crate::worker::RESULT;
use std::time::{Duration, Instant};

pub const WORKLOAD: Workload =
    Workload { name: "w13", about: "a minute of ladders with a tenth of the steps failing (--minutes up to 30)", run };

const PARTS: [&str; 6] = ["part 1", "part 2", "part 3", "part 4", "part 5", "part 6"];
/// Tasks in work at once, purged when they have ended.
const TASKS: usize = 200;

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    let minutes = options.minutes.unwrap_or(if options.full { 30.0 } else { 1.0 });
    drain::empty(lab, "stepwise")?;
    let template_id = drain::register(lab, &Shape::ladder10())?;
    let mut client = lab.connect(&[("synchronous_commit", "off")])?;
    let claim = client.prepare("SELECT receipt FROM stepwise.claim_steps('w', max_steps => 10)")?;
    let complete = client.prepare("SELECT outcome FROM stepwise.complete_steps($1::uuid[], $2::jsonb[])")?;
    let fail = client.prepare(
        "SELECT outcome FROM stepwise.fail_steps($1::uuid[], retry_after => array_fill(interval '0', ARRAY[cardinality($1)]))",
    )?;
    let cpu = Cpu::of(&mut client)?;
    let mut samples = Vec::new();
    for _ in PARTS {
        let (started, before, mut steps, mut turn) = (Instant::now(), cpu.micros(), 0, 0_usize);
        while started.elapsed() < Duration::from_secs_f64(minutes * 60.0 / PARTS.len() as f64) {
            let held: Vec<Uuid> = client.query(&claim, &[])?.iter().map(|row| row.get(0)).collect();
            turn += 1;
            if held.is_empty() || turn.is_multiple_of(1000) {
                lab.control.batch_execute(
                    "SELECT stepwise.purge_tasks(interval '0', 100000, '{complete,error}'); \
                     SELECT stepwise.tick()",
                )?;
                lab.control.batch_execute("VACUUM stepwise.steps")?;
                lab.control.batch_execute("VACUUM stepwise.tasks")?;
                lab.control.batch_execute("VACUUM stepwise.transitions")?;
                let open: i64 =
                    lab.control.query_one("SELECT count(*) FROM stepwise.tasks WHERE finished_at IS NULL", &[])?.get(0);
                drain::create(lab, "stepwise", template_id, TASKS.saturating_sub(open as usize))?;
                continue;
            }
            let (failed, done) = held.split_at(1);
            client.query(&fail, &[&failed])?;
            client.query(&complete, &[&done, &vec![Json(RESULT); done.len()]])?;
            steps += held.len();
        }
        let mut figures = vec![("steps", steps as f64)];
        let spent = cpu.micros().zip(before).map(|(now, before)| (now - before) / steps as f64);
        figures.extend(spent.map(|micros| ("CPU µs", micros)));
        figures.extend(Meter::bytes_per_task(lab, "stepwise", TASKS)?);
        figures.extend(cpu.kept_bytes().map(|bytes| ("memory B", bytes)));
        samples.push(Sample { rate: steps as f64 / started.elapsed().as_secs_f64(), figures });
    }
    let title =
        format!("ladder10, one step in ten failing, 10 per call; {minutes} minutes in six parts, purged and vacuumed");
    report.add(Case::of("w13", title, "step", &PARTS, &[PARTS[0]], &[samples]));
    if let Some(violation) = lab.control.query_opt("SELECT v::text FROM stepwise.verify() AS v LIMIT 1", &[])? {
        return Err(format!("w13: {}", violation.get::<_, String>(0)).into());
    }
    Ok(())
}

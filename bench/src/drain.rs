//! One run of many workloads: tasks of one shape are created, one worker runs them to their end, and the outcome is
//! checked.
use crate::Result;
use crate::cpu::Cpu;
use crate::lab::{Lab, Setting};
use crate::meter::{Figures, Meter};
use crate::shape::Shape;
use crate::wire::Json;
use crate::worker::{CONTEXT, RESULT, System};
use std::time::Instant;

/// One measured run.
pub struct Sample {
    /// Units of work per second.
    pub rate: f64,
    pub figures: Figures,
}

/// Makes the shape known to both sides, under one id, which it returns.
pub fn register(lab: &mut Lab, shape: &Shape) -> Result<i64> {
    let definition = shape.definition().to_string();
    let template_id: i64 =
        lab.control.query_one("SELECT stepwise.register_template($1)", &[&Json(&definition)])?.get(0);
    register_floor(lab, shape, template_id)?;
    lab.control.batch_execute("ANALYZE floor.template_steps; ANALYZE stepwise.template_steps")?;
    Ok(template_id)
}

/// Writes the floor's rows of a template.
pub fn register_floor(lab: &mut Lab, shape: &Shape, template_id: i64) -> Result<()> {
    let array = |ids: &Vec<i32>| format!("{{{}}}", ids.iter().map(i32::to_string).collect::<Vec<_>>().join(","));
    let step_ids: Vec<i32> = (1..=shape.len() as i32).collect();
    let names: Vec<String> = (1..=shape.len()).map(Shape::step_name).collect();
    let parents: Vec<String> = shape.parents.iter().map(array).collect();
    let children: Vec<String> = shape.children().iter().map(array).collect();
    lab.control.execute("DELETE FROM floor.template_steps WHERE template_id = $1", &[&template_id])?;
    lab.control
        .execute(include_str!("../floor/register.sql"), &[&template_id, &step_ids, &names, &parents, &children])?;
    Ok(())
}

/// Empties a side's tables. The extension keeps its rows from being removed by hand; between two runs they are.
pub fn empty(lab: &mut Lab, schema: &str) -> Result<()> {
    lab.control.batch_execute(&format!(
        "BEGIN; SET LOCAL session_replication_role = replica; \
         TRUNCATE {schema}.tasks, {schema}.steps, {schema}.transitions; COMMIT"
    ))?;
    Ok(())
}

/// Creates tasks, in calls of a thousand.
pub fn create(lab: &mut Lab, schema: &str, template_id: i64, tasks: usize) -> Result<()> {
    let create = match schema {
        "floor" => lab.control.prepare(include_str!("../floor/create.sql"))?,
        _ => lab.control.prepare(
            "SELECT stepwise.create_tasks(t.name, $2::jsonb[], 'bench') FROM stepwise.templates AS t \
             WHERE t.template_id = $1",
        )?,
    };
    let mut left = tasks;
    while left > 0 {
        let count = left.min(1000);
        lab.control.execute(&create, &[&template_id, &vec![Json(CONTEXT); count]])?;
        left -= count;
    }
    Ok(())
}

/// Vacuums, analyzes and checkpoints.
pub fn settle(lab: &mut Lab, schema: &str) -> Result<()> {
    // A statement each: neither runs inside a transaction.
    lab.control.batch_execute(&format!("VACUUM (ANALYZE) {schema}.tasks, {schema}.steps, {schema}.transitions"))?;
    lab.control.batch_execute("CHECKPOINT")?;
    Ok(())
}

/// Empties a side's tables and creates tasks in them.
pub fn fill(lab: &mut Lab, schema: &str, shape: &Shape, tasks: usize) -> Result<()> {
    empty(lab, schema)?;
    let template_id = register(lab, shape)?;
    create(lab, schema, template_id, tasks)?;
    settle(lab, schema)
}

/// Adds tasks of ten steps that have ended, as rows, with their history: the quick way to a long past.
pub fn add_finished(lab: &mut Lab, template_id: i64, tasks: usize) -> Result<()> {
    let sql = include_str!("../finished.sql");
    let mut from = 0;
    while from < tasks {
        let to = (from + 100_000).min(tasks);
        let (first, last) = (-(to as i64), -(from as i64) - 1);
        let mut transaction = lab.control.transaction()?;
        transaction.batch_execute("SET LOCAL session_replication_role = replica")?;
        for statement in sql.split(';').filter(|statement| !statement.trim().is_empty()) {
            transaction.execute(statement, &[&template_id, &first, &last])?;
        }
        transaction.commit()?;
        from = to;
    }
    settle(lab, "stepwise")
}

/// Creates the tasks and runs them to their end with one worker.
pub fn run(
    lab: &mut Lab,
    system: System,
    settings: &[Setting],
    shape: &Shape,
    tasks: usize,
    batch: usize,
) -> Result<Sample> {
    run_with(lab, system, settings, shape, tasks, batch, RESULT)
}

/// [`run`] with another result of every step.
pub fn run_with(
    lab: &mut Lab,
    system: System,
    settings: &[Setting],
    shape: &Shape,
    tasks: usize,
    batch: usize,
    result: &'static str,
) -> Result<Sample> {
    let schema = system.schema();
    fill(lab, schema, shape, tasks)?;
    let mut worker = system.worker(lab, settings, batch, result)?;
    let before = Meter::read(lab, schema)?;
    let cpu = Cpu::of(worker.client())?;
    let cpu_before = cpu.micros();
    let started = Instant::now();
    let mut steps = 0;
    loop {
        let claimed = worker.turn()?;
        if claimed == 0 {
            break;
        }
        steps += claimed;
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu = cpu.micros().zip(cpu_before).map(|(now, before)| ("CPU µs", (now - before) / steps as f64));
    Meter::flush(worker.client())?;
    let mut figures: Figures = cpu.into_iter().collect();
    figures.extend(before.per_unit(lab, schema, steps as f64)?);
    figures.extend(Meter::kept_plans(worker.client())?);
    figures.extend(Meter::bytes_per_task(lab, schema, tasks)?);
    check(lab, schema, shape, tasks, steps)?;
    Ok(Sample { rate: steps as f64 / seconds, figures })
}

/// Every task complete, every counter at its end, and as many rows of history as steps and tasks changed state.
pub fn check(lab: &mut Lab, schema: &str, shape: &Shape, tasks: usize, steps: usize) -> Result<()> {
    let count = |lab: &mut Lab, what: &str| -> Result<usize> {
        let row = lab.control.query_one(&format!("SELECT count(*) FROM {schema}.{what}"), &[])?;
        Ok(row.get::<_, i64>(0) as usize)
    };
    let all = shape.len() * tasks;
    let facts = [
        ("steps run", steps, all),
        (
            "complete tasks",
            count(
                lab,
                "tasks WHERE state = 'complete' AND live_steps = 0 AND completed_steps = total_steps \
                 AND started_at IS NOT NULL AND finished_at IS NOT NULL",
            )?,
            tasks,
        ),
        (
            "complete steps",
            count(
                lab,
                "steps WHERE state = 'complete' AND visible_at IS NULL AND attempts = 1 AND remaining_parents = 0 \
                 AND results IS NOT NULL AND finished_at IS NOT NULL AND worker IS NOT NULL",
            )?,
            all,
        ),
        // Each step was claimed and completed; each task created, started and completed.
        ("transitions", count(lab, "transitions")?, 2 * all + 3 * tasks),
    ];
    for (what, found, expected) in facts {
        if found != expected {
            return Err(format!("{schema}: {found} {what} where {expected} were expected").into());
        }
    }
    Ok(())
}

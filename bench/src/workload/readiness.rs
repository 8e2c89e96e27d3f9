//! W5: readiness and context of tasks half done, beside SQL that recomputes them from edges and history.
use super::{Workload, in_turn};
use crate::Result;
use crate::cpu::Cpu;
use crate::drain::{self, Sample};
use crate::lab::Lab;
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;
use crate::worker::System;
use std::time::{Duration, Instant};

pub const WORKLOAD: Workload =
    Workload { name: "w5", about: "readiness and context: one task of 10 to 10 000 steps, 1 000 tasks of ten", run };

/// The contenders, each with its query over the tasks `$1`.
const READINESS: &[(&str, &str)] = &[
    ("readiness", "SELECT * FROM stepwise.get_step_readiness_status_batch($1::bigint[])"),
    ("reference", include_str!("../../reference/readiness.sql")),
];
const CONTEXT: &[(&str, &str)] = &[
    ("execution context", "SELECT * FROM stepwise.get_task_execution_contexts_batch($1::bigint[])"),
    (
        "reference",
        concat!(
            "SELECT task_id, count(*) AS total_steps, count(*) FILTER (WHERE current_state = 'pending') AS pending_steps, \
                 count(*) FILTER (WHERE in_process) AS in_progress_steps, \
                 count(*) FILTER (WHERE processed) AS completed_steps, \
                 count(*) FILTER (WHERE current_state = 'error') AS failed_steps, \
                 count(*) FILTER (WHERE ready_for_execution) AS ready_steps, \
                 count(*) FILTER (WHERE processed) * 100.0 / count(*) AS completion_percentage FROM (",
            include_str!("../../reference/readiness.sql"),
            ") AS r GROUP BY task_id ORDER BY task_id"
        ),
    ),
];
/// How long a contender repeats its query in one round.
const SPAN: Duration = Duration::from_millis(300);

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    let sizes = options.sizes_or(&[10, 100, 1000, 10_000]);
    let single = sizes.into_iter().map(|steps| (steps, 1, format!("one task of {steps} steps")));
    for (steps, tasks, title) in single.chain([(10, 1000, "1000 tasks of 10 steps".to_owned())]) {
        prepare(lab, &Shape::layered(steps), tasks)?;
        let rounds = options.rounds_or(3);
        for contenders in [READINESS, CONTEXT] {
            let names: Vec<&str> = contenders.iter().map(|contender| contender.0).collect();
            let samples = in_turn(rounds, contenders, |contender| ask(lab, contender.1))?;
            let title = format!("{} of {title}, half done; {rounds} rounds", names[0]);
            report.add(Case::of("w5", title, "call", &names, &["reference"], &samples));
        }
    }
    Ok(())
}

/// Tasks with half of their steps done, in both layouts, which must agree.
fn prepare(lab: &mut Lab, shape: &Shape, tasks: usize) -> Result<()> {
    drain::fill(lab, "stepwise", shape, tasks)?;
    let mut worker = System::Separate.worker(lab, &[("stepwise.notify", "off")], 5)?;
    let mut done = 0;
    while done * 2 < shape.len() * tasks {
        done += worker.turn()?;
    }
    lab.control.batch_execute(include_str!("../../reference/schema.sql"))?;
    lab.control.batch_execute("ANALYZE")?;
    let ids = task_ids(lab)?;
    let columns = "task_id, step_id, current_state, dependencies_satisfied, retry_eligible, ready_for_execution, \
                   total_parents, completed_parents, attempts, retry_limit, processed, in_process";
    let [ours, reference] = [0, 1].map(|at| READINESS[at].1.trim_end());
    let sql = format!(
        "SELECT count(*) FROM ((SELECT {columns} FROM ({ours}) AS a) EXCEPT (SELECT {columns} FROM ({reference}) AS b)) AS d"
    );
    match lab.control.query_one(&sql, &[&ids])?.get::<_, i64>(0) {
        0 => Ok(()),
        steps => Err(format!("the readiness of {steps} steps differs from the reference's").into()),
    }
}

fn task_ids(lab: &mut Lab) -> Result<Vec<i64>> {
    let rows = lab.control.query("SELECT task_id FROM stepwise.tasks ORDER BY task_id", &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn ask(lab: &mut Lab, sql: &str) -> Result<Sample> {
    let ids = task_ids(lab)?;
    let mut client = lab.connect(&[("jit", "off")])?;
    let statement = client.prepare(sql)?;
    // Plans and caches.
    client.query(&statement, &[&ids])?;
    let cpu = Cpu::of(&mut client)?;
    let cpu_before = cpu.micros();
    let started = Instant::now();
    let mut calls = 0.0;
    while calls < 1.0 || started.elapsed() < SPAN {
        client.query(&statement, &[&ids])?;
        calls += 1.0;
    }
    let rate = calls / started.elapsed().as_secs_f64();
    let cpu = cpu.micros().zip(cpu_before).map(|(now, before)| ("CPU µs", (now - before) / calls));
    Ok(Sample { rate, figures: cpu.into_iter().collect() })
}

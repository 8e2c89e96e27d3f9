//! W5: readiness and context of tasks half done, beside SQL that recomputes them from edges and history.
use super::{Workload, in_turn};
use crate::Result;
use crate::cpu::Cpu;
use crate::drain::{self, Sample};
use crate::lab::{Lab, Setting};
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;
use crate::worker::{RESULT, System};
use std::time::{Duration, Instant};

pub const WORKLOAD: Workload =
    Workload { name: "w5", about: "readiness and context: one task of 10 to 10 000 steps, 1 000 tasks of ten", run };

const ONE: &str = "$1::bigint";
const MANY: &str = "$1::bigint[]";
/// A reader and what it is held against, as functions of a task and of an array of tasks.
struct Subject {
    name: &'static str,
    one: [&'static str; 2],
    many: [&'static str; 2],
}

const SUBJECTS: [Subject; 2] = [
    Subject {
        name: "readiness",
        one: ["stepwise.get_step_readiness_status", "reference.readiness"],
        many: ["stepwise.get_step_readiness_status_batch", "reference.readiness_batch"],
    },
    Subject {
        name: "execution context",
        one: ["stepwise.get_task_execution_context", "reference.context"],
        many: ["stepwise.get_task_execution_contexts_batch", "reference.context_batch"],
    },
];
/// The reference keeps one plan, or is planned anew at each call: which of them is faster depends on size and tables.
const REFERENCES: [(&str, &str); 2] =
    [("reference", "force_generic_plan"), ("replanned reference", "force_custom_plan")];
/// How long a contender repeats its query in one round.
const SPAN: Duration = Duration::from_millis(300);

/// Tasks of so many steps; every `stride`th one is asked about.
struct Tasks {
    steps: usize,
    count: usize,
    stride: usize,
    title: String,
}

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    let sizes = options.sizes_or(&[10, 100, 1000, 10_000]);
    let single = |steps| Tasks { steps, count: 1, stride: 1, title: format!("one task of {steps} steps") };
    let batch =
        |stride, of: &str| Tasks { steps: 10, count: 1000, stride, title: format!("1000 tasks of 10 steps{of}") };
    let batches = [batch(1, ""), batch(2, ", every other one of 2000")];
    for tasks in sizes.into_iter().map(single).chain(batches) {
        let ids = prepare(lab, &tasks)?;
        let rounds = options.rounds_or(3);
        for subject in &SUBJECTS {
            for (in_server, way, ask) in
                [(false, "over the socket", ask as Asking), (true, "in the server", ask_in_server)]
            {
                let [ours, reference] = if tasks.count == 1 { subject.one } else { subject.many };
                let mut contenders = vec![(subject.name, ours, "auto")];
                contenders.extend(REFERENCES.map(|(name, plans)| (name, reference, plans)));
                let names: Vec<&str> = contenders.iter().map(|contender| contender.0).collect();
                let samples = in_turn(rounds, &contenders, |(_, function, plans)| {
                    ask(lab, function, &ids, &[("jit", "off"), ("plan_cache_mode", plans)])
                })?;
                let title = format!("{} of {}, half done; {way}, {rounds} rounds", subject.name, tasks.title);
                let mut case = Case::of("w5", title, "call", &names, &REFERENCES.map(|(name, _)| name), &samples);
                if let Some(line) = case.lines.first_mut().filter(|_| in_server) {
                    line.target = target(subject.name, &tasks);
                }
                report.add(case);
            }
        }
    }
    Ok(())
}

/// What the ratios in the server should reach.
fn target(subject: &str, tasks: &Tasks) -> Option<f64> {
    match (subject, tasks.steps, tasks.count) {
        ("readiness", 10, 1) => Some(3.0),
        ("readiness", 1000, 1) | ("readiness", 10, 1000) => Some(5.0),
        ("execution context", 10, 1) => Some(4.0),
        ("execution context", 1000, 1) => Some(10.0),
        _ => None,
    }
}

/// Tasks with half of their steps done, in both layouts, which must agree; the ids to ask for.
fn prepare(lab: &mut Lab, tasks: &Tasks) -> Result<Vec<i64>> {
    let (shape, count) = (Shape::layered(tasks.steps), tasks.count * tasks.stride);
    drain::fill(lab, "stepwise", &shape, count)?;
    let mut worker = System::Separate.worker(lab, &[("stepwise.notify", "off")], 5, RESULT)?;
    let mut done = 0;
    while done * 2 < shape.len() * count {
        done += worker.turn()?;
    }
    lab.control.batch_execute(include_str!("../../reference/schema.sql"))?;
    lab.control.batch_execute(&reference_functions())?;
    for schema in ["stepwise", "reference"] {
        lab.control.batch_execute(&format!("VACUUM (ANALYZE) {schema}.steps"))?;
        lab.control.batch_execute(&format!("VACUUM (ANALYZE) {schema}.transitions"))?;
    }
    lab.control.batch_execute("VACUUM (ANALYZE) stepwise.tasks")?;
    lab.control.batch_execute("VACUUM (ANALYZE) reference.edges")?;
    let rows = lab.control.query("SELECT task_id FROM stepwise.tasks ORDER BY task_id", &[])?;
    let ids: Vec<i64> = rows.iter().step_by(tasks.stride).map(|row| row.get(0)).collect();
    let columns = "task_id, step_id, current_state, dependencies_satisfied, retry_eligible, ready_for_execution, \
                   total_parents, completed_parents, attempts, retry_limit, processed, in_process";
    let [ours, reference] = SUBJECTS[0].many;
    let sql = format!(
        "SELECT count(*) FROM ((SELECT {columns} FROM {ours}($1)) EXCEPT (SELECT {columns} FROM {reference}($1))) AS d"
    );
    match lab.control.query_one(&sql, &[&ids])?.get::<_, i64>(0) {
        0 => Ok(ids),
        steps => Err(format!("the readiness of {steps} steps differs from the reference's").into()),
    }
}

/// The reference's SQL as functions that the planner puts into the query that calls them, so that they cost no call; for
/// one task with a plain equality, which plans better than an array of one.
fn reference_functions() -> String {
    let (readiness, context) =
        (include_str!("../../reference/readiness.sql"), include_str!("../../reference/context.sql"));
    let mut sql = String::new();
    for (suffix, argument, condition) in [("", "bigint", "= $1"), ("_batch", "bigint[]", "= ANY ($1)")] {
        let readiness = readiness.replace("= ANY ($1)", condition);
        let context = context.replace("reference.readiness_batch", &format!("reference.readiness{suffix}"));
        for (name, columns, body) in
            [("readiness", READINESS_COLUMNS, readiness), ("context", CONTEXT_COLUMNS, context)]
        {
            sql.push_str(&format!(
                "CREATE FUNCTION reference.{name}{suffix}({argument}) RETURNS TABLE ({columns}) LANGUAGE sql STABLE \
                 AS $f$ {body} $f$;\n"
            ));
        }
    }
    sql
}

const READINESS_COLUMNS: &str = "task_id bigint, step_id integer, name text, current_state text, \
    dependencies_satisfied boolean, retry_eligible boolean, ready_for_execution boolean, last_failure_at timestamptz, \
    next_retry_at timestamptz, total_parents bigint, completed_parents bigint, attempts integer, retry_limit integer, \
    backoff_request_seconds integer, last_attempted_at timestamptz, processed boolean, in_process boolean";
const CONTEXT_COLUMNS: &str = "task_id bigint, total_steps bigint, pending_steps bigint, in_progress_steps bigint, \
    completed_steps bigint, failed_steps bigint, ready_steps bigint, completion_percentage numeric";

type Asking = fn(&mut Lab, &str, &[i64], &[Setting]) -> Result<Sample>;

/// Over the socket: a prepared statement, its rows sent.
fn ask(lab: &mut Lab, function: &str, ids: &[i64], settings: &[Setting]) -> Result<Sample> {
    let mut client = lab.connect(settings)?;
    let argument = if function.ends_with("_batch") { MANY } else { ONE };
    let statement = client.prepare(&format!("SELECT * FROM {function}({argument})"))?;
    repeat(&mut client, 1.0, |client| {
        match argument {
            ONE => client.query(&statement, &[&ids[0]])?,
            _ => client.query(&statement, &[&ids])?,
        };
        Ok(())
    })
}

/// In the server: a loop in one call, whose rows are computed with all their columns and copied, but not sent.
fn ask_in_server(lab: &mut Lab, function: &str, ids: &[i64], settings: &[Setting]) -> Result<Sample> {
    let mut client = lab.connect(settings)?;
    let argument = if function.ends_with("_batch") { MANY } else { ONE };
    client.batch_execute(&format!(
        "CREATE FUNCTION pg_temp.ask({kind}, calls integer) RETURNS void LANGUAGE plpgsql AS \
         $f$ BEGIN FOR i IN 1 .. calls LOOP PERFORM * FROM {function}($1); END LOOP; END $f$",
        kind = &argument["$1::".len()..],
    ))?;
    let statement = client.prepare(&format!("SELECT pg_temp.ask({argument}, $2)"))?;
    let calls = (100_i32 / ids.len() as i32).max(5);
    repeat(&mut client, f64::from(calls), |client| {
        match argument {
            ONE => client.query(&statement, &[&ids[0], &calls])?,
            _ => client.query(&statement, &[&ids, &calls])?,
        };
        Ok(())
    })
}

/// Repeats what makes `calls` calls for a while, after once for plans and caches.
fn repeat(
    client: &mut postgres::Client,
    calls: f64,
    mut ask: impl FnMut(&mut postgres::Client) -> Result<()>,
) -> Result<Sample> {
    ask(client)?;
    let cpu = Cpu::of(client)?;
    let cpu_before = cpu.micros();
    let started = Instant::now();
    let mut done = 0.0;
    while done < 1.0 || started.elapsed() < SPAN {
        ask(client)?;
        done += calls;
    }
    let rate = done / started.elapsed().as_secs_f64();
    let cpu = cpu.micros().zip(cpu_before).map(|(now, before)| ("CPU µs", (now - before) / done));
    Ok(Sample { rate, figures: cpu.into_iter().collect() })
}

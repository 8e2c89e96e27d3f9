//! How many statements, and buffers, a call takes, where pg_stat_statements is loaded.
use crate::Result;
use crate::drain;
use crate::lab::{Lab, Setting};
use crate::meter::Figures;
use crate::shape::Shape;
use crate::worker::{RESULT, System, Worker};

/// The turns after which everything is planned and cached.
const WARM: usize = 10;
const TURNS: usize = 40;

/// Statements inside a call (its own not counted) and buffers that it touched, in the middle of a run.
pub fn per_call(
    lab: &mut Lab,
    system: System,
    settings: &[Setting],
    shape: &Shape,
    tasks: usize,
    batch: usize,
) -> Result<Figures> {
    if !lab.statements {
        return Ok(Vec::new());
    }
    drain::fill(lab, system.schema(), shape, tasks)?;
    let mut worker = system.worker(lab, settings, batch, RESULT)?;
    of_turns(lab, worker.as_mut(), system.schema(), system.calls())
}

/// The same of a worker that has tasks enough, with `calls` calls in one turn.
pub fn of_turns(lab: &mut Lab, worker: &mut dyn Worker, schema: &str, calls: usize) -> Result<Figures> {
    if !lab.statements {
        return Ok(Vec::new());
    }
    for _ in 0..WARM {
        worker.turn()?;
    }
    worker
        .client()
        .batch_execute("SET pg_stat_statements.track_utility = off; SET pg_stat_statements.track = 'all'")?;
    lab.control.execute("SELECT public.pg_stat_statements_reset()", &[])?;
    let mut turns = 0;
    while turns < TURNS && worker.turn()? > 0 {
        turns += 1;
    }
    let row = lab.control.query_one(
        "SELECT coalesce(sum(calls) FILTER (WHERE NOT toplevel), 0)::float8, \
             coalesce(sum(shared_blks_hit + shared_blks_read) FILTER (WHERE toplevel), 0)::float8, \
             sum(shared_blks_hit + shared_blks_read) FILTER (WHERE claims)::float8 / sum(calls) FILTER (WHERE claims)::float8 \
         FROM public.pg_stat_statements AS p JOIN pg_database AS d ON d.oid = p.dbid \
             CROSS JOIN LATERAL (SELECT toplevel AND query LIKE '%.claim_steps(%' AS claims) AS c \
         WHERE d.datname = current_database() AND query LIKE '%' || ($1::text) || '.%'",
        &[&schema],
    )?;
    let calls = (turns * calls) as f64;
    let mut figures =
        vec![("stmts/call", row.get::<_, f64>(0) / calls), ("buffers/call", row.get::<_, f64>(1) / calls)];
    figures.extend(row.get::<_, Option<f64>>(2).map(|buffers| ("buffers/claim", buffers)));
    Ok(figures)
}

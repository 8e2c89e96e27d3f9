//! Several workers at once on the tasks of one run.
use crate::Result;
use crate::drain::{self, Sample};
use crate::lab::{Lab, Setting};
use crate::meter::Meter;
use crate::shape::Shape;
use crate::worker::{RESULT, System};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Creates tasks and has `workers` connections run them to their end. An error of any of them, a deadlock among them, ends
/// the run.
pub fn run(
    lab: &mut Lab,
    system: System,
    settings: &[Setting],
    shape: &Shape,
    tasks: usize,
    batch: usize,
    workers: usize,
) -> Result<Sample> {
    let schema = system.schema();
    drain::fill(lab, schema, shape, tasks)?;
    let all = shape.len() * tasks;
    let deadlocks = |lab: &mut Lab| -> Result<i64> {
        let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        Ok(lab.control.query_one(sql, &[])?.get(0))
    };
    let (deadlocks_before, before) = (deadlocks(lab)?, Meter::read(lab, schema)?);
    let (claimed, together) = (AtomicUsize::new(0), Barrier::new(workers + 1));
    let connections: Vec<_> =
        (0..workers).map(|_| system.worker(lab, settings, batch, RESULT)).collect::<Result<_>>()?;
    let seconds = std::thread::scope(|scope| -> Result<f64> {
        let threads: Vec<_> = connections
            .into_iter()
            .map(|mut worker| {
                let (claimed, together) = (&claimed, &together);
                scope.spawn(move || -> std::result::Result<(), String> {
                    together.wait();
                    loop {
                        let count = worker.turn().map_err(|error| crate::lab::explain(error.as_ref()))?;
                        if count == 0 && claimed.load(Ordering::Relaxed) >= all {
                            return Meter::flush(worker.client()).map_err(|error| error.to_string());
                        }
                        if count == 0 {
                            // The others hold what the rest waits for.
                            std::thread::sleep(Duration::from_micros(200));
                        }
                        claimed.fetch_add(count, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        together.wait();
        let started = Instant::now();
        for thread in threads {
            thread.join().map_err(|_| "a worker panicked")??;
        }
        Ok(started.elapsed().as_secs_f64())
    })?;
    let mut figures = before.per_unit(lab, schema, all as f64)?;
    figures.push(("deadlocks", (deadlocks(lab)? - deadlocks_before) as f64));
    drain::check(lab, schema, shape, tasks, claimed.into_inner())?;
    Ok(Sample { rate: all as f64 / seconds, figures })
}

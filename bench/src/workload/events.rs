//! W12: what announcing costs on the ladder of W1, by level and by the number of listeners, and how long after a COMMIT a
//! worker that waits for it has claimed the step.
use super::{Workload, in_turn};
use crate::Result;
use crate::drain::{self, Sample};
use crate::lab::{Lab, Setting};
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;
use crate::worker::System;
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub const WORKLOAD: Workload =
    Workload { name: "w12", about: "notify = off, ready, task, step with 1 and 50 listeners; wake-up latency", run };

const OFF: &str = "notify=off";
const LEVELS: [(&str, Setting); 4] = [
    (OFF, ("stepwise.notify", "off")),
    ("notify=ready", ("stepwise.notify", "ready")),
    ("notify=task", ("stepwise.notify", "task")),
    ("notify=step", ("stepwise.notify", "step")),
];
const LISTENERS: [usize; 2] = [1, 50];
const WAKE_UPS: usize = 300;

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    let (rounds, tasks) = (options.rounds_or(3), options.tasks.unwrap_or(300));
    for commit in
        ["off", "on"].into_iter().filter(|commit| options.commit.as_deref().is_none_or(|only| only == *commit))
    {
        for batch in options.batches_or(&[10]) {
            for listeners in LISTENERS {
                let samples = with_listeners(lab, listeners, |lab| {
                    in_turn(rounds, &LEVELS, |(_, level)| {
                        let settings = [("synchronous_commit", commit), *level];
                        drain::run(lab, System::Separate, &settings, &Shape::ladder10(), tasks, batch)
                    })
                })?;
                let title = format!(
                    "ladder10, batch {batch}, synchronous_commit={commit}, listeners: {listeners}; {tasks} tasks, {rounds} rounds"
                );
                let names: Vec<&str> = LEVELS.iter().map(|(name, _)| *name).collect();
                let mut case = Case::of("w12", title, "step", &names, &[OFF], &samples);
                for line in case.lines.iter_mut().filter(|line| line.name == "notify=ready") {
                    line.target = Some(0.9);
                }
                report.add(case);
            }
        }
    }
    let samples = in_turn(rounds, &LISTENERS, |listeners| with_listeners(lab, *listeners, wake_ups))?;
    let title = format!(
        "from COMMIT to the claim of a worker that waits, listeners beside it; {WAKE_UPS} wake-ups, {rounds} rounds"
    );
    report.add(Case::of("w12", title, "wake-up", &["1 listener", "50 listeners"], &[], &samples));
    Ok(())
}

/// Runs `body` while so many sessions listen, and take what they hear.
fn with_listeners<T>(lab: &mut Lab, count: usize, body: impl FnOnce(&mut Lab) -> Result<T>) -> Result<T> {
    let mut clients =
        (0..count).map(|_| listening(lab, &["ready", "task", "step"])).collect::<Result<Vec<Client>>>()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for client in &mut clients {
                    while let Ok(Some(_)) = client.notifications().iter().next() {}
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        let result = body(lab);
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn listening(lab: &Lab, channels: &[&str]) -> Result<Client> {
    let mut client = lab.connect(&[])?;
    for channel in channels {
        client.batch_execute(&format!("LISTEN stepwise_{channel}"))?;
    }
    Ok(client)
}

/// One step at a time becomes ready, and one worker waits for it.
fn wake_ups(lab: &mut Lab) -> Result<Sample> {
    drain::fill(lab, "stepwise", &Shape::chain(1), 0)?;
    let mut worker = listening(lab, &["ready"])?;
    let mut client = lab.connect(&[("stepwise.notify", "ready")])?;
    let name: String =
        client.query_one("SELECT name FROM stepwise.templates ORDER BY template_id DESC LIMIT 1", &[])?.get(0);
    let (claimed, claims) = mpsc::channel::<Instant>();
    let started = Instant::now();
    let mut waits: Vec<f64> = thread::scope(|scope| -> Result<Vec<f64>> {
        scope.spawn(move || {
            let (Ok(claim), mut made) = (worker.prepare("SELECT receipt::text FROM stepwise.claim_steps('w1')"), 0)
            else {
                return;
            };
            while made < WAKE_UPS {
                let heard = worker.notifications().timeout_iter(Duration::from_secs(10)).next();
                match heard.and_then(|_| worker.query(&claim, &[])) {
                    Ok(steps) if steps.is_empty() => {}
                    Ok(_) if claimed.send(Instant::now()).is_ok() => made += 1,
                    _ => return,
                }
            }
        });
        (0..WAKE_UPS)
            .map(|_| {
                client.batch_execute("BEGIN")?;
                client.query("SELECT stepwise.create_task($1)", &[&name])?;
                let commit = Instant::now();
                client.batch_execute("COMMIT")?;
                let claim = claims.recv_timeout(Duration::from_secs(10)).map_err(|_| "the worker was not woken")?;
                Ok(claim.saturating_duration_since(commit).as_secs_f64() * 1e6)
            })
            .collect()
    })?;
    let seconds = started.elapsed().as_secs_f64();
    waits.sort_by(f64::total_cmp);
    let figures = vec![("median µs", waits[waits.len() / 2]), ("99 % µs", waits[waits.len() * 99 / 100])];
    Ok(Sample { rate: waits.len() as f64 / seconds, figures })
}

//! In the caller's session, in its transaction: claim what is ready, run it, report, until nothing is left to do here.
use super::handler;
use crate::engine::access::Level;
use crate::engine::receipt;
use crate::engine::time::{Span, Timestamp};
use crate::pg::array::array;
use crate::pg::catalog;
use crate::pg::spi::{self, Statement};
use crate::pg::time;
use crate::pg::value::param;
use crate::pg::wait;
use crate::store::access::command;
use crate::store::claim::{self, Claimed, Request};
use crate::store::claimable::Source;
use crate::store::error::StoreError;
use crate::store::operate;
use crate::store::report::{self, Outcome, Report, Verdict};
use crate::store::unreported::Batch;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Steps claimed at once: their handlers run one after the other, so more would only lock more.
const BATCH: usize = 100;

/// What a run has done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    pub executed: i32,
    pub completed: i32,
    pub failed: i32,
}

/// How long a run may go on.
#[derive(Clone, Copy)]
pub struct Patience {
    until: Option<Instant>,
    /// Whether to wait for backoffs, delays and leases of others to end.
    pub wait: bool,
}

impl Patience {
    /// `seconds`: of the wall clock; `None`: until there is nothing left to do.
    pub fn new(seconds: Option<f64>, wait: bool) -> Patience {
        let most = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Patience { until: most.and_then(|most| Instant::now().checked_add(most)), wait }
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// The time left, at most `most`.
    fn cap(&self, most: Duration) -> Duration {
        self.until.map_or(most, |until| most.min(until.saturating_duration_since(Instant::now())))
    }
}

static NEXT_OF_TASK: Statement = Statement::write(
    "SELECT min(s.visible_at) FROM stepwise.steps s \
     JOIN stepwise.template_steps r ON r.template_id = s.template_id AND r.step_id = s.step_id \
     JOIN stepwise.queues q ON q.queue_id = s.queue_id \
     WHERE s.task_id = $1 AND s.visible_at < 'infinity' AND (r.in_database OR r.kind = 'wait') AND NOT q.paused \
         AND s.step_id <> ALL ($2)",
);

/// One call: what it runs, for how long, and what has come of it.
struct Run<'a> {
    source: Source<'a>,
    worker: &'a str,
    most: Option<usize>,
    patience: Patience,
    done: Done,
    /// Steps that their own handlers have ended or given back. This call runs none of them again: it might not end.
    settled: HashSet<(i64, i32)>,
}

/// As the owner of the tables, as a worker's calls run.
pub fn as_engine<R>(body: impl FnOnce() -> R) -> R {
    catalog::as_owner_of(catalog::incarnation(), body)
}

/// Runs the steps of one task that have SQL handlers.
pub fn run_task(task_id: i64, patience: Patience) -> Result<Done, StoreError> {
    catalog::refuse_on_standby(c"stepwise.run_task()");
    command(Level::Worker, || spi::session(|spi| operate::task(spi, task_id).map(|_| ())))?;
    let mut run = Run::new(Source::Task(task_id), "run_task", None, patience);
    loop {
        let goes_on = run.rounds();
        if patience.is_over() || !patience.wait || !goes_on {
            break;
        }
        let settled: Vec<i32> = run.settled.iter().map(|&(_, step_id)| step_id).collect();
        let next = command(Level::Worker, || {
            spi::session(|spi| NEXT_OF_TASK.run(spi, &[param(task_id), array(&settled)]).first()?.get(1))
        });
        match next {
            Some(next) => wait::sleep(patience.cap(until(next))),
            None => break,
        }
    }
    Ok(run.done)
}

/// From now until then, but a moment at least: a step whose time is over may be held by another session, or by a limit.
fn until(then: Timestamp) -> Duration {
    let Span(micros) = then.since(time::now());
    Duration::from_micros(micros.max(0) as u64).max(Duration::from_millis(20))
}

/// Runs at most `most` steps of a queue, or of all of them, that have SQL handlers.
pub fn run_steps(queues: Option<&[String]>, most: usize) -> Done {
    catalog::refuse_on_standby(c"stepwise.run_steps()");
    let source = Source::InDatabase { queues, role: None };
    let mut run = Run::new(source, "run_steps", Some(most), Patience::new(None, false));
    run.rounds();
    run.done
}

/// Gives steps back: those of them that are still held.
fn give_back(receipts: impl Iterator<Item = [u8; 16]>) {
    for receipt in receipts {
        report::release(receipt);
    }
}

impl<'a> Run<'a> {
    fn new(source: Source<'a>, worker: &'a str, most: Option<usize>, patience: Patience) -> Run<'a> {
        Run { source, worker, most, patience, done: Done::default(), settled: HashSet::new() }
    }

    fn claim(&self) -> Claimed {
        let max_steps = self.most.map_or(BATCH, |most| BATCH.min(most - self.done.executed as usize));
        let request = Request { worker: self.worker, source: self.source, max_steps, lease: None, grace: Span(0) };
        command(Level::Worker, || claim::claim(&request))
    }

    /// Claims, runs what it got and reports, over and over, until there is nothing to get. Only the handlers run as the
    /// caller. Whether another round may find more: not where this one met nothing but settled steps.
    fn rounds(&mut self) -> bool {
        let before = self.done.executed;
        // Claimed again though it is settled: kept until the end, so that no other claim finds it.
        let mut kept = Vec::new();
        let batch = Batch::new();
        let mut claimed = self.claim();
        loop {
            let Claimed { steps, injected } = claimed;
            self.done.executed += injected as i32;
            self.done.failed += injected as i32;
            if steps.is_empty() && injected == 0 {
                break;
            }
            let mut reports = Vec::with_capacity(steps.len());
            let mut rest = steps.iter();
            for step in rest.by_ref() {
                if self.settled.contains(&(step.task_id, step.step_id)) {
                    kept.push(step.receipt);
                    continue;
                }
                // A handler before it may have decided it.
                if !report::is_held(step.receipt) {
                    continue;
                }
                batch.begin();
                let mut report = handler::run(step, || !batch.is_overtaken());
                if report.is_none() {
                    as_engine(|| self.report(&reports));
                    reports.clear();
                    batch.reported();
                    report = handler::run(step, || true);
                }
                reports.extend(report);
                batch.returned(step.task_id, step.step_id);
                self.done.executed += 1;
                if self.patience.is_over() {
                    break;
                }
            }
            // What was claimed may be reported, whatever a handler has done to its role, or others to its rights.
            as_engine(|| {
                self.report(&reports);
                batch.reported();
                give_back(rest.map(|step| step.receipt));
            });
            let is_over = self.patience.is_over() || self.most.is_some_and(|most| self.done.executed as usize >= most);
            if is_over {
                break;
            }
            claimed = self.claim();
        }
        let goes_on = kept.is_empty() || self.done.executed > before;
        as_engine(|| give_back(kept.into_iter()));
        goes_on
    }

    /// Reports what handlers have come to, and counts it. A handler may have decided its step itself, by a change of the
    /// step or of its task: then its word counts, and what it returned does not.
    fn report(&mut self, reports: &[Report]) {
        for (report, outcome) in reports.iter().zip(report::report(reports)) {
            match (outcome, &report.verdict) {
                (Outcome::Stale | Outcome::NotFound, _) => {
                    let decided = receipt::decode(report.receipt);
                    self.settled.extend(decided.map(|receipt| (receipt.task_id, receipt.step_id)));
                }
                (_, Verdict::Complete { .. }) => self.done.completed += 1,
                (_, Verdict::Fail { .. }) => self.done.failed += 1,
            }
        }
    }
}

//! In the caller's session, in its transaction: claim what is ready, run it, report, until nothing is left to do here.
use super::handler;
use crate::engine::access::Level;
use crate::engine::time::{Span, Timestamp};
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
use crate::store::report::{self, Outcome, Verdict};
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
     WHERE s.task_id = $1 AND s.visible_at < 'infinity' AND (r.in_database OR r.kind = 'wait') AND NOT q.paused",
);

/// As the owner of the tables, as a worker's calls run.
pub fn as_engine<R>(body: impl FnOnce() -> R) -> R {
    catalog::as_owner_of(catalog::incarnation(), body)
}

/// Runs the steps of one task that have SQL handlers.
pub fn run_task(task_id: i64, patience: Patience) -> Result<Done, StoreError> {
    catalog::refuse_on_standby(c"stepwise.run_task()");
    command(Level::Worker, || spi::session(|spi| operate::task(spi, task_id).map(|_| ())))?;
    let mut done = Done::default();
    loop {
        rounds(Source::Task(task_id), "run_task", None, patience, &mut done);
        if patience.is_over() || !patience.wait {
            break;
        }
        let next =
            command(Level::Worker, || spi::session(|spi| NEXT_OF_TASK.run(spi, &[param(task_id)]).first()?.get(1)));
        match next {
            Some(next) => wait::sleep(patience.cap(until(next))),
            None => break,
        }
    }
    Ok(done)
}

/// From now until then, but a moment at least: a step whose time is over may be held by another session, or by a limit.
fn until(then: Timestamp) -> Duration {
    let Span(micros) = then.since(time::now());
    Duration::from_micros(micros.max(0) as u64).max(Duration::from_millis(20))
}

/// Runs at most `most` steps of a queue, or of all of them, that have SQL handlers.
pub fn run_steps(queues: Option<&[String]>, most: usize) -> Done {
    catalog::refuse_on_standby(c"stepwise.run_steps()");
    let mut done = Done::default();
    let source = Source::InDatabase { queues, role: None };
    rounds(source, "run_steps", Some(most), Patience::new(None, false), &mut done);
    done
}

/// Claims, runs what it got and reports, over and over, until there is nothing to get. Only the handlers run as the
/// caller.
fn rounds(source: Source, worker: &str, most: Option<usize>, patience: Patience, done: &mut Done) {
    let claim = |executed: i32| {
        let max_steps = most.map_or(BATCH, |most| BATCH.min(most - executed as usize));
        claim::claim(&Request { worker, source, max_steps, lease: None, grace: Span(0) })
    };
    let mut claimed = command(Level::Worker, || claim(done.executed));
    loop {
        let Claimed { steps, injected } = claimed;
        done.executed += injected as i32;
        done.failed += injected as i32;
        if steps.is_empty() && injected == 0 {
            break;
        }
        let mut reports = Vec::with_capacity(steps.len());
        let mut rest = steps.iter();
        for step in rest.by_ref() {
            reports.push(handler::run(step));
            done.executed += 1;
            match reports.last().map(|report| &report.verdict) {
                Some(Verdict::Fail { .. }) => done.failed += 1,
                _ => done.completed += 1,
            }
            if patience.is_over() {
                break;
            }
        }
        // What was claimed may be reported, whatever a handler has done to its role, or others to its rights.
        as_engine(|| {
            // A handler may have cancelled or resolved a step itself: then its word counts, and the report is stale.
            let outcomes = report::report(&reports);
            debug_assert!(outcomes.iter().all(|outcome| *outcome != Outcome::NotFound));
            for step in rest {
                report::release(step.receipt);
            }
        });
        let is_over = patience.is_over() || most.is_some_and(|most| done.executed as usize >= most);
        let next = (!is_over).then(|| command(Level::Worker, || claim(done.executed)));
        match next {
            Some(next) => claimed = next,
            None => break,
        }
    }
}

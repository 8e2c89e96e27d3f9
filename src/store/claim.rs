//! Handing out steps: mark claimable rows (`claimable`) as claimed, and gather what a worker needs.
use super::claimable::{self, Source};
use super::columns::{STEPS_BY_KEY, steps as column};
use super::found::Found;
use super::graph_cache::CachedTemplate;
use super::report::{self, Report, Verdict};
use super::scope;
use crate::engine::receipt::{self, Receipt};
use crate::engine::time::{Span, Timestamp};
use crate::pg::array::array;
use crate::pg::catalog;
use crate::pg::guc;
use crate::pg::jsonb::Jsonb;
use crate::pg::lookup::{Key, Sees};
use crate::pg::per_row::{PerRow, cells, per_row};
use crate::pg::planted::{Bug, planted};
use crate::pg::random;
use crate::pg::spi::{self, Session, Statement};
use crate::pg::time;
use crate::pg::value::{Tid, param};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

/// One step in the hands of a worker.
pub struct ClaimedStep {
    pub receipt: [u8; 16],
    pub task_id: i64,
    pub step_id: i32,
    pub template: Rc<CachedTemplate>,
    pub attempt: i32,
    pub lease_expires_at: Timestamp,
    pub context: Option<Jsonb>,
    /// The trace that the task belongs to.
    pub traceparent: Option<String>,
    pub inputs: Option<Jsonb>,
    /// `None`: it has no parents.
    pub dependencies: Option<Jsonb>,
}

// The last attempt that is to fail takes its row along; the others are counted off.
static LAST_INJECTED: Statement = Statement::write(
    "DELETE FROM stepwise.injected_failures f USING unnest($1, $2) AS i (task_id, step_id) \
     WHERE f.task_id = i.task_id AND f.step_id = i.step_id AND f.remaining = 1 \
     RETURNING f.task_id, f.step_id, f.error",
);
static INJECTED: Statement = Statement::write(
    "UPDATE stepwise.injected_failures f SET remaining = f.remaining - 1 \
     FROM unnest($1, $2) AS i (task_id, step_id) \
     WHERE f.task_id = i.task_id AND f.step_id = i.step_id AND f.remaining > 1 \
     RETURNING f.task_id, f.step_id, f.error",
);

/// What a worker asks for.
pub struct Request<'a> {
    pub worker: &'a str,
    pub source: Source<'a>,
    pub max_steps: usize,
    /// `None`: each step's timeout.
    pub lease: Option<Span>,
    /// Added to the lease.
    pub grace: Span,
}

macro_rules! take {
    ($set:literal, $names:literal, $params:literal, $worker:literal) => {
        per_row!(
            concat!("task_id, step_id, claim_token, lease_expires_at", $names),
            concat!("$1, $2, $3, $4", $params),
            concat!(
                "UPDATE stepwise.steps s SET state = 'in_progress', claim_token = i.claim_token, \
                     visible_at = i.lease_expires_at, worker = ",
                $worker,
                $set,
                " FROM i WHERE s.task_id = i.task_id AND s.step_id = i.step_id"
            )
        )
    };
}
// Rows that were locked where they lie. The key is asked too: a row that is not the one that was found is not taken.
static TAKE_IN_PLACE: PerRow = per_row!(
    "task_id, step_id, claim_token, lease_expires_at, tid",
    "$1, $2, $3, $4, $5",
    "UPDATE stepwise.steps s SET state = 'in_progress', claim_token = i.claim_token, \
         visible_at = i.lease_expires_at, worker = $6 \
     FROM i WHERE s.ctid = i.tid AND s.task_id = i.task_id AND s.step_id = i.step_id"
);
static TAKE: PerRow = take!("", "", "", "$5");
static TAKE_LIMITED: PerRow = take!(", limited = i.limited", ", limited", ", $5", "$6");

/// What a claim hands out.
pub struct Claimed {
    pub steps: Vec<ClaimedStep>,
    /// Steps that were claimed and failed at once, for a test.
    pub injected: usize,
}

/// Claims up to `max_steps` steps for a worker, by priority, then age.
pub fn claim(request: &Request) -> Claimed {
    // A claim of nothing runs no statement that would say so.
    catalog::refuse_read_only(c"a claim of steps");
    let now = time::now();
    let steps = spi::session(|spi| {
        let due = if planted(Bug::ClaimedEarly) { now.plus(Span::from_secs(1800)) } else { now };
        let found = claimable::find(spi, request.source, request.max_steps, due);
        take(spi, request, found, now)
    });
    if guc::testing() && !steps.is_empty() { fail_injected(steps) } else { Claimed { steps, injected: 0 } }
}

/// Fails the attempts that a test wants to fail.
fn fail_injected(steps: Vec<ClaimedStep>) -> Claimed {
    let task_ids: Vec<i64> = steps.iter().map(|step| step.task_id).collect();
    let step_ids: Vec<i32> = steps.iter().map(|step| step.step_id).collect();
    let keys = [array(&task_ids), array(&step_ids)];
    let mut errors: BTreeMap<(i64, i32), Option<Jsonb>> = spi::session(|spi| {
        [&LAST_INJECTED, &INJECTED]
            .into_iter()
            .flat_map(|statement| {
                let rows = statement.run(spi, &keys);
                rows.iter().map(|row| ((row.want(1), row.want(2)), row.keep(3))).collect::<Vec<_>>()
            })
            .collect()
    });
    let (mut handed, mut reports) = (Vec::new(), Vec::new());
    for step in steps {
        match errors.remove(&(step.task_id, step.step_id)) {
            Some(error) => {
                let verdict = Verdict::Fail { error, retryable: None, retry_after_seconds: None };
                reports.push(Report { receipt: step.receipt, verdict });
            }
            None => handed.push(step),
        }
    }
    report::report(&reports);
    Claimed { steps: handed, injected: reports.len() }
}

fn take(spi: &Session, request: &Request, found: Vec<Found>, now: Timestamp) -> Vec<ClaimedStep> {
    if found.is_empty() {
        return Vec::new();
    }
    let limited: HashSet<(i64, i32)> =
        found.iter().filter(|row| row.limited).map(|row| (row.task_id, row.step_id)).collect();
    let pending_tasks = found.iter().filter(|row| row.task_is_pending).map(|row| row.task_id).collect();
    let places: HashMap<(i64, i32), Tid> =
        found.iter().filter_map(|row| Some(((row.task_id, row.step_id), row.tid?))).collect();
    let mut steps: Vec<ClaimedStep> = found
        .into_iter()
        .map(|row| {
            let token = receipt::token(random::word());
            let timeout = row.template.step(row.step_id).map_or(Span(0), |step| step.rule.lease());
            ClaimedStep {
                receipt: receipt::encode(Receipt { task_id: row.task_id, step_id: row.step_id, token }),
                task_id: row.task_id,
                step_id: row.step_id,
                template: row.template,
                attempt: row.attempts + 1,
                lease_expires_at: now.plus(request.lease.unwrap_or(timeout)).plus(request.grace),
                context: row.context,
                traceparent: row.traceparent,
                inputs: row.inputs,
                dependencies: None,
            }
        })
        .collect();
    mark(spi, request.worker, &steps, pending_tasks, &limited, &places);
    gather_dependencies(&mut steps);
    steps
}

fn mark(
    spi: &Session,
    worker: &str,
    steps: &[ClaimedStep],
    pending_tasks: Vec<i64>,
    limited: &HashSet<(i64, i32)>,
    places: &HashMap<(i64, i32), Tid>,
) {
    let mut rows: Vec<(i64, i32, i64, Timestamp)> = steps
        .iter()
        .filter_map(|step| {
            let token = receipt::decode(step.receipt)?.token;
            Some((step.task_id, step.step_id, token, step.lease_expires_at))
        })
        .collect();
    rows.sort_unstable();
    let task_ids: Vec<i64> = rows.iter().map(|row| row.0).collect();
    let step_ids: Vec<i32> = rows.iter().map(|row| row.1).collect();
    let tokens: Vec<i64> = rows.iter().map(|row| row.2).collect();
    let leases: Vec<Timestamp> = rows.iter().map(|row| row.3).collect();
    let mut columns = vec![cells(&task_ids), cells(&step_ids), cells(&tokens), cells(&leases)];
    let tids: Vec<Tid> = rows.iter().filter_map(|row| places.get(&(row.0, row.1)).copied()).collect();
    let statement = if !limited.is_empty() {
        columns.push(cells(&rows.iter().map(|row| limited.contains(&(row.0, row.1))).collect::<Vec<bool>>()));
        &TAKE_LIMITED
    } else if tids.len() == rows.len() {
        columns.push(cells(&tids));
        &TAKE_IN_PLACE
    } else {
        &TAKE
    };
    let taken = scope::claiming(pending_tasks, || statement.run(spi, &columns, &[param(worker)])).count;
    if taken != rows.len() {
        spi::internal_error("a claim, which missed a row that it had locked,", taken as i32, "UPDATE stepwise.steps");
    }
}

/// What the parents of the steps returned. They are final: a step is claimable only once its parents have settled.
fn gather_dependencies(steps: &mut [ClaimedStep]) {
    let mut parents: BTreeMap<(i64, i32), Option<Jsonb>> = BTreeMap::new();
    for step in steps.iter() {
        let of_step = step.template.graph.parents(step.step_id);
        parents.extend(of_step.iter().map(|&parent| ((step.task_id, parent), None)));
    }
    if parents.is_empty() {
        return;
    }
    let keys: Vec<(i64, i32)> = parents.keys().copied().collect();
    let of_parents = keys.iter().map(|&(task_id, step_id)| Key::One(task_id, step_id));
    STEPS_BY_KEY.each(Sees::Now, of_parents, |place, row| {
        parents.insert(keys[place], row.jsonb(column::RESULTS));
    });
    for step in steps.iter_mut() {
        let (task_id, template) = (step.task_id, &step.template);
        let of_step = template.graph.parents(step.step_id).iter().map(|&parent| {
            let name = template.step(parent).map_or("", |parent| parent.name.as_str());
            (name, parents.get(&(task_id, parent)).copied().flatten())
        });
        if of_step.len() > 0 {
            step.dependencies = Some(Jsonb::object(of_step).keep());
        }
    }
}

//! Handing out steps: settle expired leases among the claimable rows (`claimable`), mark the rest as claimed, and gather
//! what a worker needs.
use super::claimable::{self, Found};
use super::columns::{STEPS_BY_KEY, steps as column};
use super::graph_cache::CachedTemplate;
use super::scope::{self, Cause, LEASE_EXPIRED};
use crate::engine::receipt::{self, Receipt};
use crate::engine::state::StepState;
use crate::engine::time::{Span, Timestamp};
use crate::pg::array::array;
use crate::pg::jsonb::Jsonb;
use crate::pg::lookup::{Key, Sees};
use crate::pg::random;
use crate::pg::spi::{self, Session, Statement};
use crate::pg::time;
use crate::pg::value::param;
use std::collections::BTreeMap;
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
    pub inputs: Option<Jsonb>,
    /// `None`: it has no parents.
    pub dependencies: Option<Jsonb>,
}

/// What a worker asks for.
pub struct Request<'a> {
    pub worker: &'a str,
    /// `None`: every queue.
    pub queues: Option<&'a [String]>,
    pub max_steps: usize,
    /// `None`: each step's timeout.
    pub lease: Option<Span>,
}

static EXPIRE: Statement = Statement::write(
    "UPDATE stepwise.steps s \
     SET state = 'error', claim_token = NULL, backoff_request_seconds = 0, error = '{\"reason\": \"lease_expired\"}' \
     FROM unnest($1, $2) AS i (task_id, step_id) WHERE s.task_id = i.task_id AND s.step_id = i.step_id",
);
static TAKE: Statement = Statement::write(
    "UPDATE stepwise.steps s \
     SET state = 'in_progress', claim_token = i.claim_token, visible_at = i.lease_expires_at, worker = $5 \
     FROM unnest($1, $2, $3, $4) AS i (task_id, step_id, claim_token, lease_expires_at) \
     WHERE s.task_id = i.task_id AND s.step_id = i.step_id",
);

/// Claims up to `max_steps` steps for a worker, by priority, then age.
pub fn claim(request: &Request) -> Vec<ClaimedStep> {
    let now = time::now();
    spi::session(|spi| {
        let found = claimable::find(spi, request.queues, request.max_steps, now);
        let (taken, exhausted): (Vec<Found>, Vec<Found>) = found.into_iter().partition(Found::has_attempt_left);
        expire(spi, taken.iter().chain(&exhausted));
        take(spi, request, taken, now)
    })
}

/// Ends the attempts whose leases have expired; those with an attempt left are due again at once.
fn expire<'a>(spi: &Session, found: impl Iterator<Item = &'a Found>) {
    let mut keys: Vec<(i64, i32)> =
        found.filter(|row| row.state == StepState::InProgress).map(|row| (row.task_id, row.step_id)).collect();
    if keys.is_empty() {
        return;
    }
    keys.sort_unstable();
    let (task_ids, step_ids): (Vec<i64>, Vec<i32>) = keys.into_iter().unzip();
    scope::writing(Cause::reason(LEASE_EXPIRED), || EXPIRE.run(spi, &[array(&task_ids), array(&step_ids)]));
}

fn take(spi: &Session, request: &Request, found: Vec<Found>, now: Timestamp) -> Vec<ClaimedStep> {
    if found.is_empty() {
        return Vec::new();
    }
    let pending_tasks = found.iter().filter(|row| row.task_is_pending).map(|row| row.task_id).collect();
    let mut steps: Vec<ClaimedStep> = found
        .into_iter()
        .map(|row| {
            let token = receipt::token(random::word());
            let timeout = row.template.step(row.step_id).map_or(Span(0), |step| step.rule.timeout);
            ClaimedStep {
                receipt: receipt::encode(Receipt { task_id: row.task_id, step_id: row.step_id, token }),
                task_id: row.task_id,
                step_id: row.step_id,
                template: row.template,
                attempt: row.attempts + 1,
                lease_expires_at: now.plus(request.lease.unwrap_or(timeout)),
                context: row.context,
                inputs: row.inputs,
                dependencies: None,
            }
        })
        .collect();
    mark(spi, request.worker, &steps, pending_tasks);
    gather_dependencies(&mut steps);
    steps
}

fn mark(spi: &Session, worker: &str, steps: &[ClaimedStep], pending_tasks: Vec<i64>) {
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
    scope::claiming(pending_tasks, || {
        TAKE.run(spi, &[array(&task_ids), array(&step_ids), array(&tokens), array(&leases), param(worker)])
    });
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

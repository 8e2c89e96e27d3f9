//! Handing out steps: find claimable rows in order, settle expired leases among them, mark the rest as claimed, and
//! gather what a worker needs.
use super::graph_cache::{self, CachedTemplate};
use super::scope::{self, Cause, LEASE_EXPIRED};
use crate::engine::receipt::{self, Receipt};
use crate::engine::state::StepState;
use crate::engine::time::{Span, Timestamp};
use crate::engine::transition::attempt_left;
use crate::pg::array::array;
use crate::pg::jsonb::Jsonb;
use crate::pg::random;
use crate::pg::spi::{self, Cursor, Row, Session, Statement};
use crate::pg::time;
use crate::pg::value::param;
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

/// The highest priority that has visible steps, per queue that is not paused.
macro_rules! top_priorities {
    ($filter:literal) => {
        concat!(
            "SELECT q.queue_id, (SELECT s.priority FROM stepwise.steps s \
                 WHERE s.queue_id = q.queue_id AND s.visible_at IS NOT NULL ORDER BY s.priority DESC LIMIT 1) \
             FROM stepwise.queues q WHERE NOT q.paused",
            $filter
        )
    };
}
static TOP_OF_ALL: Statement = Statement::write(top_priorities!(""));
static TOP_OF_NAMED: Statement = Statement::write(top_priorities!(" AND q.name = ANY ($1)"));
static NEXT_PRIORITY: Statement = Statement::write(
    "SELECT s.priority FROM stepwise.steps s \
     WHERE s.queue_id = $1 AND s.priority < $2 AND s.visible_at IS NOT NULL ORDER BY s.priority DESC LIMIT 1",
);
static RANGE: Statement = Statement::scan(
    "SELECT s.task_id, s.step_id, s.template_id, s.state, s.attempts, s.visible_at, s.inputs, t.context \
     FROM stepwise.steps s JOIN stepwise.tasks t ON t.task_id = s.task_id \
     WHERE s.queue_id = $1 AND s.priority = $2 AND s.visible_at <= $3 \
     ORDER BY s.visible_at FOR UPDATE OF s SKIP LOCKED",
);
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
static DEPENDENCIES: Statement = Statement::write(include_str!("../../sql/query/dependency_results.sql"));

/// A locked row that is visible now.
struct Found {
    task_id: i64,
    step_id: i32,
    template: Rc<CachedTemplate>,
    state: StepState,
    attempts: i32,
    visible_at: Timestamp,
    inputs: Option<Jsonb>,
    context: Option<Jsonb>,
}

impl Found {
    fn read(row: &Row) -> Found {
        Found {
            task_id: row.want(1),
            step_id: row.want(2),
            template: graph_cache::template_of_row(row.want(3)),
            state: StepState::parse(&row.want::<String>(4)).unwrap_or(StepState::Cancelled),
            attempts: row.want(5),
            visible_at: row.want(6),
            inputs: row.keep(7),
            context: row.keep(8),
        }
    }

    fn has_attempt_left(&self) -> bool {
        self.template.step(self.step_id).is_some_and(|step| attempt_left(self.attempts, &step.rule))
    }
}

/// Claims up to `max_steps` steps for a worker, by priority, then age.
pub fn claim(request: &Request) -> Vec<ClaimedStep> {
    let now = time::now();
    spi::session(|spi| {
        let found = find(spi, request, now);
        let (taken, exhausted): (Vec<Found>, Vec<Found>) = found.into_iter().partition(Found::has_attempt_left);
        expire(spi, taken.iter().chain(&exhausted));
        take(spi, request, taken, now)
    })
}

/// Leases without a further attempt that one claim ends at most, so that it stays short after all workers have died.
const MAX_ENDED: usize = 1000;

/// Locks claimable rows in order. A row whose lease has expired with no attempt left is returned beyond the number
/// asked for, because it will not be handed out.
fn find(spi: &Session, request: &Request, now: Timestamp) -> Vec<Found> {
    let mut ranges: Vec<(i64, i16)> = {
        let rows = match request.queues {
            Some(queues) => TOP_OF_NAMED.run(spi, &[array(queues)]),
            None => TOP_OF_ALL.run(spi, &[]),
        };
        rows.iter().filter_map(|row| Some((row.want(1), row.get(2)?))).collect()
    };
    let mut found = Vec::new();
    let mut wanted = request.max_steps;
    while wanted > 0 && found.len() < request.max_steps + MAX_ENDED {
        let Some(priority) = ranges.iter().map(|range| range.1).max() else { break };
        let (mut now_due, mut rest): (Vec<_>, Vec<_>) = ranges.into_iter().partition(|range| range.1 == priority);
        now_due.sort_unstable();
        let cursors: Vec<Cursor> = now_due
            .iter()
            .map(|(queue_id, priority)| RANGE.open(spi, &[param(*queue_id), param(*priority), param(now)]))
            .collect();
        wanted -= merge(&cursors, wanted, &mut found);
        drop(cursors);
        if wanted > 0 {
            for (queue_id, priority) in now_due {
                let rows = NEXT_PRIORITY.run(spi, &[param(queue_id), param(priority)]);
                rest.extend(rows.first().map(|row| (queue_id, row.want::<i16>(1))));
            }
        }
        ranges = rest;
    }
    found
}

/// Takes the oldest rows of several ranges of one priority; returns how many of them can be handed out.
fn merge(cursors: &[Cursor], wanted: usize, found: &mut Vec<Found>) -> usize {
    let mut usable = 0;
    let most = found.len() + wanted + MAX_ENDED;
    let keep = |row: Found, found: &mut Vec<Found>| {
        // Attempts used up by an operator's hand: nobody can run it, and nothing is expired about it.
        if !row.has_attempt_left() && row.state != StepState::InProgress {
            return 0;
        }
        let counts = row.has_attempt_left() as usize;
        found.push(row);
        counts
    };
    if let [cursor] = cursors {
        while usable < wanted && found.len() < most {
            let rows = cursor.fetch(wanted - usable);
            let complete = rows.count < wanted - usable;
            usable += rows.iter().map(|row| keep(Found::read(&row), found)).sum::<usize>();
            if complete {
                break;
            }
        }
        return usable;
    }
    let next = |cursor: &Cursor| cursor.fetch(1).first().map(|row| Found::read(&row));
    let mut heads: Vec<Option<Found>> = cursors.iter().map(next).collect();
    while usable < wanted && found.len() < most {
        let oldest =
            (0..heads.len()).filter(|&i| heads[i].is_some()).min_by_key(|&i| heads[i].as_ref().map(|f| f.visible_at));
        let Some(oldest) = oldest else { break };
        if let Some(row) = heads[oldest].take() {
            usable += keep(row, found);
        }
        heads[oldest] = next(&cursors[oldest]);
    }
    usable
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
    let mut steps: Vec<ClaimedStep> = found
        .into_iter()
        .zip(random::words(request.max_steps))
        .map(|(row, word)| {
            let token = (word >> (64 - receipt::TOKEN_BITS)) as i64;
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
    mark(spi, request.worker, &steps);
    gather_dependencies(spi, &mut steps);
    steps
}

fn mark(spi: &Session, worker: &str, steps: &[ClaimedStep]) {
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
    scope::writing(Cause::default(), || {
        TAKE.run(spi, &[array(&task_ids), array(&step_ids), array(&tokens), array(&leases), param(worker)])
    });
}

fn gather_dependencies(spi: &Session, steps: &mut [ClaimedStep]) {
    let (mut ords, mut task_ids, mut parent_ids, mut names) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (ord, step) in steps.iter().enumerate() {
        for &parent in step.template.graph.parents(step.step_id) {
            ords.push(ord as i32);
            task_ids.push(step.task_id);
            parent_ids.push(parent);
            names.push(step.template.step(parent).map_or("", |parent| parent.name.as_str()));
        }
    }
    if ords.is_empty() {
        return;
    }
    let rows = DEPENDENCIES.run(spi, &[array(&ords), array(&task_ids), array(&parent_ids), array(&names)]);
    for row in rows.iter() {
        if let (Some(step), Some(results)) = (steps.get_mut(row.want::<i32>(1) as usize), row.keep(2)) {
            step.dependencies = Some(results);
        }
    }
}

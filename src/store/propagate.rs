//! What follows from changed steps, for all of them at once: history, children, descendants that can no longer run,
//! the counters of their tasks. Locks are taken in one order: the changed steps, their children, the tasks, each
//! sorted by key.
use super::due;
use super::graph_cache;
use super::history;
use super::limits;
use super::scope::{self, Cause, LEASE_EXPIRED, StepChange};
use super::settle;
use crate::engine::cascade::{self, Settled};
use crate::engine::state::StepState;
use crate::engine::time::Timestamp;
use crate::events;
use crate::pg::array::array;
use crate::pg::board;
use crate::pg::per_row::{PerRow, cells, per_row};
use crate::pg::planted::{Bug, planted};
use crate::pg::spi::{self, Session, Statement};
use crate::pg::time;
use crate::pg::value::param;
use std::collections::{BTreeMap, BTreeSet, HashMap};

type Key = (i64, i32);

static SETTLE_CHILDREN: PerRow = per_row!(
    "task_id, step_id, settled, visible_at, retry_limit",
    "$1, $2, $3, $4, $5",
    include_str!("../../sql/query/settle_children.sql")
);
// stepwise.calculate_backoff is the rule itself. No row: nothing is left of the backoff.
static KEEP_BACKOFF: Statement = Statement::write(
    "UPDATE stepwise.steps s SET visible_at = e.at FROM (\
         SELECT s.task_id, s.step_id, CASE \
             WHEN s.backoff_request_seconds IS NULL THEN s.last_failure_at + stepwise.calculate_backoff(s.attempts, \
                 r.backoff_base, r.backoff_cap, r.backoff_jitter, s.task_id, s.step_id) \
             ELSE coalesce(s.last_attempted_at, s.last_failure_at) + s.backoff_request_seconds * interval '1 second' \
         END AS at \
         FROM stepwise.steps s JOIN stepwise.template_steps r USING (template_id, step_id) \
         WHERE s.task_id = $1 AND s.step_id = $2) e \
     WHERE s.task_id = e.task_id AND s.step_id = e.step_id AND e.at > $3",
);
static TAKE_SIGNALLED: Statement = Statement::write(
    "UPDATE stepwise.steps s SET state = 'in_progress' FROM unnest($1, $2) AS i (task_id, step_id) \
     WHERE s.task_id = i.task_id AND s.step_id = i.step_id",
);
static COMPLETE_SIGNALLED: Statement = Statement::write(
    "UPDATE stepwise.steps s SET state = 'complete', results = s.signal, signal = NULL \
     FROM unnest($1, $2) AS i (task_id, step_id) WHERE s.task_id = i.task_id AND s.step_id = i.step_id",
);
static COUNT_ON_TASKS: PerRow = per_row!(
    "task_id, live, completed, failed, cancelled, started",
    "$1, $2, $3, $4, $5, $6",
    include_str!("../../sql/query/count_on_tasks.sql")
);
static STATES: Statement =
    Statement::write("SELECT step_id, state FROM stepwise.steps WHERE task_id = $1 ORDER BY step_id");
static LOCK_STEPS: Statement = Statement::write(
    "SELECT 1 FROM unnest($1, $2) AS i (task_id, step_id) \
     CROSS JOIN LATERAL (SELECT 1 FROM stepwise.steps s \
         WHERE s.task_id = i.task_id AND s.step_id = i.step_id FOR UPDATE) AS locked",
);
static FALL: Statement = Statement::write(
    "UPDATE stepwise.steps AS s SET state = i.state FROM unnest($1, $2, $3) AS i (task_id, step_id, state) \
     WHERE s.task_id = i.task_id AND s.step_id = i.step_id AND s.state IN ('pending', 'error')",
);

/// What a task's counters change by.
#[derive(Default)]
struct Delta {
    live: i32,
    completed: i32,
    failed: i32,
    cancelled: i32,
    started: bool,
}

impl Delta {
    fn add(&mut self, change: &StepChange) {
        let counted = |state: StepState| (state.settles() as i32, (state == StepState::Cancelled) as i32);
        let (completed_before, cancelled_before) = counted(change.from);
        let (completed, cancelled) = counted(change.to);
        self.live += change.is_live as i32 - change.was_live as i32;
        self.completed += completed - completed_before;
        self.cancelled += cancelled - cancelled_before;
        self.failed += change.is_failed as i32 - change.was_failed as i32;
        // A report too: what a claim has just read of the task may have been older than its step.
        let attempted = change.from == StepState::InProgress || change.to == StepState::InProgress;
        self.started |= attempted && change.from != change.to && !scope::has_begun(change.task_id);
    }

    fn matters(&self) -> bool {
        self.live != 0 || self.completed != 0 || self.failed != 0 || self.cancelled != 0 || self.started
    }
}

/// Entry of the statement trigger on `steps`.
pub fn propagate(changes: Vec<StepChange>) {
    let Some(mut wave) = scope::hand_over(changes) else { return };
    if wave.is_empty() {
        return;
    }
    let now = time::now();
    let cause = scope::cause();
    if cause.reason.as_deref() == Some(LEASE_EXPIRED) {
        // The reason says it all: nobody has reported an error, and the next attempt is due at once.
        for change in &mut wave {
            (change.error, change.backoff_request_seconds) = (None, None);
        }
    }
    let mut causes: HashMap<Key, String> = HashMap::new();
    let mut tasks: BTreeMap<i64, Delta> = BTreeMap::new();
    let mut ready: BTreeSet<i64> = BTreeSet::new();
    spi::session(|spi| {
        while !wave.is_empty() {
            for change in &wave {
                tasks.entry(change.task_id).or_default().add(change);
                if change.claimable_now && change.to != StepState::InProgress {
                    ready.insert(change.queue_id);
                }
            }
            history::record_steps(spi, &wave, &cause, |change| {
                metadata(cause.reason.as_deref(), causes.get(&(change.task_id, change.step_id)), change)
            });
            due::note_changes(&wave, now);
            ready.extend(limit(spi, &wave));
            let mut next = fall(spi, &wave, &mut causes);
            next.extend(settle_children(spi, &wave, now));
            next.extend(complete_signalled(spi, &next));
            wave = next;
        }
        count_on_tasks(spi, tasks, cause);
    });
    events::announce_ready(ready.into_iter());
}

/// What history keeps of a change beside its states, as a JSON object: why it was made, the step that took this one with
/// it, and of a failure what it said about the next attempt.
fn metadata(reason: Option<&str>, cause: Option<&String>, change: &StepChange) -> Option<String> {
    let failed = change.to == StepState::Error;
    let retryable = change.retryable.filter(|_| failed);
    let backoff_seconds = change.backoff_request_seconds.filter(|_| failed);
    if reason.is_none() && cause.is_none() && retryable.is_none() && backoff_seconds.is_none() {
        return None;
    }
    let mut object = serde_json::Map::new();
    object.extend(cause.map(|cause| ("cause".to_owned(), cause.as_str().into())));
    object.extend(reason.map(|reason| ("reason".to_owned(), reason.into())));
    object.extend(retryable.map(|retryable| ("retryable".to_owned(), retryable.into())));
    object.extend(backoff_seconds.map(|seconds| ("backoff_seconds".to_owned(), seconds.into())));
    Some(serde_json::Value::from(object).to_string())
}

/// Takes and gives back places under limits; the queues in which steps may be claimable again for it. A claim has
/// taken the places of its steps already.
fn limit(spi: &Session, wave: &[StepChange]) -> BTreeSet<i64> {
    let mut ready = BTreeSet::new();
    let left: Vec<&StepChange> =
        wave.iter().filter(|change| change.was_limited && change.to != StepState::InProgress).collect();
    if !left.is_empty() && !planted(Bug::PlaceKept) {
        limits::release(spi, &left.iter().map(|change| (change.task_id, change.step_id)).collect::<Vec<_>>());
        for change in left {
            ready.insert(change.queue_id);
            board::note_ready();
            let template = graph_cache::template_of_row(change.template_id);
            if template.is_limited() {
                ready.extend(template.steps.iter().map(|step| step.queue_id));
            }
        }
    }
    if !scope::is_claiming() {
        let begun =
            wave.iter().filter(|change| change.to == StepState::InProgress && change.from != StepState::InProgress);
        let steps: Vec<Key> = begun.map(|change| (change.task_id, change.step_id)).collect();
        if !steps.is_empty() {
            limits::take_by_hand(spi, &steps);
        }
    }
    ready
}

/// Waits that have just been reached and were signalled before. Each is taken and completed by one statement after the
/// other, as a worker would; the rows that changed.
fn complete_signalled(spi: &Session, reached: &[StepChange]) -> Vec<StepChange> {
    let signalled = |change: &&StepChange| change.signalled && change.is_live && !change.was_live;
    let mut keys: Vec<Key> = reached
        .iter()
        .filter(signalled)
        .filter(|change| change.to == StepState::Pending)
        .map(|change| (change.task_id, change.step_id))
        .collect();
    if keys.is_empty() {
        return Vec::new();
    }
    keys.sort_unstable();
    let (task_ids, step_ids): (Vec<i64>, Vec<i32>) = keys.into_iter().unzip();
    let mut changed = scope::propagating(|| drop(TAKE_SIGNALLED.run(spi, &[array(&task_ids), array(&step_ids)])));
    changed.extend(scope::propagating(|| drop(COMPLETE_SIGNALLED.run(spi, &[array(&task_ids), array(&step_ids)]))));
    changed
}

/// Counts settled parents off their children; returns the children that became visible.
fn settle_children(spi: &Session, wave: &[StepChange], now: Timestamp) -> Vec<StepChange> {
    let mut children: BTreeMap<Key, (i32, i64)> = BTreeMap::new();
    let mut skipped_parent: BTreeSet<Key> = BTreeSet::new();
    for change in wave.iter().filter(|change| change.to.settles() && change.from != change.to) {
        let template = graph_cache::template_of_row(change.template_id);
        for &child in template.graph.children(change.step_id) {
            children.entry((change.task_id, child)).or_insert((0, change.template_id)).0 += 1;
            if change.to == StepState::Skipped {
                skipped_parent.insert((change.task_id, child));
            }
        }
    }
    if children.is_empty() {
        return Vec::new();
    }
    let count = children.len();
    let (mut task_ids, mut step_ids, mut settled) =
        (Vec::with_capacity(count), Vec::with_capacity(count), Vec::with_capacity(count));
    let (mut visible_at, mut retry_limits) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut cached = None;
    for (&(task_id, step_id), &(parents, template_id)) in &children {
        if cached.as_ref().is_none_or(|(id, _)| *id != template_id) {
            cached = Some((template_id, graph_cache::template_of_row(template_id)));
        }
        let rule = cached.as_ref().and_then(|(_, template)| template.step(step_id)).map(|step| &step.rule);
        task_ids.push(task_id);
        step_ids.push(step_id);
        settled.push(if planted(Bug::ParentsCountedTwice) { parents + 1 } else { parents });
        visible_at.push(rule.map_or(Timestamp::INFINITY, |rule| rule.visible_from(now)));
        retry_limits.push(rule.filter(|rule| rule.retryable).map_or(0, |rule| rule.retry_limit));
    }
    let mut changed = scope::propagating(|| {
        let columns = [cells(&task_ids), cells(&step_ids), cells(&settled), cells(&visible_at), cells(&retry_limits)];
        SETTLE_CHILDREN.run(spi, &columns, &[]);
    });
    keep_backoffs(spi, &mut changed, now);
    if !skipped_parent.is_empty() {
        changed.extend(skip_ready(spi, &changed, &skipped_parent));
    }
    changed
}

/// A step that was put into error by hand while it waited for its parents still rests for its backoff.
fn keep_backoffs(spi: &Session, changed: &mut [StepChange], now: Timestamp) {
    for change in changed.iter_mut().filter(|change| change.to == StepState::Error && change.is_live) {
        scope::propagating(|| {
            let rows = KEEP_BACKOFF.run(spi, &[param(change.task_id), param(change.step_id), param(now)]);
            change.claimable_now = rows.count == 0;
        });
    }
}

/// A step whose last parents to settle were skipped may have no satisfied parent at all: then it is skipped too. Asked
/// after its row is locked, so that parents skipped by concurrent transactions are seen.
fn skip_ready(spi: &Session, changed: &[StepChange], skipped_parent: &BTreeSet<Key>) -> Vec<StepChange> {
    let mut falls: BTreeMap<Key, StepState> = BTreeMap::new();
    for change in changed.iter().filter(|change| change.is_live && !change.was_live) {
        if !skipped_parent.contains(&(change.task_id, change.step_id)) {
            continue;
        }
        let states = states_of(spi, change.task_id);
        let template = graph_cache::template_of_row(change.template_id);
        let parents = template.graph.parents(change.step_id);
        if parents.iter().all(|parent| states.get(parent) == Some(&StepState::Skipped)) {
            falls.insert((change.task_id, change.step_id), StepState::Skipped);
        }
    }
    apply_falls(spi, &falls)
}

/// Descendants of cancelled and skipped steps that can no longer run; returns the rows that changed.
fn fall(spi: &Session, wave: &[StepChange], causes: &mut HashMap<Key, String>) -> Vec<StepChange> {
    if planted(Bug::DescendantsLeft) {
        return Vec::new();
    }
    let mut settled: BTreeMap<(i64, i64), Vec<Settled>> = BTreeMap::new();
    for change in wave.iter().filter(|change| change.from != change.to) {
        if matches!(change.to, StepState::Cancelled | StepState::Skipped) {
            let entry = settled.entry((change.task_id, change.template_id)).or_default();
            entry.push(Settled { step_id: change.step_id, state: change.to });
        }
    }
    let mut falls: BTreeMap<Key, StepState> = BTreeMap::new();
    for ((task_id, template_id), settled) in settled {
        let template = graph_cache::template_of_row(template_id);
        if settled.iter().all(|step| template.graph.children(step.step_id).is_empty()) {
            continue;
        }
        let states = states_of(spi, task_id);
        for fall in cascade::falls(&template.graph, &|step_id| states.get(&step_id).copied(), &settled) {
            falls.insert((task_id, fall.step_id), fall.to);
            if let Some(step) = template.step(fall.cause) {
                causes.insert((task_id, fall.step_id), step.name.clone());
            }
        }
    }
    apply_falls(spi, &falls)
}

fn apply_falls(spi: &Session, falls: &BTreeMap<Key, StepState>) -> Vec<StepChange> {
    if falls.is_empty() {
        return Vec::new();
    }
    let (task_ids, step_ids): (Vec<i64>, Vec<i32>) = falls.keys().copied().unzip();
    let states: Vec<&str> = falls.values().map(|state| state.as_str()).collect();
    scope::propagating(|| {
        LOCK_STEPS.run(spi, &[array(&task_ids), array(&step_ids)]);
        FALL.run(spi, &[array(&task_ids), array(&step_ids), array(&states)]);
    })
}

fn states_of(spi: &Session, task_id: i64) -> HashMap<i32, StepState> {
    let rows = STATES.run(spi, &[param(task_id)]);
    rows.iter().filter_map(|row| Some((row.want(1), StepState::parse(&row.want::<String>(2))?))).collect()
}

fn count_on_tasks(spi: &Session, tasks: BTreeMap<i64, Delta>, cause: Cause) {
    let tasks: Vec<(i64, Delta)> = tasks.into_iter().filter(|(_, delta)| delta.matters()).collect();
    if tasks.is_empty() {
        return;
    }
    let column = |value: fn(&Delta) -> i32| cells(&tasks.iter().map(|(_, delta)| value(delta)).collect::<Vec<i32>>());
    let task_ids: Vec<i64> = tasks.iter().map(|(task_id, _)| *task_id).collect();
    let started: Vec<bool> = tasks.iter().map(|(_, delta)| delta.started).collect();
    let count_on_tasks = &COUNT_ON_TASKS;
    #[cfg(feature = "planted_bugs")]
    let count_on_tasks = if planted(Bug::CountersReadEarly) { &super::planted::COUNT_EARLY } else { count_on_tasks };
    scope::writing(cause, || {
        count_on_tasks.run(
            spi,
            &[
                cells(&task_ids),
                column(|delta| delta.live),
                column(|delta| delta.completed),
                column(|delta| delta.failed),
                column(|delta| delta.cancelled),
                cells(&started),
            ],
            &[],
        );
    });
}

/// Cancels every step of these tasks that is not at its end. Their rows are changed by one statement, whose own
/// trigger propagates.
pub fn cancel_open_steps(task_ids: &[i64]) {
    spi::session(|spi| settle::cancel_open(spi, task_ids, "task_ended"));
}

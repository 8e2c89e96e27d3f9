//! Limits on how many steps are in progress at once. A limit of n is n rows of `slots`: a step takes a free one of each
//! limit that it is under, in the transaction of its claim, and gives it back when it leaves `in_progress`. Rows that
//! another transaction has locked are passed over, so a claim never waits for a limit and none is ever exceeded.
use super::graph_cache::{self, CachedTemplate};
use super::scope;
use super::settle;
use crate::engine::explain::Limit;
use crate::engine::refusal::Refusal;
use crate::engine::rule::StepKind;
use crate::engine::time::Timestamp;
use crate::pg::array::array;
use crate::pg::error::finish;
use crate::pg::spi::{Session, Statement};
use crate::pg::value::param;
use std::collections::{BTreeMap, HashSet};

/// One limit, as its slots name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub limit: Limit,
    /// Of a queue or a task its id; of a key 0.
    id: i64,
    key: String,
    pub most: i32,
}

impl Owner {
    pub fn queue(queue_id: i64, most: i32) -> Owner {
        Owner { limit: Limit::Queue, id: queue_id, key: String::new(), most }
    }
}

/// The limits that a step of this task is under, its queue's (0: none) among them.
pub fn owners(
    template: &CachedTemplate,
    task_id: i64,
    concurrency_key: Option<&str>,
    queue_id: i64,
    max_in_flight: i32,
) -> Vec<Owner> {
    let mut owners = Vec::new();
    if max_in_flight > 0 {
        owners.push(Owner::queue(queue_id, max_in_flight));
    }
    if template.max_parallel_steps > 0 {
        let most = template.max_parallel_steps;
        owners.push(Owner { limit: Limit::Task, id: task_id, key: String::new(), most });
    }
    owners.extend(concurrency_key.and_then(|key| owner_of_key(template, key)));
    owners
}

/// The limit of a concurrency key.
pub fn owner_of_key(template: &CachedTemplate, key: &str) -> Option<Owner> {
    let (_, most) = template.concurrency.as_ref()?;
    Some(Owner { limit: Limit::Key, id: 0, key: key.to_owned(), most: *most })
}

// Slots beyond the limit are held by steps from before it was lowered: nothing is free until they have ended.
static FREE: Statement = Statement::write(
    "SELECT o.ord, f.slot_id FROM unnest($1, $2, $3, $4, $5, $6) AS o (ord, kind, owner_id, key, most, wanted) \
     CROSS JOIN LATERAL (SELECT s.slot_id FROM stepwise.slots s \
         WHERE s.kind = o.kind AND s.owner_id = o.owner_id AND s.key = o.key AND s.number <= o.most \
             AND s.task_id IS NULL \
             AND NOT EXISTS (SELECT FROM stepwise.slots b WHERE b.kind = o.kind AND b.owner_id = o.owner_id \
                 AND b.key = o.key AND b.number > o.most AND b.task_id IS NOT NULL AND o.kind = 'queue') \
         ORDER BY s.number LIMIT o.wanted FOR UPDATE SKIP LOCKED) AS f",
);
static ASSIGN: Statement = Statement::write(
    "UPDATE stepwise.slots s SET task_id = i.task_id, step_id = i.step_id \
     FROM unnest($1, $2, $3) AS i (slot_id, task_id, step_id) WHERE s.slot_id = i.slot_id",
);
static RELEASE: Statement = Statement::write(
    "UPDATE stepwise.slots s SET task_id = NULL, step_id = NULL \
     FROM unnest($1, $2) AS i (task_id, step_id) WHERE s.task_id = i.task_id AND s.step_id = i.step_id",
);
// In the order of their keys: two callers that make the same ones wait for each other one way round.
static MAKE: Statement = Statement::write(
    "INSERT INTO stepwise.slots (kind, owner_id, key, number) \
     SELECT o.kind, o.owner_id, o.key, n FROM unnest($1, $2, $3, $4) AS o (kind, owner_id, key, most) \
     CROSS JOIN LATERAL generate_series(1, o.most) AS n ORDER BY 1, 2, 3, 4 \
     ON CONFLICT (kind, owner_id, key, number) DO NOTHING",
);
static EXPIRED_HOLDERS: Statement = Statement::write(
    "SELECT s.task_id, s.step_id FROM unnest($1, $2, $3) AS o (kind, owner_id, key) \
     JOIN stepwise.slots h ON h.kind = o.kind AND h.owner_id = o.owner_id AND h.key = o.key \
     JOIN stepwise.steps s ON s.task_id = h.task_id AND s.step_id = h.step_id \
     WHERE s.state = 'in_progress' AND s.visible_at <= $4 FOR UPDATE OF s SKIP LOCKED",
);
static WITHOUT_SLOTS: Statement = Statement::write(
    "SELECT o.ord FROM unnest($1, $2, $3) WITH ORDINALITY AS o (kind, owner_id, key, ord) \
     WHERE NOT EXISTS (SELECT FROM stepwise.slots s \
         WHERE s.kind = o.kind AND s.owner_id = o.owner_id AND s.key = o.key)",
);
struct Columns {
    kinds: Vec<&'static str>,
    ids: Vec<i64>,
    keys: Vec<String>,
    most: Vec<i32>,
}

fn columns<'a>(owners: impl Iterator<Item = &'a Owner> + Clone) -> Columns {
    Columns {
        kinds: owners.clone().map(|owner| owner.limit.as_str()).collect(),
        ids: owners.clone().map(|owner| owner.id).collect(),
        keys: owners.clone().map(|owner| owner.key.clone()).collect(),
        most: owners.map(|owner| owner.most).collect(),
    }
}

/// Makes the slots of limits that have none yet.
pub fn make(spi: &Session, owners: &[Owner]) {
    if owners.is_empty() {
        return;
    }
    let columns = columns(owners.iter());
    MAKE.run(spi, &[array(&columns.kinds), array(&columns.ids), array(&columns.keys), array(&columns.most)]);
}

/// Locks free slots, at most as many as wanted of each limit; none that another claim is about to take.
pub fn free(spi: &Session, wanted: &BTreeMap<Owner, i32>) -> BTreeMap<Owner, Vec<i64>> {
    let owners: Vec<&Owner> = wanted.keys().collect();
    let columns = columns(wanted.keys());
    let places: Vec<i32> = (0..owners.len() as i32).collect();
    let counts: Vec<i32> = wanted.values().copied().collect();
    let rows = FREE.run(
        spi,
        &[
            array(&places),
            array(&columns.kinds),
            array(&columns.ids),
            array(&columns.keys),
            array(&columns.most),
            array(&counts),
        ],
    );
    let mut free: BTreeMap<Owner, Vec<i64>> = BTreeMap::new();
    for row in rows.iter() {
        free.entry(owners[row.want::<i32>(1) as usize].clone()).or_default().push(row.want(2));
    }
    free
}

/// Ends the attempts that hold slots of these limits though their leases are over, and makes the slots that a purge has
/// taken away; whether there may be more free ones than before. `hold` locks tasks and says which it got.
pub fn regain(spi: &Session, owners: &[Owner], now: Timestamp, hold: impl FnOnce(Vec<i64>) -> HashSet<i64>) -> bool {
    let columns = columns(owners.iter());
    let [kinds, ids, keys] = [array(&columns.kinds), array(&columns.ids), array(&columns.keys)];
    let holders = EXPIRED_HOLDERS.run(spi, &[kinds, ids, keys, param(now)]);
    let mut holders: Vec<(i64, i32)> = holders.iter().map(|row| (row.want(1), row.want(2))).collect();
    if !holders.is_empty() {
        let held = hold(holders.iter().map(|(task_id, _)| *task_id).collect());
        holders.retain(|(task_id, _)| held.contains(task_id));
    }
    let found_some = !holders.is_empty();
    settle::expire_leases(spi, holders);
    let missing = WITHOUT_SLOTS.run(spi, &[kinds, ids, keys]);
    let missing: Vec<Owner> = missing.iter().map(|row| owners[row.want::<i64>(1) as usize - 1].clone()).collect();
    make(spi, &missing);
    found_some || !missing.is_empty()
}

// A slot whose holder's lease is over is as good as free: the next claim takes it back.
static REACHED: Statement = Statement::read(
    "SELECT o.ord FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS o (kind, owner_id, key, most, ord) \
     WHERE EXISTS (SELECT FROM stepwise.slots b \
             WHERE b.kind = o.kind AND b.owner_id = o.owner_id AND b.key = o.key) \
         AND (SELECT count(*) FROM stepwise.slots b WHERE b.kind = o.kind AND b.owner_id = o.owner_id \
                 AND b.key = o.key AND b.task_id IS NOT NULL \
                 AND NOT EXISTS (SELECT FROM stepwise.steps h WHERE h.task_id = b.task_id \
                     AND h.step_id = b.step_id AND h.visible_at <= $5)) >= o.most",
);

/// The limits among these that are reached.
pub fn reached(spi: &Session, owners: &[Owner], now: Timestamp) -> Vec<(Limit, i32)> {
    if owners.is_empty() {
        return Vec::new();
    }
    let columns = columns(owners.iter());
    let [kinds, ids, keys] = [array(&columns.kinds), array(&columns.ids), array(&columns.keys)];
    let rows = REACHED.run(spi, &[kinds, ids, keys, array(&columns.most), param(now)]);
    rows.iter().map(|row| &owners[row.want::<i64>(1) as usize - 1]).map(|owner| (owner.limit, owner.most)).collect()
}

/// Gives locked slots to steps: (slot, task, step).
pub fn assign(spi: &Session, taken: &[(i64, i64, i32)]) {
    if taken.is_empty() {
        return;
    }
    let slots: Vec<i64> = taken.iter().map(|row| row.0).collect();
    let task_ids: Vec<i64> = taken.iter().map(|row| row.1).collect();
    let step_ids: Vec<i32> = taken.iter().map(|row| row.2).collect();
    ASSIGN.run(spi, &[array(&slots), array(&task_ids), array(&step_ids)]);
}

static BY_HAND: Statement = Statement::write(
    "SELECT s.task_id, s.step_id, s.template_id, s.queue_id, t.concurrency_key, q.max_in_flight \
     FROM unnest($1, $2) AS i (task_id, step_id) \
     JOIN stepwise.steps s ON s.task_id = i.task_id AND s.step_id = i.step_id \
     JOIN stepwise.tasks t ON t.task_id = s.task_id JOIN stepwise.queues q ON q.queue_id = s.queue_id \
     ORDER BY s.task_id, s.step_id",
);
static MARK: Statement = Statement::write(
    "UPDATE stepwise.steps s SET limited = true FROM unnest($1, $2) AS i (task_id, step_id) \
     WHERE s.task_id = i.task_id AND s.step_id = i.step_id",
);

/// Takes the places of steps that were put in progress by an UPDATE of their state, or refuses it.
pub fn take_by_hand(spi: &Session, steps: &[(i64, i32)]) {
    let (task_ids, step_ids): (Vec<i64>, Vec<i32>) = steps.iter().copied().unzip();
    let rows = BY_HAND.run(spi, &[array(&task_ids), array(&step_ids)]);
    let mut under: Vec<((i64, i32), Vec<Owner>)> = Vec::new();
    for row in rows.iter() {
        let template = graph_cache::template_of_row(row.want(3));
        // A wait is in progress for no longer than its signal takes.
        if template.step(row.want(2)).is_some_and(|step| step.rule.kind == StepKind::Wait) {
            continue;
        }
        let owners = owners(&template, row.want(1), row.get::<String>(5).as_deref(), row.want(4), row.want(6));
        if !owners.is_empty() {
            under.push(((row.want(1), row.want(2)), owners));
        }
    }
    if under.is_empty() {
        return;
    }
    let mut wanted: BTreeMap<Owner, i32> = BTreeMap::new();
    for owner in under.iter().flat_map(|(_, owners)| owners) {
        *wanted.entry(owner.clone()).or_default() += 1;
    }
    let mut free = free(spi, &wanted);
    let mut taken = Vec::new();
    for ((task_id, step_id), owners) in &under {
        for owner in owners {
            match free.get_mut(owner).and_then(Vec::pop) {
                Some(slot) => taken.push((slot, *task_id, *step_id)),
                None => {
                    let (limit, most) = (owner.limit, owner.most);
                    let refusal = Refusal::LimitReached { task_id: *task_id, step_id: *step_id, limit, most };
                    finish::<()>(Err(refusal.into()));
                }
            }
        }
    }
    assign(spi, &taken);
    let (task_ids, step_ids): (Vec<i64>, Vec<i32>) = under.iter().map(|(key, _)| *key).unzip();
    scope::propagating(|| drop(MARK.run(spi, &[array(&task_ids), array(&step_ids)])));
}

/// Gives back what these steps hold.
pub fn release(spi: &Session, steps: &[(i64, i32)]) {
    if steps.is_empty() {
        return;
    }
    let (task_ids, step_ids): (Vec<i64>, Vec<i32>) = steps.iter().copied().unzip();
    RELEASE.run(spi, &[array(&task_ids), array(&step_ids)]);
}

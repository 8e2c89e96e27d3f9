//! What time alone decides: attempts whose lease is over, waits whose signal did not come, tasks past their deadline.
//! A claim does it to what it meets, `tick` to what nobody meets.
use super::scope::{self, Cause, LEASE_EXPIRED};
use crate::engine::time::Timestamp;
use crate::pg::array::array;
use crate::pg::spi::{Session, Statement};
use crate::pg::value::param;
use std::collections::HashSet;

static EXPIRE: Statement = Statement::write(
    "UPDATE stepwise.steps s \
     SET state = 'error', claim_token = NULL, backoff_request_seconds = 0, error = '{\"reason\": \"lease_expired\"}' \
     FROM unnest($1, $2) AS i (task_id, step_id) WHERE s.task_id = i.task_id AND s.step_id = i.step_id",
);
static FAIL_WAITS: Statement = Statement::write(
    "UPDATE stepwise.steps s \
     SET state = 'error', retryable = false, error = '{\"reason\": \"signal_timeout\"}' \
     FROM unnest($1, $2) AS i (task_id, step_id) WHERE s.task_id = i.task_id AND s.step_id = i.step_id",
);
// Steps before tasks, as everywhere. A task of which another transaction has locked a step is left for later: to wait for it while steps of other tasks are
// locked could be a deadlock.
static LOCK_OPEN_STEPS: Statement = Statement::write(
    "WITH locked AS (SELECT task_id, step_id FROM stepwise.steps \
         WHERE task_id = ANY ($1) AND state IN ('pending', 'in_progress', 'error') \
         ORDER BY task_id, step_id FOR UPDATE SKIP LOCKED) \
     SELECT s.task_id FROM stepwise.steps s LEFT JOIN locked l ON l.task_id = s.task_id AND l.step_id = s.step_id \
     WHERE s.task_id = ANY ($1) AND s.state IN ('pending', 'in_progress', 'error') \
     GROUP BY s.task_id HAVING count(l.step_id) = count(*)",
);
static TIME_OUT: Statement = Statement::write(
    "UPDATE stepwise.tasks SET timed_out = true \
     WHERE task_id = ANY ($1) AND deadline <= $2 AND state IN ('pending', 'in_progress') RETURNING task_id",
);
static CANCEL_OPEN: Statement = Statement::write(
    "UPDATE stepwise.steps SET state = 'cancelled' \
     WHERE task_id = ANY ($1) AND state IN ('pending', 'in_progress', 'error')",
);

// Before anything of theirs is changed: a statement for each kind of end would lock tasks by key only within itself.
static HOLD: Statement =
    Statement::write("SELECT task_id FROM stepwise.tasks WHERE task_id = ANY ($1) ORDER BY task_id FOR UPDATE");
static HOLD_FREE: Statement = Statement::write(
    "SELECT task_id FROM stepwise.tasks WHERE task_id = ANY ($1) ORDER BY task_id FOR UPDATE SKIP LOCKED",
);

/// How to lock tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Waits for others; only for who has locked no task yet.
    Waiting,
    /// Passes over what others have locked.
    Free,
}

/// Locks tasks by key; those that are locked then.
pub fn hold(spi: &Session, mut task_ids: Vec<i64>, how: Hold) -> HashSet<i64> {
    if task_ids.is_empty() {
        return HashSet::new();
    }
    task_ids.sort_unstable();
    task_ids.dedup();
    let statement = if how == Hold::Waiting { &HOLD } else { &HOLD_FREE };
    statement.run(spi, &[array(&task_ids)]).iter().map(|row| row.want(1)).collect()
}

type Key = (i64, i32);

fn sorted(mut keys: Vec<Key>) -> (Vec<i64>, Vec<i32>) {
    keys.sort_unstable();
    keys.into_iter().unzip()
}

/// Ends attempts whose leases are over; those with an attempt left are due again at once. The rows and
/// their tasks ([`hold`]) are locked.
pub fn expire_leases(spi: &Session, keys: Vec<Key>) {
    if keys.is_empty() {
        return;
    }
    let (task_ids, step_ids) = sorted(keys);
    scope::writing(Cause::reason(LEASE_EXPIRED), || EXPIRE.run(spi, &[array(&task_ids), array(&step_ids)]));
}

/// Fails waits whose signal has not come in time. The rows and their tasks are locked.
pub fn fail_waits(spi: &Session, keys: Vec<Key>) {
    if keys.is_empty() {
        return;
    }
    let (task_ids, step_ids) = sorted(keys);
    scope::writing(Cause::reason("signal_timeout"), || FAIL_WAITS.run(spi, &[array(&task_ids), array(&step_ids)]));
}

/// Cancels every step of these tasks that is not at its end.
pub fn cancel_open(spi: &Session, task_ids: &[i64], reason: &str) {
    scope::writing(Cause::reason(reason), || CANCEL_OPEN.run(spi, &[array(task_ids)]));
}

/// Ends tasks whose deadline is over: their open steps are cancelled, and they are in error. Returns how many.
pub fn end_overdue(spi: &Session, mut task_ids: Vec<i64>, now: Timestamp) -> i32 {
    if task_ids.is_empty() {
        return 0;
    }
    task_ids.sort_unstable();
    task_ids.dedup();
    let task_ids: Vec<i64> = LOCK_OPEN_STEPS.run(spi, &[array(&task_ids)]).iter().map(|row| row.want(1)).collect();
    let rows = scope::writing(Cause::default(), || TIME_OUT.run(spi, &[array(&task_ids), param(now)]));
    let overdue: Vec<i64> = rows.iter().map(|row| row.want(1)).collect();
    cancel_open(spi, &overdue, "deadline_exceeded");
    overdue.len() as i32
}

//! What nobody meets: leases, waits and deadlines that are over in queues from which nobody claims now. Claims do the
//! same to what they meet (`claimable`), so calling this is a matter of punctuality, not of correctness.
use super::by_time::{DUE_STEPS, NEXT_DUE, OVERDUE_TASKS, READY_QUEUES};
use super::settle::{self, Hold};
use super::subscriptions;
use crate::engine::state::StepState;
use crate::engine::time::{Span, Timestamp};
use crate::events;
use crate::pg::array::array;
use crate::pg::catalog;
use crate::pg::spi::{self, Session, Statement};
use crate::pg::time;
use crate::pg::value::param;

/// What one tick has done.
pub struct Ticked {
    pub expired_leases: i32,
    pub failed_waits: i32,
    pub ended_tasks: i32,
    /// Queues with steps that can be claimed now; told to waiting workers.
    pub ready_queues: i32,
    /// The next time at which something will be due; `None`: nothing is known to come.
    pub next_at: Option<Timestamp>,
}

static LOCK: Statement = Statement::write(
    "SELECT s.task_id, s.step_id, s.state FROM unnest($1, $2) AS i (task_id, step_id) \
     JOIN stepwise.steps s ON s.task_id = i.task_id AND s.step_id = i.step_id \
     WHERE s.visible_at <= $3 ORDER BY s.task_id, s.step_id FOR UPDATE OF s SKIP LOCKED",
);

/// Does what is due and tells waiting workers of steps that have become claimable by the passing of time.
pub fn tick() -> Ticked {
    // Where nothing is due it would write nothing, but tell workers of steps that they cannot claim.
    catalog::refuse_on_standby(c"stepwise.tick()");
    let now = time::now();
    spi::session(|spi| {
        // First: this transaction must not have an id of its own yet.
        subscriptions::leave_marks(spi);
        let (found, mut expired, mut waits) = due(spi, now);
        let mut overdue: Vec<i64> = OVERDUE_TASKS.run(spi, param(now)).iter().map(|row| row.want(1)).collect();
        let overdue_tasks = overdue.len() as i32;
        // All tasks at once, and none that it would have to wait for.
        let tasks =
            [&expired, &waits].into_iter().flatten().map(|(task_id, _)| *task_id).chain(overdue.iter().copied());
        let held = settle::hold(spi, tasks.collect(), Hold::Free);
        [&mut expired, &mut waits].into_iter().for_each(|keys| keys.retain(|(task_id, _)| held.contains(task_id)));
        overdue.retain(|task_id| held.contains(task_id));
        let (expired_leases, failed_waits) = (expired.len() as i32, waits.len() as i32);
        settle::expire_leases(spi, expired);
        settle::fail_waits(spi, waits);
        let ended_tasks = settle::end_overdue(spi, overdue, now);
        // What others have locked, or what was too much for one go, is tried again soon.
        let left = found != expired_leases + failed_waits
            || found >= MOST
            || overdue_tasks != ended_tasks
            || overdue_tasks >= MOST;
        let soon = left.then(|| now.plus(Span::from_secs(1)));
        let ready: Vec<i64> = READY_QUEUES.run(spi, param(now)).iter().map(|row| row.want(1)).collect();
        events::announce_ready(ready.iter().copied());
        Ticked {
            expired_leases,
            failed_waits,
            ended_tasks,
            ready_queues: ready.len() as i32,
            next_at: next_due(spi, now).into_iter().chain(soon).min(),
        }
    })
}

type Keys = Vec<(i64, i32)>;

/// As many as one tick settles of a kind, as the statements say.
const MOST: i32 = 1000;

/// How many were found; held steps whose leases are over, and waits whose time is over; locked.
fn due(spi: &Session, now: Timestamp) -> (i32, Keys, Keys) {
    let rows = DUE_STEPS.run(spi, param(now));
    let (task_ids, step_ids): (Vec<i64>, Vec<i32>) =
        rows.iter().map(|row| (row.want::<i64>(1), row.want::<i32>(2))).unzip();
    drop(rows);
    let (mut expired, mut waits) = (Vec::new(), Vec::new());
    let found = task_ids.len() as i32;
    if found == 0 {
        return (0, expired, waits);
    }
    for row in LOCK.run(spi, &[array(&task_ids), array(&step_ids), param(now)]).iter() {
        match StepState::parse(&row.want::<String>(3)) {
            Some(StepState::InProgress) => expired.push((row.want(1), row.want(2))),
            Some(StepState::Pending) => waits.push((row.want(1), row.want(2))),
            _ => {}
        }
    }
    (found, expired, waits)
}

/// The earliest time after `now` at which a step becomes visible or a task runs out of time.
pub fn next_due(spi: &Session, now: Timestamp) -> Option<Timestamp> {
    NEXT_DUE.run(spi, param(now)).first().and_then(|row| row.get(1))
}

//! Removal of finished tasks with their steps and their history.
use super::access::{self, of_namespaces};
use super::scope::{self, Cause};
use super::subscriptions;
use crate::engine::time::{Span, Timestamp};
use crate::pg::array::array;
use crate::pg::catalog;
use crate::pg::planted::{Bug, planted};
use crate::pg::spi::{self, Statement};
use crate::pg::time;
use crate::pg::value::param;

/// Of a task `t`: no event of it is after where every subscription is (the parameter), or after where one is that may want it.
macro_rules! acknowledged {
    ($by_all:literal) => {
        concat!(
            "NOT EXISTS (SELECT FROM stepwise.transitions h WHERE h.task_id = t.task_id AND h.event_id > ",
            $by_all,
            " AND h.event_id > (SELECT coalesce(min(u.position), 9223372036854775807) FROM stepwise.subscriptions u \
                 WHERE coalesce(u.filter -> 'namespace' ? (SELECT n.name FROM stepwise.templates w \
                     JOIN stepwise.namespaces n ON n.namespace_id = w.namespace_id \
                     WHERE w.template_id = t.template_id), true)))"
        )
    };
}
macro_rules! candidates {
    ($also:expr) => {
        concat!(
            "SELECT t.task_id FROM stepwise.tasks t WHERE t.finished_at < $1 AND t.state = ANY ($2) AND ",
            acknowledged!("$4"),
            $also,
            " ORDER BY t.task_id LIMIT $3"
        )
    };
}
// In the order of the key: no index on finished_at has to be kept up with every task's end. History that a subscription
// has not acknowledged stays.
static CANDIDATES: Statement = Statement::write(candidates!(""));
static CANDIDATES_OF: Statement = Statement::write(candidates!(of_namespaces!("t", "$5")));
// The lock order of everything: steps, then tasks. A reset may have taken a task back to work meanwhile.
static LOCK_STEPS: Statement =
    Statement::write("SELECT 1 FROM stepwise.steps WHERE task_id = ANY ($1) ORDER BY task_id, step_id FOR UPDATE");
static LOCK_TASKS: Statement = Statement::write(
    "SELECT task_id FROM stepwise.tasks WHERE task_id = ANY ($3) AND finished_at < $1 AND state = ANY ($2) \
     ORDER BY task_id FOR UPDATE",
);
// Asked again under the locks: a change that was waited for may have left the task's end as it was, but not its history.
static ACKNOWLEDGED: Statement = Statement::write(concat!(
    "SELECT t.task_id FROM stepwise.tasks t WHERE t.task_id = ANY ($1) AND ",
    acknowledged!("$2"),
    " ORDER BY t.task_id"
));
// Of finished tasks nothing is held. The places of a concurrency key go with its last task; a task that is being created
// with the key meanwhile finds them missing at its first claim, which makes them anew.
static DELETE_SLOTS: Statement =
    Statement::write("DELETE FROM stepwise.slots WHERE kind = 'task' AND owner_id = ANY ($1)");
static DELETE_KEY_SLOTS: Statement = Statement::write(
    "DELETE FROM stepwise.slots s WHERE s.kind = 'key' AND s.owner_id = 0 AND s.key = ANY ($1) AND s.task_id IS NULL \
     AND NOT EXISTS (SELECT FROM stepwise.tasks t WHERE t.concurrency_key = s.key)",
);
static DELETE_INJECTED: Statement = Statement::write("DELETE FROM stepwise.injected_failures WHERE task_id = ANY ($1)");
static KEYS: Statement = Statement::write(
    "SELECT DISTINCT concurrency_key FROM stepwise.tasks WHERE task_id = ANY ($1) AND concurrency_key IS NOT NULL",
);
static DELETE_TRANSITIONS: Statement = Statement::write("DELETE FROM stepwise.transitions WHERE task_id = ANY ($1)");
static DELETE_STEPS: Statement = Statement::write("DELETE FROM stepwise.steps WHERE task_id = ANY ($1)");
static DELETE_TASKS: Statement = Statement::write("DELETE FROM stepwise.tasks WHERE task_id = ANY ($1)");

/// Removes at most `most` tasks in one of `states` that ended longer ago than `older_than`; returns how many.
pub fn purge(older_than: Span, most: i32, states: &[&str]) -> i32 {
    // Where nothing may go it would write nothing.
    catalog::refuse_on_standby(c"stepwise.purge_tasks()");
    let older_than = if planted(Bug::PurgedYoung) { Span(0) } else { older_than };
    let before: Timestamp = time::now().plus(Span(older_than.0.saturating_neg()));
    spi::session(|spi| {
        let acknowledged = subscriptions::acknowledged_by_all(spi);
        let ended = [param(before), array(states), param(i64::from(most)), param(acknowledged)];
        let rows = match access::restriction() {
            None => CANDIDATES.run(spi, &ended),
            Some(only) => CANDIDATES_OF.run(spi, &[ended[0], ended[1], ended[2], ended[3], only.names()]),
        };
        let candidates: Vec<i64> = rows.iter().map(|row| row.want(1)).collect();
        if candidates.is_empty() {
            return 0;
        }
        LOCK_STEPS.run(spi, &[array(&candidates)]);
        let rows = LOCK_TASKS.run(spi, &[param(before), array(states), array(&candidates)]);
        let ids: Vec<i64> = rows.iter().map(|row| row.want(1)).collect();
        let acknowledged = subscriptions::acknowledged_by_all(spi);
        let rows = ACKNOWLEDGED.run(spi, &[array(&ids), param(acknowledged)]);
        let ids: Vec<i64> = rows.iter().map(|row| row.want(1)).collect();
        let keys: Vec<String> = KEYS.run(spi, &[array(&ids)]).iter().map(|row| row.want(1)).collect();
        scope::writing(Cause::default(), || {
            for statement in [&DELETE_SLOTS, &DELETE_INJECTED, &DELETE_TRANSITIONS, &DELETE_STEPS, &DELETE_TASKS] {
                statement.run(spi, &[array(&ids)]);
            }
            if !keys.is_empty() {
                DELETE_KEY_SLOTS.run(spi, &[array(&keys)]);
            }
        });
        ids.len() as i32
    })
}

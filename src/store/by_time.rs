//! What is due, what can be claimed, and what comes next: statements that go by the time alone. Each stands once, and is
//! kept for every caller and for one who is restricted to namespaces.
use super::access::{self, of_namespaces};
use super::ranges::{open_queue, over_ranges};
use crate::pg::spi::{Rows, Session, Statement};
use crate::pg::value::Param;

/// A statement with one parameter.
pub struct ByTime {
    of_all: Statement,
    /// Its second parameter are the namespaces.
    of_some: Statement,
}

impl ByTime {
    /// Runs it for the namespaces of the caller.
    pub fn run(&'static self, spi: &Session, param: Param) -> Rows {
        match access::restriction() {
            None => self.of_all.run(spi, &[param]),
            Some(only) => self.of_some.run(spi, &[param, only.names()]),
        }
    }
}

/// No condition on a row.
macro_rules! anywhere {
    ($row:literal) => {
        ""
    };
}

macro_rules! in_namespaces {
    ($row:literal) => {
        of_namespaces!($row, "$2")
    };
}

macro_rules! by_time {
    ($access:ident, $sql:ident) => {
        ByTime { of_all: Statement::$access($sql!(anywhere)), of_some: Statement::$access($sql!(in_namespaces)) }
    };
}

macro_rules! due_steps {
    ($only:ident) => {
        over_ranges!(
            "true",
            concat!(
                "SELECT h.task_id, h.step_id FROM ranges AS r \
                 CROSS JOIN LATERAL ( \
                     SELECT s.task_id, s.step_id, s.template_id, s.state FROM stepwise.steps AS s \
                     WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at <= $1",
                $only!("s"),
                " ORDER BY s.visible_at LIMIT 10000) AS h \
                 WHERE r.priority IS NOT NULL \
                     AND (h.state = 'in_progress' OR h.state = 'pending' AND EXISTS ( \
                         SELECT FROM stepwise.template_steps AS e \
                         WHERE e.template_id = h.template_id AND e.step_id = h.step_id AND e.kind = 'wait')) \
                 LIMIT 1000"
            )
        )
    };
}

macro_rules! overdue_tasks {
    ($only:ident) => {
        concat!(
            "SELECT t.task_id FROM stepwise.tasks AS t WHERE t.deadline <= $1",
            $only!("t"),
            " ORDER BY t.deadline LIMIT 1000"
        )
    };
}

macro_rules! ready_queues {
    ($only:ident) => {
        over_ranges!(
            "NOT q.paused",
            concat!(
                "SELECT DISTINCT r.queue_id FROM ranges AS r \
                 WHERE r.priority IS NOT NULL AND EXISTS ( \
                     SELECT FROM stepwise.steps AS s \
                     WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at <= $1",
                $only!("s"),
                ") ORDER BY 1"
            )
        )
    };
}

macro_rules! next_due {
    ($only:ident) => {
        over_ranges!(
            "true",
            concat!(
                "SELECT least( \
                     (SELECT min((SELECT s.visible_at FROM stepwise.steps AS s \
                          WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at > $1 \
                              AND s.visible_at < 'infinity'",
                $only!("s"),
                " ORDER BY s.visible_at LIMIT 1)) \
                      FROM ranges AS r WHERE r.priority IS NOT NULL), \
                     (SELECT t.deadline FROM stepwise.tasks AS t WHERE t.deadline > $1",
                $only!("t"),
                " ORDER BY t.deadline LIMIT 1))"
            )
        )
    };
}

// One probe for each priority. A queue that is full gets a place when a step ends, which is announced, or when a lease
// does.
macro_rules! next_visible {
    ($only:ident) => {
        over_ranges!(
            concat!("($1 IS NULL OR q.name = ANY ($1)) AND ", open_queue!()),
            concat!(
                "SELECT least( \
                     (SELECT min((SELECT s.visible_at FROM stepwise.steps AS s \
                          WHERE s.queue_id = r.queue_id AND s.priority = r.priority AND s.visible_at < 'infinity'",
                $only!("s"),
                " ORDER BY s.visible_at LIMIT 1)) \
                      FROM ranges AS r WHERE r.priority IS NOT NULL), \
                     (SELECT min((SELECT s.visible_at FROM stepwise.steps AS s \
                          WHERE s.task_id = b.task_id AND s.step_id = b.step_id",
                $only!("s"),
                ")) \
                      FROM stepwise.slots AS b JOIN stepwise.queues AS q ON q.queue_id = b.owner_id \
                      WHERE b.kind = 'queue' AND b.task_id IS NOT NULL AND NOT q.paused \
                          AND ($1 IS NULL OR q.name = ANY ($1))))"
            )
        )
    };
}

/// Of each queue and priority, among the ten thousand oldest visible steps: those held beyond their leases at the time
/// `$1`, and waits beyond their time; a thousand at most.
pub static DUE_STEPS: ByTime = by_time!(write, due_steps);
/// A thousand at most.
pub static OVERDUE_TASKS: ByTime = by_time!(write, overdue_tasks);
/// Queues from which a claim would get a step at the time `$1`.
pub static READY_QUEUES: ByTime = by_time!(write, ready_queues);
/// The earliest time after `$1` at which a step becomes visible or a task runs out of time.
pub static NEXT_DUE: ByTime = by_time!(read, next_due);
/// The earliest time at which a step of the queues named `$1` (NULL: all) can be claimed.
pub static NEXT_VISIBLE: ByTime = by_time!(read, next_visible);

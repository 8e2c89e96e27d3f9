//! The check of every invariant, by a function in plain SQL (sql/schema/047_verify.sql), run as the owner: it reads a column
//! that is hidden from readers, and shows none of it.
use super::access::{self, Restriction};
use crate::pg::lookup::Sees;
use crate::pg::spi::{self, Statement};
use crate::pg::value::param;

static VIOLATIONS: Statement =
    Statement::call("SELECT invariant, task_id, step_id, detail FROM stepwise.find_violations($1, $2)");

/// Something that is not as it must be.
pub struct Violation {
    pub invariant: String,
    pub task_id: Option<i64>,
    pub step_id: Option<i32>,
    pub detail: Option<String>,
}

/// The violations in one task or, `None`, in all that the caller may see.
pub fn verify(task_id: Option<i64>) -> Vec<Violation> {
    let restriction = access::restriction();
    let has = |task_id: Option<i64>, only: &Restriction| task_id.is_some_and(|id| only.has_task(Sees::Statement, id));
    let (first, last) = task_id.map_or((i64::MIN, i64::MAX), |task_id| (task_id, task_id));
    spi::session(|spi| {
        let rows = VIOLATIONS.run(spi, &[param(first), param(last)]);
        let violations = rows.iter().map(|row| Violation {
            invariant: row.want(1),
            task_id: row.get(2),
            step_id: row.get(3),
            detail: row.get(4),
        });
        violations.filter(|one| restriction.as_ref().is_none_or(|only| has(one.task_id, only))).collect()
    })
}

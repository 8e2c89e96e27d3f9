//! Audit: whether what is stored holds together. A reader.
use crate::engine::access::Level;
use crate::store::access::command;
use crate::store::audit;
use pgrx::prelude::*;

#[pg_extern(stable, parallel_safe)]
#[allow(clippy::type_complexity)]
fn verify(
    task_id: default!(Option<i64>, "NULL"),
) -> TableIterator<
    'static,
    (name!(invariant, String), name!(task_id, Option<i64>), name!(step_id, Option<i32>), name!(detail, Option<String>)),
> {
    let found = command(Level::Reader, || audit::verify(task_id));
    TableIterator::new(found.into_iter().map(|one| (one.invariant, one.task_id, one.step_id, one.detail)))
}

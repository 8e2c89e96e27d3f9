//! Access: which namespaces the current role may use. For the policies of the tables, and for whoever writes functions
//! over them.
use crate::engine::access::Level;
use crate::pg::error::{ArgumentError, Outcome, finish};
use crate::pg::lookup::Sees;
use crate::pg::role;
use crate::store::access::{Restriction, restriction_at};
use pgrx::prelude::*;

fn restriction(level: &str) -> Outcome<Option<Restriction>> {
    let expected = "reader, worker, operator or author";
    let known = Level::parse(level);
    let level = known.ok_or_else(|| ArgumentError::OutOfRange { name: "level", value: level.to_owned(), expected })?;
    Ok(restriction_at(level))
}

/// Whether the role is unrestricted, or the test of its restriction holds.
fn may(level: &str, test: impl FnOnce(&Restriction) -> bool) -> bool {
    finish(restriction(level)).is_none_or(|restriction| test(&restriction))
}

#[pg_extern(stable, parallel_safe, strict)]
fn may_use_all(level: &str) -> bool {
    role::catch_up();
    may(level, |_| false)
}

#[pg_extern(stable, parallel_safe, strict)]
fn may_use_namespace(level: &str, namespace: &str) -> bool {
    may(level, |restriction| restriction.has_namespace(namespace))
}

#[pg_extern(stable, parallel_safe, strict)]
fn may_use_template(level: &str, template_id: i64) -> bool {
    may(level, |restriction| restriction.has_template(template_id))
}

#[pg_extern(stable, parallel_safe, strict)]
fn may_use_task(level: &str, task_id: i64) -> bool {
    may(level, |restriction| restriction.has_task(Sees::Statement, task_id))
}

#[pg_extern(stable, parallel_safe, strict)]
fn may_use_queue(level: &str, queue_id: i64) -> bool {
    may(level, |restriction| restriction.has_queue(queue_id))
}

//! Namespaces whose events are not announced: whoever can connect can LISTEN.
use super::access;
use super::columns::namespaces as column;
use super::error::StoreError;
use crate::pg::catalog;
use crate::pg::committed::each_row;
use crate::pg::role;
use crate::pg::spi::{self, Statement};
use crate::pg::value::param;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

#[derive(Default)]
struct Known {
    generation: u64,
    private: HashSet<Box<str>>,
    queues: HashMap<i64, bool>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known::default());
}

static QUEUE_IS_PRIVATE: Statement = Statement::fresh(
    "SELECT EXISTS (SELECT FROM stepwise.template_steps e JOIN stepwise.templates t ON t.template_id = e.template_id \
         JOIN stepwise.namespaces n ON n.namespace_id = t.namespace_id WHERE e.queue_id = $1 AND n.private)",
);
static SET: Statement = Statement::write(
    "UPDATE stepwise.namespaces SET private = $2 WHERE name = $1 AND private IS DISTINCT FROM $2 RETURNING 1",
);
static EXISTS: Statement = Statement::write("SELECT 1 FROM stepwise.namespaces WHERE name = $1");

fn refresh() {
    if KNOWN.with_borrow(|known| known.generation) == role::generation() {
        return;
    }
    let generation = role::watch();
    let mut private = HashSet::new();
    each_row(c"namespaces", |row| {
        if row.get::<bool>(column::PRIVATE as usize) == Some(true) {
            private.extend(row.get::<String>(column::NAME as usize).map(String::into_boxed_str));
        }
    });
    KNOWN.set(Known { generation, private, queues: HashMap::new() });
}

/// Whether nothing of the namespace is announced.
pub fn is_private(namespace: &str) -> bool {
    refresh();
    KNOWN.with_borrow(|known| known.private.contains(namespace))
}

/// Whether steps of a private namespace wait in the queue: then its name is not announced.
pub fn is_private_queue(queue_id: i64) -> bool {
    refresh();
    let known = KNOWN.with_borrow(|known| match known.private.is_empty() {
        true => Some(false),
        false => known.queues.get(&queue_id).copied(),
    });
    known.unwrap_or_else(|| {
        let private = catalog::as_owner_of(catalog::incarnation(), || {
            spi::session(|spi| QUEUE_IS_PRIVATE.run(spi, &[param(queue_id)]).first().is_some_and(|row| row.want(1)))
        });
        KNOWN.with_borrow_mut(|known| known.queues.insert(queue_id, private));
        private
    })
}

/// Makes a namespace private, or ends that; whether that changes anything.
pub fn set_private(namespace: &str, private: bool) -> Result<bool, StoreError> {
    let not_found = || StoreError::NamespaceNotFound { namespace: namespace.to_owned() };
    if access::restriction().is_some_and(|restriction| !restriction.has_namespace(namespace)) {
        return Err(not_found());
    }
    spi::session(|spi| {
        if EXISTS.run(spi, &[param(namespace)]).count == 0 {
            return Err(not_found());
        }
        Ok(SET.run(spi, &[param(namespace), param(private)]).count > 0)
    })
}

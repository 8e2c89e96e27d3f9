//! What operators do to queues. A trigger does what follows from it (sql/schema/035_limits.sql).
use super::access;
use super::error::StoreError;
use crate::pg::spi::{self, Session, Statement};
use crate::pg::value::param;

static FIND: Statement = Statement::fresh("SELECT queue_id FROM stepwise.queues WHERE name = $1");
static LOCK: Statement = Statement::write("SELECT paused FROM stepwise.queues WHERE queue_id = $1 FOR UPDATE");
static SET_PAUSED: Statement = Statement::write("UPDATE stepwise.queues SET paused = $2 WHERE queue_id = $1");
static SET_LIMIT: Statement = Statement::write("UPDATE stepwise.queues SET max_in_flight = $2 WHERE queue_id = $1");

/// The queue, if the caller may change it: what is done to a queue is done to all who use it.
fn own(spi: &Session, name: &str) -> Result<i64, StoreError> {
    let not_found = || StoreError::QueueNotFound { queue: name.to_owned() };
    let queue_id = FIND.run(spi, &[param(name)]).first().map(|row| row.want(1)).ok_or_else(not_found)?;
    if let Some(restriction) = access::restriction() {
        match restriction.uses_of_queue(queue_id) {
            (false, _) => return Err(not_found()),
            (true, true) => return Err(StoreError::QueueShared { queue: name.to_owned() }),
            (true, false) => {}
        }
    }
    Ok(queue_id)
}

/// Pauses or resumes a queue; whether that changes anything.
pub fn set_paused(name: &str, paused: bool) -> Result<bool, StoreError> {
    spi::session(|spi| {
        let queue_id = own(spi, name)?;
        let was = LOCK.run(spi, &[param(queue_id)]).first().map(|row| row.want::<bool>(1));
        if was != Some(paused) {
            SET_PAUSED.run(spi, &[param(queue_id), param(paused)]);
        }
        Ok(was != Some(paused))
    })
}

/// The most steps of a queue that are in progress at once; 0: no limit.
pub fn set_limit(name: &str, most: i32) -> Result<(), StoreError> {
    spi::session(|spi| {
        let queue_id = own(spi, name)?;
        SET_LIMIT.run(spi, &[param(queue_id), param(most)]);
        Ok(())
    })
}

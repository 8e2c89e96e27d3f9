//! AFTER a change, for each statement, of rows that backends remember beyond a transaction: tells them to read anew.
use crate::pg::role;
use crate::pg::trigger::{TriggerRow, table};
use pgrx::pg_sys;
use pgrx::prelude::*;

#[pg_extern]
fn tell_backends(fcinfo: pg_sys::FunctionCallInfo) -> TriggerRow {
    role::tell_backends(table(fcinfo));
    TriggerRow::none()
}

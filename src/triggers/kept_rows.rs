//! BEFORE UPDATE, DELETE or TRUNCATE, for each statement, of rows that only the engine changes or removes.
use crate::pg::error::{Outcome, finish};
use crate::pg::trigger::{TriggerRow, table_name};
use crate::store::error::StoreError;
use crate::store::scope;
use pgrx::pg_sys;
use pgrx::prelude::*;

fn keep(fcinfo: pg_sys::FunctionCallInfo) -> Outcome<TriggerRow> {
    let table = table_name(fcinfo);
    if scope::active() { Ok(TriggerRow::none()) } else { Err(StoreError::KeptRow { table }.into()) }
}

#[pg_extern]
fn keep_rows(fcinfo: pg_sys::FunctionCallInfo) -> TriggerRow {
    finish(keep(fcinfo))
}

//! Rows as triggers see them.
use super::value::{Bind, Column, Tid};
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pg_sys::{self, Datum};
use pgrx::prelude::*;
use std::ffi::CStr;

/// What a trigger returns: the row to store, or nothing from an AFTER trigger. By the protocol it is never NULL.
pub struct TriggerRow(Datum);

impl TriggerRow {
    pub fn none() -> Self {
        Self(Datum::null())
    }
}

// SAFETY: returns the datum as the trigger protocol wants it, a tuple's address or zero.
unsafe impl BoxRet for TriggerRow {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

pgrx::impl_sql_translatable!(TriggerRow, "trigger");

/// A row of the trigger's table; columns count from 1.
pub struct SlotRow(*mut pg_sys::TupleTableSlot);

impl SlotRow {
    pub(super) fn of(slot: *mut pg_sys::TupleTableSlot) -> Self {
        Self(slot)
    }

    #[inline]
    pub fn get<T: Column>(&self, column: i32) -> Option<T> {
        // SAFETY: the slot holds a row of the table; the callers' column numbers and types are those of its DDL, which
        // a test compares with the catalog.
        unsafe {
            if i32::from((*self.0).tts_nvalid) < column {
                pg_sys::slot_getsomeattrs_int(self.0, column);
            }
            let index = column as usize - 1;
            (!*(*self.0).tts_isnull.add(index)).then(|| T::read(*(*self.0).tts_values.add(index)))
        }
    }

    #[inline]
    pub fn want<T: Column>(&self, column: i32) -> T {
        match self.get(column) {
            Some(value) => value,
            None => super::spi::internal_error("NULL in column", column, "a row in a trigger"),
        }
    }

    /// Where this version of the row lies, in a table's own slot.
    pub fn tid(&self) -> Tid {
        // SAFETY: the slot holds a row of the table.
        Tid(unsafe { (*self.0).tts_tid })
    }

    /// A text column, read in place.
    #[inline]
    pub fn text(&self, column: i32) -> &str {
        match self.get::<RawText>(column) {
            // SAFETY: text of a UTF-8 (or SQL_ASCII) database, in the slot's memory. A short one, as states are, is
            // stored as it is; any other may have to be fetched or decompressed.
            Some(RawText(datum)) => unsafe {
                let text: *const pg_sys::varlena = datum.cast_mut_ptr();
                if pgrx::varlena::varatt_is_1b(text) && !pgrx::varlena::varatt_is_1b_e(text) {
                    pgrx::varlena::text_to_rust_str(text).unwrap_or("")
                } else {
                    pgrx::FromDatum::from_datum(datum, false).unwrap_or("")
                }
            },
            None => "",
        }
    }
}

struct RawText(Datum);
impl Column for RawText {
    unsafe fn read(datum: Datum) -> Self {
        RawText(datum)
    }
}

fn trigger_data(fcinfo: pg_sys::FunctionCallInfo) -> &'static pg_sys::TriggerData {
    // SAFETY: `fcinfo` comes from Postgres; CALLED_AS_TRIGGER is checked before the context is read.
    unsafe {
        if !pgrx::trigger_support::called_as_trigger(fcinfo) {
            pgrx::ereport!(
                PgLogLevel::ERROR,
                PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                "function was not called by a trigger"
            );
        }
        &*(*fcinfo).context.cast::<pg_sys::TriggerData>()
    }
}

/// The name of the trigger's table.
pub fn table_name(fcinfo: pg_sys::FunctionCallInfo) -> String {
    let data = trigger_data(fcinfo);
    // SAFETY: the relation is open while its trigger runs; its name is a C string.
    unsafe { CStr::from_ptr((*(*data.tg_relation).rd_rel).relname.data.as_ptr()) }.to_string_lossy().into_owned()
}

/// The trigger's table.
pub fn table(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Oid {
    // SAFETY: the relation is open while its trigger runs.
    unsafe { (*trigger_data(fcinfo).tg_relation).rd_id }
}

/// A BEFORE UPDATE trigger for one row: reads both rows, replaces columns of the new one.
pub struct RowUpdate {
    data: &'static pg_sys::TriggerData,
    columns: Vec<i32>,
    values: Vec<Datum>,
    nulls: Vec<bool>,
}

impl RowUpdate {
    pub fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        Self { data: trigger_data(fcinfo), columns: Vec::new(), values: Vec::new(), nulls: Vec::new() }
    }

    pub fn old(&self) -> SlotRow {
        SlotRow(self.data.tg_trigslot)
    }

    pub fn asked(&self) -> SlotRow {
        SlotRow(self.data.tg_newslot)
    }

    pub fn set<T: Bind>(&mut self, column: i32, value: Option<T>) {
        self.columns.push(column);
        self.nulls.push(value.is_none());
        self.values.push(value.map_or(Datum::null(), |value| value.datum()));
    }

    /// Sets the column where the value is another one than the row has.
    pub fn set_if_changed<T: Bind + PartialEq>(&mut self, column: i32, from: Option<T>, to: Option<T>) {
        if from != to {
            self.set(column, to);
        }
    }

    /// The row to store, as a trigger returns it.
    pub fn finish(mut self) -> TriggerRow {
        if self.columns.is_empty() {
            return TriggerRow(Datum::from(self.data.tg_newtuple));
        }
        // SAFETY: the new row of the trigger's table and columns of it.
        unsafe {
            TriggerRow(Datum::from(pg_sys::heap_modify_tuple_by_cols(
                self.data.tg_newtuple,
                (*self.data.tg_relation).rd_att,
                self.columns.len() as i32,
                self.columns.as_mut_ptr(),
                self.values.as_mut_ptr(),
                self.nulls.as_mut_ptr(),
            )))
        }
    }
}

/// Walks the transition tables of an AFTER UPDATE statement trigger in step: each row as it was and as it is.
pub fn each_updated_row(fcinfo: pg_sys::FunctionCallInfo, mut visit: impl FnMut(&SlotRow, &SlotRow)) {
    let data = trigger_data(fcinfo);
    // SAFETY: the trigger is declared with both transition tables, which hold the same rows in the same order. The
    // slots are dropped below, or with the memory context where an error passes.
    unsafe {
        let descriptor = (*data.tg_relation).rd_att;
        let old = pg_sys::MakeSingleTupleTableSlot(descriptor, &pg_sys::TTSOpsMinimalTuple);
        let new = pg_sys::MakeSingleTupleTableSlot(descriptor, &pg_sys::TTSOpsMinimalTuple);
        pg_sys::tuplestore_rescan(data.tg_oldtable);
        pg_sys::tuplestore_rescan(data.tg_newtable);
        while pg_sys::tuplestore_gettupleslot(data.tg_newtable, true, false, new)
            && pg_sys::tuplestore_gettupleslot(data.tg_oldtable, true, false, old)
        {
            visit(&SlotRow(old), &SlotRow(new));
        }
        pg_sys::ExecDropSingleTupleTableSlot(old);
        pg_sys::ExecDropSingleTupleTableSlot(new);
    }
}

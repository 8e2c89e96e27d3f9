//! A set of rows returned at once: written into a tuplestore, not asked for one by one, which for rows of many columns
//! takes several times as long.
use super::value::Param;
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pg_sys::{self, Datum};
use pgrx::prelude::*;

/// What such a function returns: nothing beside its tuplestore.
pub struct RowsReturned(());

// SAFETY: in materialize mode the result itself is NULL.
unsafe impl BoxRet for RowsReturned {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        fcinfo.return_null()
    }
}

pgrx::impl_sql_translatable!(RowsReturned, "record");

/// The argument at `place`, counted from 0; `None`: NULL. `T` must be what the function's SQL declares.
pub fn argument<T: pgrx::FromDatum>(fcinfo: pg_sys::FunctionCallInfo, place: usize) -> Option<T> {
    // SAFETY: the number and types of the arguments are those of the declaration beside the function.
    unsafe { pgrx::fcinfo::pg_getarg(fcinfo, place) }
}

/// Returns `rows`, each with a value for every column of the function's result.
pub fn return_rows<const COLUMNS: usize>(
    fcinfo: pg_sys::FunctionCallInfo,
    rows: impl Iterator<Item = [Param; COLUMNS]>,
) -> RowsReturned {
    // SAFETY: `fcinfo` comes from Postgres. The tuplestore and its description live in the memory of the query that asked,
    // to which they are handed over; rows have as many values as the function declares columns, which is checked.
    unsafe {
        let set: *mut pg_sys::ReturnSetInfo = (*fcinfo).resultinfo.cast();
        let mode = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
        let is_set = !set.is_null() && (*set).type_ == pg_sys::NodeTag::T_ReturnSetInfo;
        if !is_set || (*set).allowedModes as u32 & mode == 0 || (*set).expectedDesc.is_null() {
            pgrx::ereport!(
                PgLogLevel::ERROR,
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "function must be called in FROM"
            );
        }
        let query = (*(*set).econtext).ecxt_per_query_memory;
        let caller = pg_sys::MemoryContextSwitchTo(query);
        let description = pg_sys::CreateTupleDescCopy((*set).expectedDesc);
        let store = pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem);
        pg_sys::MemoryContextSwitchTo(caller);
        if (*description).natts as usize != COLUMNS {
            super::spi::internal_error("number of columns", (*description).natts, "a function that returns rows");
        }
        for row in rows {
            let mut values = row.map(|param| if param.null { Datum::null() } else { param.datum });
            let mut nulls = row.map(|param| param.null);
            pg_sys::tuplestore_putvalues(store, description, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
        (*set).returnMode = mode;
        (*set).setResult = store;
        (*set).setDesc = description;
        RowsReturned(())
    }
}

//! A set of rows returned at once: written into a tuplestore, not asked for one by one, which for rows of many columns
//! takes several times as long.
use super::value::{Param, param};
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

/// The arguments of a function, by their places from 0 on.
pub struct Arguments(pub pg_sys::FunctionCallInfo);

impl Arguments {
    pub fn get<T: pgrx::FromDatum>(&self, place: usize) -> Option<T> {
        argument(self.0, place)
    }
}

/// A column without a value.
pub const NULL: Param = Param { oid: pg_sys::InvalidOid, datum: Datum::null(), null: true };

/// A uuid in place: the parameter holds while its bytes are there.
pub fn uuid(bytes: &[u8; 16]) -> Param {
    Param { oid: pg_sys::UUIDOID, datum: Datum::from(bytes.as_ptr()), null: false }
}

/// The rows that a function returns.
pub struct Rows<const COLUMNS: usize> {
    store: *mut pg_sys::Tuplestorestate,
    description: pg_sys::TupleDesc,
}

impl<const COLUMNS: usize> Rows<COLUMNS> {
    /// Adds a row: copies a value for every column of the function's result.
    #[inline]
    pub fn put(&mut self, row: [Param; COLUMNS]) {
        let mut values = row.map(|param| if param.null { Datum::null() } else { param.datum });
        let mut nulls = row.map(|param| param.null);
        // SAFETY: as many values as the function declares columns, which `return_rows` has checked.
        unsafe { pg_sys::tuplestore_putvalues(self.store, self.description, values.as_mut_ptr(), nulls.as_mut_ptr()) };
    }
}

/// Returns the rows that `write` puts.
pub fn return_rows<const COLUMNS: usize>(
    fcinfo: pg_sys::FunctionCallInfo,
    write: impl FnOnce(&mut Rows<COLUMNS>),
) -> RowsReturned {
    // SAFETY: `fcinfo` comes from Postgres. The tuplestore lives in the memory of the query that asked, to which it is
    // handed over. Its rows are formed by the description that the query expects, so none is returned to compare with it.
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
        let description = (*set).expectedDesc;
        if (*description).natts as usize != COLUMNS {
            super::spi::internal_error("number of columns", (*description).natts, "a function that returns rows");
        }
        let caller = pg_sys::MemoryContextSwitchTo((*(*set).econtext).ecxt_per_query_memory);
        let store = pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem);
        pg_sys::MemoryContextSwitchTo(caller);
        write(&mut Rows { store, description });
        (*set).returnMode = mode;
        (*set).setResult = store;
        (*set).setDesc = std::ptr::null_mut();
        RowsReturned(())
    }
}

/// Room for one text of one row after the other, so that a row's texts take no memory of their own.
pub struct TextRoom(*mut pg_sys::varlena);

impl TextRoom {
    /// The most that a text with a header of one byte holds.
    const SHORT: usize = 126;

    /// In the current memory context.
    pub fn new() -> Self {
        // SAFETY: as many bytes as the longest short text and its header.
        Self(unsafe { pg_sys::palloc(Self::SHORT + 1) }.cast())
    }

    /// The text as a parameter, which holds until the next one is asked for.
    #[inline]
    pub fn hold(&mut self, text: &str) -> Param {
        if text.len() > Self::SHORT {
            return param(text);
        }
        // SAFETY: text and header fit.
        unsafe {
            pgrx::varlena::set_varsize_short(self.0, text.len() as i32 + 1);
            self.0.cast::<u8>().add(1).copy_from_nonoverlapping(text.as_ptr(), text.len());
        }
        Param { oid: pg_sys::TEXTOID, datum: Datum::from(self.0), null: false }
    }
}

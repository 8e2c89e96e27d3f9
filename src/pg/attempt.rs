//! A call of a function in a subtransaction: what it wrote goes with its error, of which every field is kept. pgrx' own
//! guard would keep a few of them, and no SQLSTATE that is not in PostgreSQL's list.
use super::error::sqlstate;
use super::jsonb::Jsonb;
use super::spi::{Rows, Session, internal_error, split};
use super::value::Param;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_long};

/// The fields of an error that have a value.
pub struct Failure {
    pub sqlstate: String,
    pub message: Option<String>,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub context: Option<String>,
    pub schema: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
    pub datatype: Option<String>,
}

/// Who cancels a call means everything around it too.
const QUERY_CANCELED: &str = "57014";

// Without pgrx' guard, which would turn an error into less than it is.
unsafe extern "C-unwind" {
    fn SPI_prepare_cursor(
        sql: *const c_char,
        count: c_int,
        types: *mut pg_sys::Oid,
        options: c_int,
    ) -> pg_sys::SPIPlanPtr;
    fn SPI_keepplan(plan: pg_sys::SPIPlanPtr) -> c_int;
    fn SPI_execute_plan(
        plan: pg_sys::SPIPlanPtr,
        values: *mut pg_sys::Datum,
        nulls: *const c_char,
        read_only: bool,
        count: c_long,
    ) -> c_int;
    fn ReleaseCurrentSubTransaction();
}

thread_local! {
    /// Kept plans by role and statement: what a role may call is checked where Postgres puts the function's body into the
    /// plan.
    static PLANS: RefCell<HashMap<(pg_sys::Oid, String), pg_sys::SPIPlanPtr>> = RefCell::default();
}

/// Runs a statement that returns one jsonb, with the rights and the settings in force. A cancel is no failure of the call:
/// it is raised again. `keep`, which must ask nothing of Postgres, is asked once the call has returned; `None`: it said
/// no, and what the call wrote is gone.
pub fn attempt(
    _session: &Session,
    sql: String,
    params: &[Param],
    keep: impl Fn() -> bool,
) -> Option<Result<Option<Jsonb>, Box<Failure>>> {
    // SAFETY: as plpgsql runs a block with an EXCEPTION clause: memory context, resource owner, exception stack and error
    // context are put back to what they were. The closure owns nothing that would have to be dropped where an error jumps
    // over it; a plan is kept for ever, and prepared for parameters of these types.
    unsafe {
        let key = (pg_sys::GetUserId(), sql);
        let plan = Cell::new(PLANS.with_borrow(|plans| plans.get(&key).copied()).unwrap_or(std::ptr::null_mut()));
        let code: Cell<c_int> = Cell::new(0);
        let kept = Cell::new(true);
        let known = !plan.get().is_null();
        let text = CString::new(key.1.as_str()).unwrap_or_default();
        let mut types: Vec<pg_sys::Oid> = params.iter().map(|param| param.oid).collect();
        let (mut values, nulls) = split(params);
        let (memory, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        let (stack, context) = (pg_sys::PG_exception_stack, pg_sys::error_context_stack);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
        let jumped = cee_scape::call_with_sigsetjmp(false, |buffer| {
            pg_sys::PG_exception_stack = std::ptr::from_ref(buffer).cast_mut().cast();
            if plan.get().is_null() {
                let options = pg_sys::CURSOR_OPT_GENERIC_PLAN as c_int;
                let prepared = SPI_prepare_cursor(text.as_ptr(), types.len() as c_int, types.as_mut_ptr(), options);
                SPI_keepplan(prepared);
                plan.set(prepared);
            }
            code.set(SPI_execute_plan(plan.get(), values.as_mut_ptr(), nulls.as_ptr().cast(), false, 0));
            kept.set(keep());
            if kept.get() {
                ReleaseCurrentSubTransaction();
            }
            0
        });
        pg_sys::PG_exception_stack = stack;
        pg_sys::error_context_stack = context;
        pg_sys::MemoryContextSwitchTo(memory);
        let failure = (jumped != 0).then(|| {
            let error = pg_sys::CopyErrorData();
            pg_sys::FlushErrorState();
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
            pg_sys::MemoryContextSwitchTo(memory);
            error
        });
        if failure.is_none() && !kept.get() {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
            pg_sys::MemoryContextSwitchTo(memory);
        }
        pg_sys::CurrentResourceOwner = owner;
        if !known && !plan.get().is_null() {
            PLANS.with_borrow_mut(|plans| plans.insert(key, plan.get()));
        }
        match failure.map(|error| (error, Box::new(read(&*error)))) {
            Some((error, failure)) if failure.sqlstate == QUERY_CANCELED => {
                drop(failure);
                rethrow(error)
            }
            Some((_, failure)) => Some(Err(failure)),
            None if !kept.get() => None,
            None if code.get() < 0 => internal_error("SPI_execute_plan", code.get(), "a call in a subtransaction"),
            None => Some(Ok(Rows::take().first().and_then(|row| row.keep(1)))),
        }
    }
}

/// Raises an error again as it was.
#[allow(unreachable_code)] // the bindings of 18 do not say that it never returns
unsafe fn rethrow(error: *mut pg_sys::ErrorData) -> ! {
    // SAFETY: a copy of an error that has been taken.
    unsafe { pg_sys::ReThrowError(error) };
    unreachable!("an ERROR does not return")
}

unsafe fn read(error: &pg_sys::ErrorData) -> Failure {
    // SAFETY: a field is NULL or a C string.
    let text = |field: *const c_char| unsafe {
        (!field.is_null()).then(|| CStr::from_ptr(field).to_string_lossy().into_owned())
    };
    let filled = |field| text(field).filter(|text| !text.is_empty());
    Failure {
        sqlstate: sqlstate(error.sqlerrcode),
        message: text(error.message),
        detail: filled(error.detail),
        hint: filled(error.hint),
        context: filled(error.context),
        schema: filled(error.schema_name),
        table: filled(error.table_name),
        column: filled(error.column_name),
        constraint: filled(error.constraint_name),
        datatype: filled(error.datatype_name),
    }
}

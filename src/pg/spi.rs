//! Statements: planned once per backend as generic plans, executed with typed parameters, their rows freed at once.
use super::value::{Column, Param};
use pgrx::pg_sys::{self, Datum};
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::{CStr, CString};

/// Proof that SPI is connected; its memory context holds parameters until the session ends.
pub struct Session(());

/// Runs `body` connected to SPI. Sessions nest: a trigger opens its own.
pub fn session<R>(body: impl FnOnce(&Session) -> R) -> R {
    Spi::connect(|_| body(&Session(())))
}

/// Whether a statement may write. A reader uses the caller's snapshot and never assigns a transaction id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// How a statement is planned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// All of its rows, as a keyed join.
    Keyed,
    /// The first rows of an ordered range, through a cursor.
    Scan,
    /// A range of a table that has a BRIN index for it.
    Window,
    /// A call of a function, whose own statements the planner is to plan as it likes.
    Call,
}

/// One SQL text with its kept plan. Make it a `static`.
pub struct Statement {
    sql: &'static str,
    access: Access,
    shape: Shape,
    plan: Cell<pg_sys::SPIPlanPtr>,
    planned: Cell<bool>,
}

// SAFETY: a backend has one thread, and pgrx refuses calls into Postgres from any other.
unsafe impl Sync for Statement {}

impl Statement {
    pub const fn write(sql: &'static str) -> Self {
        Self::new(sql, Access::Write, Shape::Keyed)
    }

    pub const fn read(sql: &'static str) -> Self {
        Self::new(sql, Access::Read, Shape::Keyed)
    }

    /// A read with a snapshot of its own, for rows that the caller's may be too old to show.
    pub const fn fresh(sql: &'static str) -> Self {
        Self::write(sql)
    }

    /// A call of a function that reads.
    pub const fn call(sql: &'static str) -> Self {
        Self::new(sql, Access::Read, Shape::Call)
    }

    /// To be opened with [`Statement::open`].
    pub const fn scan(sql: &'static str) -> Self {
        Self::new(sql, Access::Write, Shape::Scan)
    }

    /// A read, with the active snapshot, of what a BRIN index finds.
    pub const fn window(sql: &'static str) -> Self {
        Self::new(sql, Access::Read, Shape::Window)
    }

    const fn new(sql: &'static str, access: Access, shape: Shape) -> Self {
        Self { sql, access, shape, plan: Cell::new(std::ptr::null_mut()), planned: Cell::new(false) }
    }

    /// Executes the statement and takes its rows.
    pub fn run(&'static self, _session: &Session, params: &[Param]) -> Rows {
        let (mut values, nulls) = split(params);
        let plan = self.prepared(params);
        let _planner = self.planner_settings(plan);
        // SAFETY: the plan was prepared for parameters of these types.
        let code = unsafe {
            let read_only = self.access == Access::Read;
            pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr().cast(), read_only, 0)
        };
        if code < 0 {
            internal_error("SPI_execute_plan", code, self.sql);
        }
        self.planned.set(true);
        Rows::take()
    }

    /// Opens a cursor over the statement's rows: they are found, and locked, as they are fetched.
    pub fn open(&'static self, _session: &Session, params: &[Param]) -> Cursor {
        let (mut values, nulls) = split(params);
        let plan = self.prepared(params);
        let _planner = self.planner_settings(plan);
        // SAFETY: as in `run`; the portal lives until it is closed or the transaction ends.
        let portal = unsafe {
            pg_sys::SPI_cursor_open(std::ptr::null(), plan, values.as_mut_ptr(), nulls.as_ptr().cast(), false)
        };
        self.planned.set(true);
        Cursor(portal)
    }

    fn prepared(&self, params: &[Param]) -> pg_sys::SPIPlanPtr {
        if self.plan.get().is_null() {
            let mut types: Vec<pg_sys::Oid> = params.iter().map(|param| param.oid).collect();
            let options = match self.shape {
                Shape::Keyed | Shape::Window | Shape::Call => pg_sys::CURSOR_OPT_GENERIC_PLAN,
                Shape::Scan => pg_sys::CURSOR_OPT_GENERIC_PLAN | pg_sys::CURSOR_OPT_FAST_PLAN,
            };
            let Ok(sql) = CString::new(self.sql) else { internal_error("CString::new", 0, self.sql) };
            // SAFETY: a C string and an array of as many types as parameters; the kept plan lives as long as the
            // backend.
            unsafe {
                let plan =
                    pg_sys::SPI_prepare_cursor(sql.as_ptr(), types.len() as i32, types.as_mut_ptr(), options as i32);
                if plan.is_null() {
                    internal_error("SPI_prepare_cursor", pg_sys::SPI_result, self.sql);
                }
                pg_sys::SPI_keepplan(plan);
                self.plan.set(plan);
            }
        }
        self.plan.get()
    }

    /// The hot statements are keyed lookups by construction. Where Postgres is about to plan one, on an empty or
    /// freshly loaded table say, it must not choose a scan or a hash of the whole table: the plan is kept, it would be
    /// slow later, and it would lock rows in another order than the caller's sorted arrays.
    fn planner_settings(&self, plan: pg_sys::SPIPlanPtr) -> Option<PlannerSettings> {
        // SAFETY: the plan is kept for ever.
        let valid = self.planned.get() && unsafe { pg_sys::SPI_plan_is_valid(plan) };
        let settings = match self.shape {
            Shape::Keyed | Shape::Scan => KEYED,
            Shape::Window => WINDOW,
            Shape::Call => return None,
        };
        (!valid).then(|| PlannerSettings::set(settings))
    }
}

type Settings = &'static [(&'static CStr, &'static CStr)];

/// Ways that a keyed lookup never takes. `enable_memoize` is there since 14.
const KEYED: Settings = &[
    (c"enable_seqscan", c"off"),
    (c"enable_bitmapscan", c"off"),
    (c"enable_hashjoin", c"off"),
    (c"enable_mergejoin", c"off"),
    (c"enable_memoize", c"off"),
    (c"enable_material", c"off"),
    (c"jit", c"off"),
];

/// A BRIN index is read by a bitmap scan. So can a btree whose second column is asked for, from its one end to the other:
/// its cost counts entries, that of a BRIN index does not.
const WINDOW: Settings = &[
    (c"enable_seqscan", c"off"),
    (c"enable_bitmapscan", c"on"),
    (c"enable_indexscan", c"off"),
    (c"enable_indexonlyscan", c"off"),
    (c"cpu_index_tuple_cost", c"1e6"),
    (c"max_parallel_workers_per_gather", c"0"),
    (c"jit", c"off"),
];

/// Settings in force until dropped.
struct PlannerSettings(i32);

impl PlannerSettings {
    fn set(settings: Settings) -> Self {
        // SAFETY: a new nesting level of settings, ended by drop or by the abort of the transaction.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            for (name, value) in settings {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            Self(level)
        }
    }
}

impl Drop for PlannerSettings {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the level that `set` opened; on an error Postgres itself unwinds it.
            unsafe { pg_sys::AtEOXact_GUC(false, self.0) }
        }
    }
}

/// An open cursor, closed when dropped.
pub struct Cursor(pg_sys::Portal);

impl Cursor {
    /// At most `count` more rows.
    pub fn fetch(&self, count: usize) -> Rows {
        // SAFETY: the portal is open.
        unsafe { pg_sys::SPI_cursor_fetch(self.0, true, count as _) };
        Rows::take()
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened by `Statement::open`, not closed elsewhere.
            unsafe { pg_sys::SPI_cursor_close(self.0) }
        }
    }
}

/// The rows of one execution, freed when dropped.
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    /// Rows returned or, without RETURNING, rows touched.
    pub count: usize,
}

impl Rows {
    pub(super) fn take() -> Self {
        // SAFETY: SPI has just executed a statement.
        unsafe {
            let rows = Rows { table: pg_sys::SPI_tuptable, count: pg_sys::SPI_processed as usize };
            pg_sys::SPI_tuptable = std::ptr::null_mut();
            rows
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        let count = if self.table.is_null() { 0 } else { self.count };
        (0..count).map(|index| Row { rows: self, index })
    }

    pub fn first(&self) -> Option<Row<'_>> {
        self.iter().next()
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if !self.table.is_null() && !std::thread::panicking() {
            // SAFETY: taken from SPI, freed once.
            unsafe { pg_sys::SPI_freetuptable(self.table) }
        }
    }
}

/// One row; columns count from 1 and must be asked for by their SQL type.
pub struct Row<'a> {
    rows: &'a Rows,
    index: usize,
}

impl Row<'_> {
    fn datum(&self, column: usize) -> Option<Datum> {
        let mut null = false;
        // SAFETY: `index` is below the number of rows; SPI checks the column's number.
        let datum = unsafe {
            let table = &*self.rows.table;
            pg_sys::SPI_getbinval(*table.vals.add(self.index), table.tupdesc, column as i32, &mut null)
        };
        (!null).then_some(datum)
    }

    pub fn get<T: Column>(&self, column: usize) -> Option<T> {
        // SAFETY: the statement's text and the type asked for stand side by side in `store`, under test.
        self.datum(column).map(|datum| unsafe { T::read(datum) })
    }

    /// A column that the statement cannot return as NULL.
    pub fn want<T: Column>(&self, column: usize) -> T {
        match self.get(column) {
            Some(value) => value,
            None => internal_error("NULL in column", column as i32, "a row of stepwise"),
        }
    }

    /// A by-reference column, copied into the memory context of the caller of [`session`].
    pub fn keep(&self, column: usize) -> Option<super::jsonb::Jsonb> {
        self.datum(column).map(|datum| super::jsonb::Jsonb(datum).keep())
    }
}

pub(super) fn split(params: &[Param]) -> (Vec<Datum>, Vec<u8>) {
    params.iter().map(|param| (param.datum, if param.null { b'n' } else { b' ' })).unzip()
}

/// What cannot happen while the library and the schema fit together.
pub fn internal_error(what: &str, code: i32, sql: &str) -> ! {
    pgrx::ereport!(
        PgLogLevel::ERROR,
        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        format!("{what} failed with {code}"),
        format!("Statement: {sql}")
    );
    unreachable!("an ERROR does not return")
}

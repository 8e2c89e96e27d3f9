//! Statements over rows that are given as columns. Where there is one row, as in most calls of a small batch, it comes as
//! plain values. Several come as a relation of their own, a tuplestore as that of a transition table, which is filled and
//! scanned once; arrays would have to be built, and each unnested into a tuplestore of its own.
use super::spi::{Rows, Session, Statement, internal_error};
use super::value::{Bind, Param, optional, param};
use pgrx::pg_sys::{self, Datum};
use std::ffi::{CStr, CString};

/// The two statements; [`per_row`] makes them.
pub struct PerRow {
    pub one: Statement,
    pub many: Statement,
    /// Of the columns, by comma.
    pub names: &'static str,
}

/// A column of the rows.
pub struct Cells(Vec<Param>);

impl PerRow {
    /// Executes the one that fits. The statement's parameters are first the columns, then `rest`.
    pub fn run(&'static self, session: &Session, columns: &[Cells], rest: &[Param]) -> Rows {
        let count = columns.first().map_or(0, |column| column.0.len());
        let given = (count != 1).then(|| Given::new(self.names, columns, count));
        // The parameters of columns are not used where the rows come as a relation.
        let value = |column: &Cells| Param { null: count != 1 || column.0[0].null, ..column.0[0] };
        let params: Vec<Param> = columns.iter().map(value).chain(rest.iter().copied()).collect();
        let rows = if count == 1 { &self.one } else { &self.many }.run(session, &params);
        drop(given);
        rows
    }
}

/// Makes the rows of its parameters known as `i` to a statement.
macro_rules! per_row {
    ($names:expr, $params:expr, $sql:expr) => {
        $crate::pg::per_row::PerRow {
            one: $crate::pg::spi::Statement::write(concat!("WITH i (", $names, ") AS (SELECT ", $params, ") ", $sql)),
            many: $crate::pg::spi::Statement::write($sql),
            names: $names,
        }
    };
}
pub(crate) use per_row;

/// A column without NULL.
pub fn cells<T: Bind + Copy>(values: &[T]) -> Cells {
    Cells(values.iter().map(|value| param(*value)).collect())
}

/// A column that may be NULL.
pub fn optional_cells<T: Bind + Copy>(values: impl IntoIterator<Item = Option<T>>) -> Cells {
    Cells(values.into_iter().map(optional).collect())
}

/// What statements call the relation.
const NAME: &CStr = c"i";

/// Rows as a relation that the statements of this SPI session see, until dropped.
struct Given {
    relation: Box<pg_sys::EphemeralNamedRelationData>,
    store: *mut pg_sys::Tuplestorestate,
}

impl Given {
    fn new(names: &str, columns: &[Cells], count: usize) -> Given {
        let mut values = vec![Datum::null(); columns.len()];
        let mut nulls = vec![true; columns.len()];
        // SAFETY: a description of as many columns as there are names and values, of their types. It and the tuplestore
        // live in the memory of the session, or of the transaction where an error passes.
        unsafe {
            let description = pg_sys::CreateTemplateTupleDesc(columns.len() as i32);
            for (place, (name, column)) in names.split(", ").zip(columns).enumerate() {
                let Ok(name) = CString::new(name) else { internal_error("CString::new", 0, names) };
                let oid = column.0.first().map_or(pg_sys::InvalidOid, |cell| cell.oid);
                pg_sys::TupleDescInitEntry(description, place as i16 + 1, name.as_ptr(), oid, -1, 0);
            }
            let store = pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem);
            for row in 0..count {
                for (place, column) in columns.iter().enumerate() {
                    (values[place], nulls[place]) = (column.0[row].datum, column.0[row].null);
                }
                pg_sys::tuplestore_putvalues(store, description, values.as_mut_ptr(), nulls.as_mut_ptr());
            }
            let mut relation = Box::new(pg_sys::EphemeralNamedRelationData::default());
            relation.md.name = NAME.as_ptr().cast_mut();
            relation.md.tupdesc = description;
            relation.md.enrtype = pg_sys::EphemeralNameRelationType::ENR_NAMED_TUPLESTORE;
            // The plan is kept for any number of rows.
            relation.md.enrtuples = 10.0;
            relation.reldata = store.cast();
            let code = pg_sys::SPI_register_relation(&mut *relation);
            if code != pg_sys::SPI_OK_REL_REGISTER as i32 {
                internal_error("SPI_register_relation", code, names);
            }
            Given { relation, store }
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered by `new` in the same session, and not used any more.
            unsafe {
                pg_sys::SPI_unregister_relation(self.relation.md.name);
                pg_sys::tuplestore_end(self.store);
            }
        }
    }
}

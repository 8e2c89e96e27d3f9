//! All rows of a small table as they are committed now, however old the caller's snapshot is: what a backend remembers
//! beyond the transaction must not come from an old one. Read like a catalog: no right of the caller is asked, and no
//! statement is run, so that it can be done anywhere.
use super::catalog::relation;
use super::value::Column;
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::CStr;

/// A row; columns count from 1.
pub struct CommittedRow<'a>(&'a [Datum], &'a [bool]);

impl CommittedRow<'_> {
    pub fn get<T: Column>(&self, column: usize) -> Option<T> {
        // SAFETY: the callers' types are those of the table's DDL.
        (!self.1[column - 1]).then(|| unsafe { T::read(self.0[column - 1]) })
    }
}

/// A column of type `name`.
pub struct Name(pub String);

impl Column for Name {
    unsafe fn read(datum: Datum) -> Self {
        // SAFETY: the caller says that this is a name, which ends with a NUL.
        Name(unsafe { CStr::from_ptr(datum.cast_mut_ptr()) }.to_string_lossy().into_owned())
    }
}

/// Visits every row of a table of the extension.
pub fn each_row(table: &'static CStr, mut visit: impl FnMut(&CommittedRow)) {
    // SAFETY: the relation and the scan are released below, or with the transaction where an error passes. A row is read
    // while the scan stands on it, into as many values as the table has columns.
    unsafe {
        let heap = pg_sys::table_open(relation(table), pg_sys::AccessShareLock as i32);
        let description = (*heap).rd_att;
        let columns = (*description).natts as usize;
        let (mut values, mut nulls) = (vec![Datum::null(); columns], vec![true; columns]);
        let scan = pg_sys::systable_beginscan(heap, Oid::INVALID, false, std::ptr::null_mut(), 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            pg_sys::heap_deform_tuple(tuple, description, values.as_mut_ptr(), nulls.as_mut_ptr());
            visit(&CommittedRow(&values, &nulls));
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(heap, pg_sys::AccessShareLock as i32);
    }
}

//! Rows by key, straight through an index: for a few rows this takes a fraction of what a statement does, and for many it
//! copies nothing that is not asked for. The caller answers for the right to read them.
use super::heap::relation;
use super::jsonb::Jsonb;
use super::trigger::SlotRow;
use pgrx::pg_sys::{self, Datum};
use std::ffi::CStr;

/// What a scan sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// What the caller's statement sees.
    Caller,
    /// What is committed by now, as a statement of its own would.
    Now,
}

/// Runs `body` with what is committed, and what this transaction has written, by now.
pub fn with_fresh_snapshot<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: pushed and popped in pairs; where an error passes, the abort of the transaction pops it.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = body();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// A table and an index whose first columns are a bigint and, if it is used, an integer.
pub struct Keyed {
    pub table: &'static CStr,
    pub index: &'static CStr,
}

impl Keyed {
    /// Visits the rows of each key in the order of the keys; a key without an integer finds every row of its bigint, in
    /// the order of the index.
    pub fn each(
        &self,
        sees: Sees,
        keys: impl Iterator<Item = (i64, Option<i32>)>,
        mut visit: impl FnMut(usize, &SlotRow),
    ) {
        // SAFETY: relations, snapshot, scan and slot are released below, or with the transaction where an error passes.
        // The scan keys compare a bigint and an integer column with values of these types. A row is visited while the
        // slot holds it.
        unsafe {
            let lock = pg_sys::AccessShareLock as i32;
            let heap = pg_sys::table_open(relation(self.table), lock);
            let index = pg_sys::index_open(relation(self.index), lock);
            let snapshot = pg_sys::RegisterSnapshot(match sees {
                Sees::Caller => pg_sys::GetActiveSnapshot(),
                Sees::Now => pg_sys::GetTransactionSnapshot(),
            });
            let slot = pg_sys::table_slot_create(heap, std::ptr::null_mut());
            let row = SlotRow::of(slot);
            let mut open: Option<(pg_sys::IndexScanDesc, i32)> = None;
            for (place, (first, second)) in keys.enumerate() {
                pg_sys::check_for_interrupts!();
                let mut by = [pg_sys::ScanKeyData::default(); 2];
                let equal = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
                let int8eq = pg_sys::Oid::from(pg_sys::F_INT8EQ);
                pg_sys::ScanKeyInit(&mut by[0], 1, equal, int8eq, Datum::from(first));
                if let Some(second) = second {
                    let int4eq = pg_sys::Oid::from(pg_sys::F_INT4EQ);
                    pg_sys::ScanKeyInit(&mut by[1], 2, equal, int4eq, Datum::from(second));
                }
                let count = if second.is_some() { 2 } else { 1 };
                let scan = match open {
                    Some((scan, of)) if of == count => scan,
                    _ => {
                        if let Some((scan, _)) = open {
                            pg_sys::index_endscan(scan);
                        }
                        begin(heap, index, snapshot, count)
                    }
                };
                open = Some((scan, count));
                pg_sys::index_rescan(scan, by.as_mut_ptr(), count, std::ptr::null_mut(), 0);
                while pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
                    visit(place, &row);
                }
            }
            if let Some((scan, _)) = open {
                pg_sys::index_endscan(scan);
            }
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::UnregisterSnapshot(snapshot);
            pg_sys::index_close(index, lock);
            pg_sys::table_close(heap, lock);
        }
    }
}

unsafe fn begin(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    keys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: open relations and a registered snapshot.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return pg_sys::index_beginscan(heap, index, snapshot, keys, 0);
        #[cfg(feature = "pg18")]
        return pg_sys::index_beginscan(heap, index, snapshot, std::ptr::null_mut(), keys, 0);
    }
}

impl SlotRow {
    /// A jsonb column as a plain copy in the current memory context.
    pub fn jsonb(&self, column: i32) -> Option<Jsonb> {
        self.get::<Jsonb>(column).map(Jsonb::plain)
    }
}

/// Refuses (42501) a caller who may not read the table, or of it this column.
pub fn check_may_read(table: &CStr, column: Option<i16>) {
    // SAFETY: look-ups in the system caches; the name is a C string.
    unsafe {
        let (oid, user) = (relation(table), pg_sys::GetUserId());
        let select = pg_sys::AclMode::from(pg_sys::ACL_SELECT);
        let ok = pg_sys::AclResult::ACLCHECK_OK;
        let may = pg_sys::pg_class_aclcheck(oid, user, select) == ok
            || column.is_some_and(|column| pg_sys::pg_attribute_aclcheck(oid, column, user, select) == ok);
        if !may {
            pg_sys::aclcheck_error(
                pg_sys::AclResult::ACLCHECK_NO_PRIV,
                pg_sys::ObjectType::OBJECT_TABLE,
                table.as_ptr(),
            );
        }
    }
}

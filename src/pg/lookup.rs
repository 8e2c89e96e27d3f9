//! Rows by key, straight through an index: for a few rows this takes a fraction of what a statement does, and for many it
//! copies nothing that is not asked for. The caller answers for the right to read them.
use super::catalog::relation;
use super::jsonb::Jsonb;
use super::trigger::SlotRow;
use pgrx::pg_sys::{self, Datum};
use std::ffi::CStr;

/// What a scan sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// What the caller's statement sees, if the caller may read it.
    Caller,
    /// What the caller's statement sees.
    Statement,
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

/// A table whose primary key is a bigint and, if it has two columns, an integer.
pub struct Keyed {
    pub table: &'static CStr,
    /// The column whose SELECT right is enough to read on the caller's behalf, where that on the table is missing.
    pub column: Option<i16>,
}

/// Which rows to visit.
#[derive(Clone, Copy)]
pub enum Key {
    /// The one of a bigint and an integer.
    One(i64, i32),
    /// Those whose bigint lies between two, these included: for neighbours, one way down the index instead of many.
    Run(i64, i64),
}

impl Key {
    /// Ascending ids as runs without a gap.
    pub fn runs(ids: impl Iterator<Item = i64>) -> impl Iterator<Item = Key> {
        let mut ids = ids.peekable();
        std::iter::from_fn(move || {
            let first = ids.next()?;
            let mut last = first;
            while let Some(next) = ids.next_if(|&next| last.checked_add(1) == Some(next)) {
                last = next;
            }
            Some(Key::Run(first, last))
        })
    }

    /// As conditions on the first columns of an index.
    pub(super) fn conditions(self) -> [pg_sys::ScanKeyData; 2] {
        let (equal, from, to) =
            (pg_sys::BTEqualStrategyNumber, pg_sys::BTGreaterEqualStrategyNumber, pg_sys::BTLessEqualStrategyNumber);
        let (first, second) = match self {
            Key::One(first, second) => {
                ((1, equal, pg_sys::F_INT8EQ, Datum::from(first)), (2, equal, pg_sys::F_INT4EQ, Datum::from(second)))
            }
            Key::Run(first, last) => {
                ((1, from, pg_sys::F_INT8GE, Datum::from(first)), (1, to, pg_sys::F_INT8LE, Datum::from(last)))
            }
        };
        [first, second].map(|(column, strategy, function, value)| {
            let mut condition = pg_sys::ScanKeyData::default();
            // SAFETY: initializes the condition; the function compares what the strategy and the value say.
            unsafe { pg_sys::ScanKeyInit(&mut condition, column, strategy as _, pg_sys::Oid::from(function), value) };
            condition
        })
    }
}

impl Keyed {
    /// Visits the rows of each key in the order of the keys, those of a run in the order of the primary key. What the
    /// caller sees, the caller must have the right to read: 42501.
    pub fn each(&self, sees: Sees, keys: impl Iterator<Item = Key>, mut visit: impl FnMut(usize, &SlotRow)) {
        // SAFETY: relations, snapshot, scan and slot are released below, or with the transaction where an error passes.
        // The conditions compare a bigint and an integer column with values of these types. A row is visited while the
        // slot holds it.
        unsafe {
            let lock = pg_sys::AccessShareLock as i32;
            let heap = pg_sys::table_open(relation(self.table), lock);
            if sees == Sees::Caller {
                self.check_may_read((*heap).rd_id);
            }
            let index = pg_sys::index_open(primary_key(heap), lock);
            let snapshot = pg_sys::RegisterSnapshot(match sees {
                Sees::Caller | Sees::Statement => pg_sys::GetActiveSnapshot(),
                Sees::Now => pg_sys::GetTransactionSnapshot(),
            });
            let slot = pg_sys::table_slot_create(heap, std::ptr::null_mut());
            let row = SlotRow::of(slot);
            let scan = begin(heap, index, snapshot, 2);
            for (place, key) in keys.enumerate() {
                pg_sys::check_for_interrupts!();
                pg_sys::index_rescan(scan, key.conditions().as_mut_ptr(), 2, std::ptr::null_mut(), 0);
                while pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
                    visit(place, &row);
                }
            }
            pg_sys::index_endscan(scan);
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::UnregisterSnapshot(snapshot);
            pg_sys::index_close(index, lock);
            pg_sys::table_close(heap, lock);
        }
    }

    /// Refuses (42501) a caller who may not read the table, nor the column that is enough.
    fn check_may_read(&self, table: pg_sys::Oid) {
        // SAFETY: look-ups in the system caches; the name is a C string.
        unsafe {
            let user = pg_sys::GetUserId();
            let select = pg_sys::AclMode::from(pg_sys::ACL_SELECT);
            let ok = pg_sys::AclResult::ACLCHECK_OK;
            let may = pg_sys::pg_class_aclcheck(table, user, select) == ok
                || self.column.is_some_and(|column| pg_sys::pg_attribute_aclcheck(table, column, user, select) == ok);
            if !may {
                pg_sys::aclcheck_error(
                    pg_sys::AclResult::ACLCHECK_NO_PRIV,
                    pg_sys::ObjectType::OBJECT_TABLE,
                    self.table.as_ptr(),
                );
            }
        }
    }
}

/// The index of the table's primary key, from what the backend keeps about the table: no look-up by name.
pub(super) unsafe fn primary_key(heap: pg_sys::Relation) -> pg_sys::Oid {
    // SAFETY: an open relation.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return pg_sys::RelationGetPrimaryKeyIndex(heap);
        #[cfg(feature = "pg18")]
        return pg_sys::RelationGetPrimaryKeyIndex(heap, false);
    }
}

pub(super) unsafe fn begin(
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

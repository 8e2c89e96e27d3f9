//! Rows locked by key, straight through an index, as `FOR UPDATE SKIP LOCKED` locks them.
use super::catalog::relation;
use super::lookup::{Key, Keyed, begin, primary_key};
use super::trigger::SlotRow;
use pgrx::pg_sys::{self, LockWaitPolicy, TM_Result};
use pgrx::prelude::*;

impl Keyed {
    /// Locks the wanted rows of a key that nobody else has locked, until the transaction ends, and visits each as it is
    /// then. The caller answers for the right to do so.
    pub fn lock_each(&self, key: Key, mut wanted: impl FnMut(&SlotRow) -> bool, mut visit: impl FnMut(&SlotRow)) {
        // SAFETY: relations, snapshot, scan and slots are released below, or with the transaction where an error passes;
        // the lock of the table stays until the transaction ends. Rows are read while their slots hold them.
        unsafe {
            let table_lock = pg_sys::RowShareLock as i32;
            let heap = pg_sys::table_open(relation(self.table), table_lock);
            let index = pg_sys::index_open(primary_key(heap), table_lock);
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot());
            let found = pg_sys::table_slot_create(heap, std::ptr::null_mut());
            let locked = pg_sys::table_slot_create(heap, std::ptr::null_mut());
            let scan = begin(heap, index, snapshot, 2);
            pg_sys::index_rescan(scan, key.conditions().as_mut_ptr(), 2, std::ptr::null_mut(), 0);
            while pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, found) {
                pg_sys::check_for_interrupts!();
                // Another transaction may have changed the row since: what was locked counts.
                if wanted(&SlotRow::of(found)) && lock(heap, snapshot, found, locked) && wanted(&SlotRow::of(locked)) {
                    visit(&SlotRow::of(locked));
                }
            }
            pg_sys::index_endscan(scan);
            pg_sys::ExecDropSingleTupleTableSlot(found);
            pg_sys::ExecDropSingleTupleTableSlot(locked);
            pg_sys::UnregisterSnapshot(snapshot);
            pg_sys::index_close(index, table_lock);
            pg_sys::table_close(heap, pg_sys::NoLock as i32);
        }
    }
}

/// Locks a row and puts its last version into `locked`; `false`: it is gone, or somebody else has locked it.
pub(super) unsafe fn lock(
    heap: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    found: *mut pg_sys::TupleTableSlot,
    locked: *mut pg_sys::TupleTableSlot,
) -> bool {
    // SAFETY: an open table, a row of it, and a slot for its rows. The guard turns an ERROR into a panic that pgrx raises
    // again.
    let result = unsafe {
        let one_snapshot = pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32;
        let flags = if one_snapshot { 0 } else { pg_sys::TUPLE_LOCK_FLAG_FIND_LAST_VERSION as u8 };
        let Some(tuple_lock) = (*(*heap).rd_tableam).tuple_lock else { return false };
        let mut row = (*found).tts_tid;
        let command = pg_sys::GetCurrentCommandId(true);
        let mut failure = pg_sys::TM_FailureData::default();
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            let (mode, wait) = (pg_sys::LockTupleMode::LockTupleExclusive, LockWaitPolicy::LockWaitSkip);
            tuple_lock(heap, &mut row, snapshot, locked, command, mode, wait, flags, &mut failure)
        })
    };
    match result {
        TM_Result::TM_Ok => true,
        // With one snapshot for the transaction; otherwise the last version is found.
        TM_Result::TM_Updated => {
            pgrx::ereport!(
                PgLogLevel::ERROR,
                PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
                "could not serialize access due to concurrent update"
            );
            false
        }
        // SAFETY: reads a setting.
        TM_Result::TM_Deleted if unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32 => {
            pgrx::ereport!(
                PgLogLevel::ERROR,
                PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
                "could not serialize access due to concurrent delete"
            );
            false
        }
        _ => false,
    }
}

//! One column of rows by their key, straight through the primary key's index: for a few rows this takes a fraction of
//! what a statement does. The table must have a primary key of (bigint, integer).
use super::heap::relation;
use super::jsonb::Jsonb;
use pgrx::pg_sys::{self, Datum};
use std::ffi::CStr;

/// Calls `found` for each key that has a row, with the row's value in `column`, which lives in the current memory context.
/// The snapshot is a fresh one, as a statement's would be.
pub fn each_by_key(
    table: &CStr,
    index: &CStr,
    column: i32,
    keys: &[(i64, i32)],
    mut found: impl FnMut(usize, Option<Jsonb>),
) {
    // SAFETY: relations, snapshot, scan and slot are released below, or with the transaction where an error passes. The
    // scan keys compare a bigint and an integer column with values of these types.
    unsafe {
        let lock = pg_sys::AccessShareLock as i32;
        let heap = pg_sys::table_open(relation(table), lock);
        let index = pg_sys::index_open(relation(index), lock);
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot());
        let slot = pg_sys::table_slot_create(heap, std::ptr::null_mut());
        #[cfg(not(feature = "pg18"))]
        let scan = pg_sys::index_beginscan(heap, index, snapshot, 2, 0);
        #[cfg(feature = "pg18")]
        let scan = pg_sys::index_beginscan(heap, index, snapshot, std::ptr::null_mut(), 2, 0);
        let equal = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
        for (place, &(first, second)) in keys.iter().enumerate() {
            let mut by = [pg_sys::ScanKeyData::default(); 2];
            pg_sys::ScanKeyInit(&mut by[0], 1, equal, pg_sys::Oid::from(pg_sys::F_INT8EQ), Datum::from(first));
            pg_sys::ScanKeyInit(&mut by[1], 2, equal, pg_sys::Oid::from(pg_sys::F_INT4EQ), Datum::from(second));
            pg_sys::index_rescan(scan, by.as_mut_ptr(), 2, std::ptr::null_mut(), 0);
            if pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
                if i32::from((*slot).tts_nvalid) < column {
                    pg_sys::slot_getsomeattrs_int(slot, column);
                }
                let at = column as usize - 1;
                let value = (!*(*slot).tts_isnull.add(at)).then(|| Jsonb(*(*slot).tts_values.add(at)).plain());
                found(place, value);
            }
        }
        pg_sys::index_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::index_close(index, lock);
        pg_sys::table_close(heap, lock);
    }
}

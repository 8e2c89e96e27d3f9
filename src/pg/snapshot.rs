//! Transactions as a snapshot sees them, and whether the current one may write.
use super::catalog::relation;
use pgrx::pg_sys;
use std::ffi::CStr;

/// The transaction id that will be assigned next, of 64 bits. None is assigned for it.
pub fn next_xid() -> u64 {
    // SAFETY: reads a counter in shared memory.
    unsafe { pg_sys::ReadNextFullTransactionId().value }
}

/// The oldest transaction id that the active snapshot takes for unfinished, of 64 bits; `near`: any id of its time.
pub fn oldest_xid(near: u64) -> u64 {
    // SAFETY: a function runs under an active snapshot.
    let oldest = unsafe { (*pg_sys::GetActiveSnapshot()).xmin }.into_inner();
    // Ids in use are less than 2^31 apart.
    near.wrapping_add_signed(i64::from(oldest.wrapping_sub(near as u32) as i32))
}

pub fn on_standby() -> bool {
    // SAFETY: reads a flag in shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether something may be written on the side: where it is possible at all, and a row that somebody else has changed is
/// no error.
pub fn may_write_aside() -> bool {
    // SAFETY: reads variables of this backend.
    unsafe {
        !pg_sys::XactReadOnly
            && !pg_sys::IsInParallelMode()
            && pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32
            && !on_standby()
    }
}

/// Runs `body` while no VACUUM, ANALYZE or summarization works on a table of schema `stepwise`; not at all where one does.
pub fn unless_maintained(table: &'static CStr, body: impl FnOnce()) {
    let mode = pg_sys::ShareUpdateExclusiveLock as i32;
    // SAFETY: a lock that is released again, or by the end of the transaction where an error passes.
    unsafe {
        let table = relation(table);
        if pg_sys::ConditionalLockRelationOid(table, mode) {
            body();
            pg_sys::UnlockRelationOid(table, mode);
        }
    }
}

/// Shared buffers that this backend has touched so far.
pub fn buffers_touched() -> i64 {
    // SAFETY: counters of this backend.
    unsafe { pg_sys::pgBufferUsage.shared_blks_hit + pg_sys::pgBufferUsage.shared_blks_read }
}

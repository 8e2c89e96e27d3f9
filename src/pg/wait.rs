//! Waiting that a cancel, a shutdown or a postmaster's death ends.
use pgrx::pg_sys;
use std::time::Duration;

/// Sleeps in the caller's session.
pub fn sleep(time: Duration) {
    let until = std::time::Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        pg_sys::check_for_interrupts!();
        if left.is_zero() {
            break;
        }
        // Rounded up: a wait that ends a little early would come back here for a fraction of a millisecond.
        let millis = left.as_micros().div_ceil(1000).min(60_000) as std::ffi::c_long;
        let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
        // SAFETY: MyLatch belongs to this backend for as long as it lives.
        unsafe {
            pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, millis, pg_sys::PG_WAIT_EXTENSION);
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
    }
}

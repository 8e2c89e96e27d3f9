//! Waiting and long work that a cancel or a shutdown ends; waiting also with the postmaster.
use pgrx::pg_sys;
use std::time::Duration;

/// Ends the call here, with PostgreSQL's own error, where that was asked for meanwhile.
pub fn heed_cancel() {
    pg_sys::check_for_interrupts!();
}

/// Sleeps in the caller's session.
pub fn sleep(time: Duration) {
    let until = std::time::Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        pg_sys::check_for_interrupts!();
        if left.is_zero() {
            break;
        }
        latch(Some(left));
    }
}

/// Waits until the process is woken or the time is over (`None`: for ever); whether it was woken.
pub fn latch(time: Option<Duration>) -> bool {
    // Rounded up: a wait that ends a little early would come back for a fraction of a millisecond.
    let millis = time.map_or(-1, |time| time.as_micros().div_ceil(1000).min(86_400_000) as std::ffi::c_long);
    let timeout = if time.is_some() { pg_sys::WL_TIMEOUT } else { 0 };
    let events = pg_sys::WL_LATCH_SET | timeout | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: MyLatch belongs to this process for as long as it lives.
    let woken = unsafe {
        let happened = pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, millis, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        happened & pg_sys::WL_LATCH_SET as i32 != 0
    };
    pg_sys::check_for_interrupts!();
    woken
}

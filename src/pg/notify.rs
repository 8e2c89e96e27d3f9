//! NOTIFY without SPI. Postgres drops a payload that the same transaction has already sent on the channel.
use super::wait::heed_cancel;
use std::ffi::{CString, c_char};

unsafe extern "C-unwind" {
    fn Async_Notify(channel: *const c_char, payload: *const c_char);
}

/// Queues a notification for the commit of the current transaction. The payload is text of the database, so it has
/// no NUL byte, and is under 8000 bytes (engine::event).
pub fn notify(channel: &'static std::ffi::CStr, payload: &str) {
    // A batch has one for each of its steps, and does nothing else that would see a cancel meanwhile.
    heed_cancel();
    let Ok(payload) = CString::new(payload) else { return };
    // SAFETY: both are C strings; the guard turns an ERROR (queue full) into a Rust panic that pgrx re-raises.
    unsafe { pgrx::pg_sys::ffi::pg_guard_ffi_boundary(|| Async_Notify(channel.as_ptr(), payload.as_ptr())) }
}

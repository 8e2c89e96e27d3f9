//! Values of sequences, drawn without a statement.
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

unsafe extern "C-unwind" {
    fn nextval_internal(relid: Oid, check_permissions: bool) -> i64;
}

/// The table, index or sequence of this name in schema `stepwise`.
pub(super) fn relation(name: &CStr) -> Oid {
    // SAFETY: two look-ups in the system caches.
    unsafe { pg_sys::get_relname_relid(name.as_ptr(), pg_sys::get_namespace_oid(c"stepwise".as_ptr(), true)) }
}

/// `count` values of a sequence.
pub fn draw(sequence: &CStr, count: usize) -> Vec<i64> {
    let sequence = relation(sequence);
    // SAFETY: the guard turns an ERROR into a Rust panic that pgrx re-raises. The caller runs as the owner.
    let draw = || unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| nextval_internal(sequence, false)) };
    (0..count).map(|_| draw()).collect()
}

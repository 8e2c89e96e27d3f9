//! Exact decimals.
use super::value::Param;
use pgrx::pg_sys::{self, Datum};

/// Hundredths of a percent, 0 to 10 000, as numeric(5,2).
pub fn percentage(basis_points: i32) -> Param {
    // SAFETY: divides by ten to the second; the numeric is allocated in the current memory context.
    let numeric = unsafe { pg_sys::int64_div_fast_to_numeric(i64::from(basis_points), 2) };
    Param { oid: pg_sys::NUMERICOID, datum: Datum::from(numeric), null: false }
}

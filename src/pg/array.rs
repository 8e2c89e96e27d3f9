//! Arrays as parameters, built in one allocation.
use super::value::{Bind, Param, no_array};
use pgrx::pg_sys::{self, Datum, Oid};

/// Length, passing and alignment of an element type, as pg_type has them.
pub(super) fn layout(oid: Oid) -> (i32, bool, std::ffi::c_char) {
    match oid {
        pg_sys::INT8OID | pg_sys::TIMESTAMPTZOID | pg_sys::FLOAT8OID => (8, true, b'd' as _),
        pg_sys::INT4OID => (4, true, b'i' as _),
        pg_sys::INT2OID => (2, true, b's' as _),
        pg_sys::BOOLOID => (1, true, b'c' as _),
        // text, jsonb
        _ => (-1, false, b'i' as _),
    }
}

/// `nulls` is empty, or as long as `datums`.
fn build<T: Bind>(mut datums: Vec<Datum>, mut nulls: Vec<bool>) -> Param {
    let (length, by_value, align) = layout(T::OID);
    let null_flags = if nulls.is_empty() { std::ptr::null_mut() } else { nulls.as_mut_ptr() };
    // SAFETY: `datums` holds `size` values of the element type whose layout is given; `nulls` is NULL or as long, and
    // both outlive the call, which copies them.
    let array = unsafe {
        let (mut size, mut lower) = (datums.len() as i32, 1);
        let values = datums.as_mut_ptr();
        pg_sys::construct_md_array(values, null_flags, 1, &mut size, &mut lower, T::OID, length, by_value, align)
    };
    Param { oid: T::ARRAY_OID, datum: Datum::from(array), null: false }
}

pub fn array<T: Bind>(values: &[T]) -> Param {
    build::<T>(values.iter().map(Bind::datum).collect(), Vec::new())
}

pub fn array_of_optional<T: Bind>(values: &[Option<T>]) -> Param {
    let datums = values.iter().map(|value| value.as_ref().map_or(Datum::null(), Bind::datum)).collect();
    build::<T>(datums, values.iter().map(Option::is_none).collect())
}

/// A column of rows as an array, or NULL where none has a value: `unnest` beside other arrays then gives NULL for each.
pub fn column<T: Bind>(values: Vec<Option<T>>) -> Param {
    if values.iter().all(Option::is_none) { no_array::<T>() } else { array_of_optional(&values) }
}

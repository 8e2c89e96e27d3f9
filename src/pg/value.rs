//! Rust values as typed parameters of a statement, and columns as Rust values.
use super::jsonb::Jsonb;
use crate::engine::time::Timestamp;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{FromDatum, IntoDatum};

/// A parameter with its exact SQL type.
#[derive(Clone, Copy)]
pub struct Param {
    pub(super) oid: Oid,
    pub(super) datum: Datum,
    pub(super) null: bool,
}

impl Param {
    /// A transaction id of 64 bits.
    pub fn xid8(value: u64) -> Self {
        Self { oid: pg_sys::XID8OID, datum: Datum::from(value), null: false }
    }
}

/// A value that can be bound to a statement. By-reference values are built in the current memory context.
pub trait Bind {
    const OID: Oid;
    const ARRAY_OID: Oid;
    fn datum(&self) -> Datum;
}

macro_rules! bind_by_value {
    ($($ty:ty, $oid:ident, $array:ident);*) => {$(
        impl Bind for $ty {
            const OID: Oid = pg_sys::$oid;
            const ARRAY_OID: Oid = pg_sys::$array;
            fn datum(&self) -> Datum {
                Datum::from(*self)
            }
        }
    )*};
}
bind_by_value!(i64, INT8OID, INT8ARRAYOID; i32, INT4OID, INT4ARRAYOID; i16, INT2OID, INT2ARRAYOID; bool, BOOLOID, BOOLARRAYOID);

impl Bind for Timestamp {
    const OID: Oid = pg_sys::TIMESTAMPTZOID;
    const ARRAY_OID: Oid = pg_sys::TIMESTAMPTZARRAYOID;
    fn datum(&self) -> Datum {
        Datum::from(self.0)
    }
}

impl Bind for f64 {
    const OID: Oid = pg_sys::FLOAT8OID;
    const ARRAY_OID: Oid = pg_sys::FLOAT8ARRAYOID;
    fn datum(&self) -> Datum {
        Datum::from(self.to_bits())
    }
}

/// Where a version of a row lies: good for as long as the transaction holds its lock and does not change it.
#[derive(Clone, Copy)]
pub struct Tid(pub(super) pg_sys::ItemPointerData);

impl Bind for Tid {
    const OID: Oid = pg_sys::TIDOID;
    const ARRAY_OID: Oid = pg_sys::TIDARRAYOID;
    fn datum(&self) -> Datum {
        // SAFETY: as many bytes as the value has, in the current memory context.
        unsafe {
            let copy: *mut pg_sys::ItemPointerData = pg_sys::palloc(size_of::<pg_sys::ItemPointerData>()).cast();
            *copy = self.0;
            Datum::from(copy)
        }
    }
}

impl Bind for Jsonb {
    const OID: Oid = pg_sys::JSONBOID;
    const ARRAY_OID: Oid = pg_sys::JSONBARRAYOID;
    fn datum(&self) -> Datum {
        self.0
    }
}

impl Bind for &str {
    const OID: Oid = pg_sys::TEXTOID;
    const ARRAY_OID: Oid = pg_sys::TEXTARRAYOID;
    fn datum(&self) -> Datum {
        self.into_datum().unwrap_or(Datum::null())
    }
}

impl Bind for String {
    const OID: Oid = pg_sys::TEXTOID;
    const ARRAY_OID: Oid = pg_sys::TEXTARRAYOID;
    fn datum(&self) -> Datum {
        self.as_str().datum()
    }
}

pub fn param<T: Bind>(value: T) -> Param {
    Param { oid: T::OID, datum: value.datum(), null: false }
}

pub fn optional<T: Bind>(value: Option<T>) -> Param {
    match value {
        Some(value) => param(value),
        None => Param { oid: T::OID, datum: Datum::null(), null: true },
    }
}

/// An array that is NULL as a whole: `unnest` beside other arrays gives NULL for every row.
pub fn no_array<T: Bind>() -> Param {
    Param { oid: T::ARRAY_OID, datum: Datum::null(), null: true }
}

/// A column of a row or a slot as a Rust value. Borrowed values live as long as the row.
pub trait Column: Sized {
    /// # Safety
    /// The datum must be of the SQL type that the implementor stands for.
    unsafe fn read(datum: Datum) -> Self;
}

impl Column for i64 {
    unsafe fn read(datum: Datum) -> Self {
        datum.value() as i64
    }
}
impl Column for i32 {
    unsafe fn read(datum: Datum) -> Self {
        datum.value() as i32
    }
}
impl Column for i16 {
    unsafe fn read(datum: Datum) -> Self {
        datum.value() as i16
    }
}
impl Column for bool {
    unsafe fn read(datum: Datum) -> Self {
        datum.value() != 0
    }
}
impl Column for Oid {
    unsafe fn read(datum: Datum) -> Self {
        Oid::from_u32(datum.value() as u32)
    }
}
impl Column for f64 {
    unsafe fn read(datum: Datum) -> Self {
        f64::from_bits(datum.value() as u64)
    }
}
impl Column for Timestamp {
    unsafe fn read(datum: Datum) -> Self {
        Timestamp(datum.value() as i64)
    }
}
impl Column for String {
    unsafe fn read(datum: Datum) -> Self {
        // SAFETY: the caller says that this is text.
        unsafe { String::from_datum(datum, false) }.unwrap_or_default()
    }
}
impl Column for Vec<i32> {
    unsafe fn read(datum: Datum) -> Self {
        // SAFETY: the caller says that this is int4[].
        unsafe { Vec::<i32>::from_datum(datum, false) }.unwrap_or_default()
    }
}
impl Column for Jsonb {
    unsafe fn read(datum: Datum) -> Self {
        Jsonb(datum)
    }
}

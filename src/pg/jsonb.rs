//! A jsonb value as an opaque datum: payloads are moved, never parsed.
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, UnboxDatum};
use pgrx::pg_sys;
use pgrx::{FromDatum, IntoDatum};
use std::ffi::CStr;

/// Borrowed from whatever memory context holds it; [`Jsonb::to_bytes`] makes it our own.
#[derive(Clone, Copy, Debug)]
pub struct Jsonb(pub(super) pg_sys::Datum);

impl Jsonb {
    /// The value as text, exactly as Postgres prints it.
    pub fn to_text(self) -> String {
        // SAFETY: the datum is a jsonb; jsonb_out checks the stack depth itself and returns a C string.
        unsafe {
            let text = pgrx::fcinfo::direct_function_call_as_datum(pg_sys::jsonb_out, &[Some(self.0)]);
            match text {
                Some(text) => CStr::from_ptr(text.cast_mut_ptr()).to_string_lossy().into_owned(),
                None => String::from("null"),
            }
        }
    }

    /// The stored form, to keep a value beyond its memory context.
    pub fn to_bytes(self) -> Box<[u8]> {
        // SAFETY: the datum is a varlena; detoasting gives a plain one whose header tells its size.
        unsafe {
            let plain = pg_sys::pg_detoast_datum(self.0.cast_mut_ptr());
            let size = pgrx::varsize_any(plain);
            std::slice::from_raw_parts(plain.cast::<u8>(), size).into()
        }
    }

    /// `{}`, in the current memory context.
    pub fn empty_object() -> Jsonb {
        Self::from_text("{}")
    }

    /// A plain copy, not compressed or out of line, in the current memory context.
    pub(super) fn plain(self) -> Jsonb {
        // SAFETY: the datum is a varlena.
        Jsonb(pg_sys::Datum::from(unsafe { pg_sys::pg_detoast_datum_copy(self.0.cast_mut_ptr()) }))
    }

    /// A copy in the memory context of the caller of [`super::spi::session`], within which this is called.
    pub fn keep(self) -> Jsonb {
        // SAFETY: SPI is connected; it copies the varlena into the context that was current at SPI_connect.
        Jsonb(unsafe { pg_sys::SPI_datumTransfer(self.0, false, -1) })
    }

    /// `{"key": value, …}` of plain values; null where there is none.
    pub fn object<'a>(pairs: impl Iterator<Item = (&'a str, Option<Jsonb>)>) -> Jsonb {
        use pg_sys::JsonbIteratorToken::{WJB_BEGIN_OBJECT, WJB_END_OBJECT, WJB_KEY, WJB_VALUE};
        use pg_sys::jbvType::{jbvBinary, jbvNull, jbvString};
        // SAFETY: the state belongs to this call. Keys and values are only read, and outlive the last line, which copies
        // them.
        unsafe {
            let mut state = std::ptr::null_mut();
            pg_sys::pushJsonbValue(&mut state, WJB_BEGIN_OBJECT, std::ptr::null_mut());
            for (key, value) in pairs {
                let mut item = pg_sys::JsonbValue { type_: jbvString, ..Default::default() };
                item.val.string.len = key.len() as i32;
                item.val.string.val = key.as_ptr().cast_mut().cast();
                pg_sys::pushJsonbValue(&mut state, WJB_KEY, &mut item);
                let mut item = pg_sys::JsonbValue { type_: jbvNull, ..Default::default() };
                if let Some(Jsonb(value)) = value {
                    let jsonb: *mut pg_sys::Jsonb = value.cast_mut_ptr();
                    item.type_ = jbvBinary;
                    item.val.binary.len = pgrx::varsize_any_exhdr(jsonb.cast()) as i32;
                    item.val.binary.data = &raw mut (*jsonb).root;
                }
                pg_sys::pushJsonbValue(&mut state, WJB_VALUE, &mut item);
            }
            let object = pg_sys::pushJsonbValue(&mut state, WJB_END_OBJECT, std::ptr::null_mut());
            Jsonb(pg_sys::Datum::from(pg_sys::JsonbValueToJsonb(object)))
        }
    }

    /// JSON text as a value, in the current memory context.
    pub fn from_text(json: &str) -> Jsonb {
        let json = std::ffi::CString::new(json).unwrap_or_default();
        // SAFETY: jsonb_in reads a C string.
        let value = unsafe {
            let text = pg_sys::Datum::from(json.as_ptr());
            pgrx::fcinfo::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(text)])
        };
        Jsonb(value.unwrap_or(pg_sys::Datum::null()))
    }

    /// This value with another one under the keys of `path`, whose last one may be new.
    pub fn with(self, path: &[String], value: Jsonb) -> Jsonb {
        let path = super::array::array(path);
        // SAFETY: jsonb, text[], jsonb and boolean are what jsonb_set takes.
        let changed = unsafe {
            let arguments = [Some(self.0), Some(path.datum), Some(value.0), Some(pg_sys::Datum::from(true))];
            pgrx::fcinfo::direct_function_call_as_datum(pg_sys::jsonb_set, &arguments)
        };
        Jsonb(changed.unwrap_or(self.0))
    }

    /// A copy of what [`Jsonb::to_bytes`] kept, in the current memory context.
    pub fn from_bytes(bytes: &[u8]) -> Jsonb {
        // SAFETY: the bytes are a whole plain varlena, copied into palloc'd (max-aligned) memory.
        unsafe {
            let copy = pg_sys::palloc(bytes.len());
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy.cast::<u8>(), bytes.len());
            Jsonb(pg_sys::Datum::from(copy))
        }
    }
}

/// An array of jsonb as an argument. pgrx' own `Vec<Option<T>>` frees the array as soon as it has been walked where it
/// had to be detoasted, and with it the elements, which are not copied.
pub struct JsonbArray(pub Vec<Option<Jsonb>>);

impl FromDatum for JsonbArray {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _oid: pg_sys::Oid) -> Option<Self> {
        if is_null {
            return None;
        }
        let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        // SAFETY: the datum is a jsonb[] by the function's declaration. What is detoasted and the two result arrays live
        // as long as the call's memory context.
        unsafe {
            let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
            let (length, by_value, align) = super::array::layout(pg_sys::JSONBOID);
            let jsonb = pg_sys::JSONBOID;
            pg_sys::deconstruct_array(array, jsonb, length, by_value, align, &mut values, &mut nulls, &mut count);
            let element = |index| (!*nulls.add(index)).then(|| Jsonb(*values.add(index)));
            Some(JsonbArray((0..count as usize).map(element).collect()))
        }
    }
}

// SAFETY: the argument's datum is a jsonb[] by the function's declaration.
unsafe impl<'fcx> ArgAbi<'fcx> for JsonbArray {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum::<Self>() }.unwrap_or(JsonbArray(Vec::new()))
    }
}

pgrx::impl_sql_translatable!(JsonbArray, "jsonb[]");

impl FromDatum for Jsonb {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _oid: pg_sys::Oid) -> Option<Self> {
        (!is_null).then_some(Jsonb(datum))
    }
}

impl IntoDatum for Jsonb {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.0)
    }
    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

// SAFETY: a jsonb datum is a pointer, unboxed as itself.
unsafe impl UnboxDatum for Jsonb {
    type As<'src> = Jsonb;
    unsafe fn unbox<'src>(datum: Datum<'src>) -> Self::As<'src>
    where
        Self: 'src,
    {
        Jsonb(datum.sans_lifetime())
    }
}

// SAFETY: the argument's datum is a jsonb by the function's declaration.
unsafe impl<'fcx> ArgAbi<'fcx> for Jsonb {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum::<Self>() }.unwrap_or(Jsonb(pg_sys::Datum::null()))
    }
}

// SAFETY: returns the datum as it is.
unsafe impl BoxRet for Jsonb {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: the datum is a jsonb.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

pgrx::impl_sql_translatable!(Jsonb, "jsonb");

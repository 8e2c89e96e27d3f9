//! Exact decimals.
use pgrx::IntoDatum;
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pg_sys;

/// A percentage as numeric(5,2).
pub struct Percentage(pg_sys::Datum);

impl Percentage {
    /// From hundredths of a percent, 0 to 10 000.
    pub fn from_basis_points(basis_points: i32) -> Self {
        let text = std::ffi::CString::new(format!("{}.{:02}", basis_points / 100, basis_points % 100));
        let text = text.unwrap_or_default();
        // SAFETY: numeric_in reads a C string that is a decimal number; -1 asks for its own scale, which is 2.
        let datum = unsafe {
            let arguments = [
                Some(pg_sys::Datum::from(text.as_ptr())),
                Some(pg_sys::Datum::from(0)),
                Some(pg_sys::Datum::from(-1i32)),
            ];
            pgrx::fcinfo::direct_function_call_as_datum(pg_sys::numeric_in, &arguments)
        };
        Self(datum.unwrap_or(pg_sys::Datum::null()))
    }
}

impl IntoDatum for Percentage {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.0)
    }
    fn type_oid() -> pg_sys::Oid {
        pg_sys::NUMERICOID
    }
}

// SAFETY: returns the numeric as it is.
unsafe impl BoxRet for Percentage {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

pgrx::impl_sql_translatable!(Percentage, "numeric");

//! Random bits for receipts.
use pgrx::pg_sys;

/// `count` random words from the operating system's generator, in one call.
pub fn words(count: usize) -> Vec<u64> {
    let mut words = vec![0u64; count];
    // SAFETY: the buffer is `count` words long.
    let filled = unsafe { pg_sys::pg_strong_random(words.as_mut_ptr().cast(), size_of_val(words.as_slice())) };
    if !filled {
        pgrx::ereport!(
            pgrx::PgLogLevel::ERROR,
            pgrx::PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "could not generate random values"
        );
    }
    words
}

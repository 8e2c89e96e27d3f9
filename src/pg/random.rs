//! Random bits for receipts.
use pgrx::pg_sys;
use std::cell::RefCell;

/// Words drawn from the operating system's generator at once.
const STOCK: usize = 128;

thread_local! {
    static WORDS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// A random word; the generator is asked for many at a time, which takes as long as for one.
pub fn word() -> u64 {
    if let Some(word) = WORDS.with_borrow_mut(Vec::pop) {
        return word;
    }
    let mut words = vec![0u64; STOCK];
    // SAFETY: the buffer is STOCK words long.
    let filled = unsafe { pg_sys::pg_strong_random(words.as_mut_ptr().cast(), size_of_val(words.as_slice())) };
    if !filled {
        pgrx::ereport!(
            pgrx::PgLogLevel::ERROR,
            pgrx::PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "could not generate random values"
        );
    }
    let word = words.pop().unwrap_or_default();
    WORDS.set(words);
    word
}

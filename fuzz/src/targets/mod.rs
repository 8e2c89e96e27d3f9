//! What each fuzz target does with its bytes: whatever they are, nothing panics and what must hold holds. Also mounted by
//! `pgrx-tests/tests/engine_corpus.rs`, which replays the kept inputs without a fuzzer.

pub mod engine;
pub mod pictures;
pub mod template;
pub mod values;

/// A target by its name, which is also that of its folder in `fuzz/corpus`.
pub type Target = (&'static str, fn(&[u8]));

pub const ALL: [Target; 4] =
    [("template", template::run), ("values", values::run), ("pictures", pictures::run), ("engine", engine::run)];

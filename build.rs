//! Keeps pgrx' schema section in the library without changing the RUSTFLAGS of every dependency; goes with
//! CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1, which `.ci/` sets.
fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,--no-gc-sections");
    println!("cargo:rerun-if-changed=build.rs");
}

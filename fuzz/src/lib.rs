//! Mounts the pure parts of the extension, as `pgrx-tests/src/lib.rs` does, and the bodies of the fuzz targets.
#[path = "../../src/engine/mod.rs"]
pub mod engine;
#[path = "../../src/picture/mod.rs"]
pub mod picture;
pub mod targets;

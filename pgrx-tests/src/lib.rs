//! Mounts the pure engine of the extension, so that its rules are unit- and property-tested without Postgres.
#[path = "../../src/engine/mod.rs"]
pub mod engine;
#[path = "../../src/picture/mod.rs"]
pub mod picture;

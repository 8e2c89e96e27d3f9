//! What the tests of real clusters share: a server of their own, fresh databases, workers, the invariants. What is
//! tested belongs in the files beside this folder.
#![allow(dead_code, unused_imports)] // each test file uses a part of it

pub mod database;
pub mod example_worker;
pub mod handlers;
pub mod in_flight;
pub mod invariants;
pub mod monitoring;
pub mod proxy;
pub mod random;
pub mod server;
pub mod shapes;
pub mod templates;
pub mod wait;
pub mod worker;

pub use database::{Database, contents, count, one, refusal, rows};
pub use server::Server;

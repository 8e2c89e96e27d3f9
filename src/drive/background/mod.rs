//! In processes of the server's own, where the library is preloaded. A launcher starts one coordinator for each database of
//! `stepwise.databases`; a coordinator sleeps until something is due and then ticks; runners, each as the role that has
//! created the tasks, run SQL handlers. Nothing here knows a rule: all of it is claims, reports and ticks like anybody's.
#![allow(unsafe_code)] // `unsafe(no_mangle)`: the server finds these functions by their names

mod coordinator;
mod launcher;
mod runner;

use crate::pg::process;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;

/// Registers what must be registered while the server starts.
pub fn register() {
    process::register_launcher("stepwise_launcher_main");
}

#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn stepwise_launcher_main(_argument: pg_sys::Datum) {
    launcher::main();
}

#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn stepwise_coordinator_main(argument: pg_sys::Datum) {
    coordinator::main(Oid::from(argument.value() as u32));
}

#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn stepwise_runner_main(argument: pg_sys::Datum) {
    runner::main(Oid::from(argument.value() as u32));
}

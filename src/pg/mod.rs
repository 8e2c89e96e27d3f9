//! Glue to Postgres, and the only place with `unsafe`: errors with SQLSTATE, settings, time, raw jsonb, kept plans,
//! trigger rows, NOTIFY. Nothing here knows a rule of the engine or a table of the extension.
#![allow(unsafe_code)]

pub mod array;
pub mod attempt;
pub mod board;
pub mod catalog;
pub mod committed;
pub mod error;
pub mod guc;
pub mod heap;
pub mod jsonb;
pub mod lookup;
pub mod notify;
pub mod numeric;
pub mod per_row;
pub mod planted;
pub mod process;
pub mod queue_index;
pub mod random;
pub mod role;
pub mod row_lock;
pub mod rows;
pub mod snapshot;
pub mod spi;
pub mod time;
pub mod trigger;
pub mod utility;
pub mod value;
pub mod wait;

//! The rules. Pure: no pgrx, no clock, no SQL; every time and every row is an argument.
//!
//! In: what is legal, ready, due, settled, announced. Out: where rows come from, how they are locked and stored, and
//! how an error reaches a client. Nothing here panics, recurses over a graph, or imports anything from outside `engine`.

pub mod access;
pub mod backoff;
pub mod cascade;
pub mod context;
pub mod context_schema;
pub mod event;
pub mod explain;
pub mod failure;
pub mod graph;
pub mod operate;
pub mod outcome;
pub mod readiness;
pub mod receipt;
pub mod refusal;
pub mod rule;
pub mod simulate;
pub mod start;
pub mod state;
pub mod stream;
pub mod subscription;
pub mod template;
pub mod time;
pub mod traceparent;
pub mod transition;
pub mod version;

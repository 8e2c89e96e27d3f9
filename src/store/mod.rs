//! The only place with runtime SQL: fully qualified, bound parameters of exact types, planned once per backend, and
//! set-based, so that the number of statements of a call does not grow with its batch. Decides nothing that the engine
//! can decide.

pub mod access;
pub mod audit;
mod by_time;
pub mod claim;
pub mod claimable;
pub mod columns;
pub mod due;
pub mod error;
pub mod found;
pub mod graph_cache;
pub mod handlers;
pub mod history;
pub mod inspect;
pub mod limits;
pub mod of_task;
pub mod operate;
pub mod picture;
#[cfg(feature = "planted_bugs")]
mod planted;
pub mod privacy;
pub mod propagate;
pub mod purge;
pub mod queue;
pub mod queues;
pub mod ranges;
pub mod readers;
pub mod report;
pub mod scope;
pub mod settle;
pub mod signals;
pub mod start;
pub mod stream;
pub mod subscriptions;
pub mod templates;
pub mod tick;
pub mod unreported;

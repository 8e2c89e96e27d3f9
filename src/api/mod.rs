//! The SQL surface, thin: each function checks its arguments, calls the store or the engine, and converts back.
//! Readers use the caller's snapshot and rights; commands run as the extension's owner (store::access::command).

mod access;
mod arguments;
mod ask;
mod audit;
mod define;
mod drive;
mod inspect;
mod operate;
mod picture;
mod simulate;
pub mod sound;
mod start;
mod stream;
mod time;
mod work;

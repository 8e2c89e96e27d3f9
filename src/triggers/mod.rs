//! The four triggers that make the tables a state machine: whatever client changes a state, the rules hold. Each body
//! reads rows, asks the engine or hands over to the store, and writes back. And the guard of rows that are not changed
//! or removed by hand.

mod kept_rows;
mod remembered_rows;
mod steps_after;
mod steps_before;
mod tasks_after;
mod tasks_before;

//! What the CHECK constraints of the hot tables ask.
use crate::engine::outcome;
use crate::engine::state::{StepState, TaskState};
use pgrx::prelude::*;

#[pg_extern(immutable, parallel_safe, strict)]
fn is_sound_step(state: &str, remaining_parents: i32, attempts: i32) -> bool {
    StepState::parse(state).is_some() && remaining_parents >= 0 && attempts >= 0
}

#[pg_extern(immutable, parallel_safe, strict)]
fn is_sound_task(
    state: &str,
    total_steps: i32,
    live_steps: i32,
    completed_steps: i32,
    failed_steps: i32,
    cancelled_steps: i32,
    finished: bool,
) -> bool {
    let counted = [completed_steps, failed_steps, cancelled_steps];
    TaskState::parse(state).is_some_and(|state| outcome::is_sound(state, total_steps, live_steps, counted, finished))
}

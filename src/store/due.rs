//! Tells the database's coordinator, if there is one, when something will be due: at the commit of this transaction.
use super::graph_cache;
use super::graph_cache::CachedTemplate;
use super::scope::StepChange;
use crate::engine::time::Timestamp;
use crate::pg::board;

/// A step is visible from then on.
pub fn note(template: &CachedTemplate, step_id: i32, visible_at: Timestamp, now: Timestamp) {
    if visible_at > now {
        board::note(visible_at);
    } else if template.step(step_id).is_some_and(|step| step.in_database) {
        board::note_ready();
    }
}

/// The steps that these changes have left visible.
pub fn note_changes(changes: &[StepChange], now: Timestamp) {
    if !board::exists() {
        return;
    }
    for change in changes {
        if let Some(visible_at) = change.visible_at {
            note(&graph_cache::template_of_row(change.template_id), change.step_id, visible_at, now);
        }
    }
}

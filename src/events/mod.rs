//! From a recorded change to its notifications. What the events are called and how a payload looks is the engine's.
use crate::engine::event::{self, Payload};
use crate::engine::time;
use crate::pg::guc::{self, NotifyLevel};
use crate::pg::notify::notify;
use crate::store::graph_cache::{self, CachedTemplate};
use crate::store::history::TaskChange;
use crate::store::privacy;
use crate::store::scope::StepChange;

pub fn announce_step(event_id: i64, change: &StepChange, template: &CachedTemplate, traceparent: Option<&str>) {
    if privacy::is_private(&template.namespace) {
        return;
    }
    for event in event::step_events(change.from, change.to, change.retry()) {
        let payload = Payload {
            event,
            event_id,
            task_id: change.task_id,
            step_id: Some(change.step_id),
            step: template.step(change.step_id).map(|step| step.name.as_str()),
            template: &template.label,
            from: Some(change.from.as_str()),
            to: change.to.as_str(),
            attempt: Some(change.attempt),
            at: time::rfc3339(change.at),
            traceparent,
        };
        notify(c"stepwise_step", &payload.to_json());
    }
}

pub fn announce_task(event_id: i64, change: &TaskChange, template: &CachedTemplate) {
    if privacy::is_private(&template.namespace) {
        return;
    }
    for event in event::task_events(change.from, change.to) {
        let payload = Payload {
            event,
            event_id,
            task_id: change.task_id,
            step_id: None,
            step: None,
            template: &template.label,
            from: change.from.map(|state| state.as_str()),
            to: change.to.as_str(),
            attempt: None,
            at: time::rfc3339(change.at),
            traceparent: change.traceparent.as_deref(),
        };
        notify(c"stepwise_task", &payload.to_json());
    }
}

/// Tells waiting workers that steps of these queues can be claimed now: at most once per queue and transaction, which
/// Postgres ensures by dropping a repeated payload.
pub fn announce_ready(queue_ids: impl Iterator<Item = i64>) {
    if guc::notify_level() == NotifyLevel::Off {
        return;
    }
    let mut last = None;
    for queue_id in queue_ids {
        if last != Some(queue_id) {
            // Workers wake whatever it says.
            match privacy::is_private_queue(queue_id) {
                true => notify(c"stepwise_ready", ""),
                false => notify(c"stepwise_ready", &graph_cache::queue_name(queue_id)),
            }
            last = Some(queue_id);
        }
    }
}

//! Runs SQL handlers as one role: claims a step, commits, runs it and reports in the next transaction, so that what the
//! handler wrote and the completion are stored together or not at all.
use super::super::handler;
use super::super::inline::as_engine;
use crate::engine::failure;
use crate::engine::time::Span;
use crate::pg::error::finish;
use crate::pg::jsonb::Jsonb;
use crate::pg::{board, catalog, process, wait};
use crate::store::claim::{self, ClaimedStep, Request};
use crate::store::claimable::Source;
use crate::store::report::{self, Report, Verdict};
use crate::store::unreported;
use pgrx::pg_sys::Oid;
use std::time::Duration;

/// How long it waits for more work before it ends.
const LINGER: Duration = Duration::from_secs(10);
/// A lease is that much longer than the time a handler has, so that the timeout is reported before the lease ends.
const GRACE: Span = Span::from_secs(10);

/// What is kept of a claimed step from one transaction to the next: its payloads live in the memory of the first.
struct Held {
    name: String,
    handler: String,
    timeout: Span,
    step: ClaimedStep,
    payloads: [Option<Box<[u8]>>; 3],
}

pub fn main(database: Oid) {
    let Some(role) = process::extra().trim_end_matches('\0').parse().ok().map(Oid::from_u32) else { return };
    process::begin_as(database, role);
    if !board::run_handlers(database.to_u32(), role.to_u32()) {
        return;
    }
    process::report_activity(None);
    let Ok(role) = process::transaction(catalog::actor) else { return };
    let worker = format!("handlers of {role}");
    loop {
        process::reload_as();
        match process::transaction(|| next(&worker, &role)) {
            Ok(Some(held)) => run(held),
            Ok(None) => {
                board::set_idle(true);
                let woken = wait::latch(Some(LINGER));
                board::set_idle(false);
                if !woken {
                    return;
                }
            }
            // It was logged; a new process begins with a clean slate.
            Err(_) => return,
        }
    }
}

/// Claims the next step of a task of this role.
fn next(worker: &str, role: &str) -> Option<Held> {
    if catalog::incarnation() == Oid::INVALID {
        return None;
    }
    let source = Source::InDatabase { queues: None, role: Some(role) };
    let request = Request { worker, source, max_steps: 1, lease: None, grace: GRACE };
    let mut step = as_engine(|| claim::claim(&request)).steps.pop()?;
    let payloads = [step.context.take(), step.inputs.take(), step.dependencies.take()];
    let known = step.template.step(step.step_id)?;
    Some(Held {
        name: known.name.clone(),
        handler: known.handler.clone(),
        timeout: known.rule.lease(),
        payloads: payloads.map(|payload| payload.map(Jsonb::to_bytes)),
        step,
    })
}

fn run(mut held: Held) {
    process::report_activity(Some(&format!("step {} of task {}: {}", held.name, held.step.task_id, held.handler)));
    let millis = (held.timeout.0 / 1000).clamp(1, i64::from(i32::MAX)) as i32;
    let receipt = held.step.receipt;
    let ran = process::transaction(|| {
        let [context, inputs, dependencies] = &held.payloads;
        held.step.context = context.as_deref().map(Jsonb::from_bytes);
        held.step.inputs = inputs.as_deref().map(Jsonb::from_bytes);
        held.step.dependencies = dependencies.as_deref().map(Jsonb::from_bytes);
        process::timeout_on(millis);
        let (report, decided) =
            unreported::decides(held.step.task_id, held.step.step_id, || handler::run(&held.step, || true));
        process::timeout_off();
        process::reset_session();
        let outcome = as_engine(|| report::report(report.as_slice())).first().copied();
        // Somebody else has decided the step meanwhile: what the handler wrote is of no use.
        if let Some(outcome) = outcome.filter(|_| !decided) {
            finish(report::demand(receipt, outcome).map_err(Into::into));
        }
    });
    // A timeout, a cancel, or a constraint that was checked at the commit: nothing of the attempt is stored.
    if let Err(aborted) = ran {
        let advice = failure::advice(&aborted.sqlstate, None);
        let error = serde_json::json!({ "sqlstate": aborted.sqlstate, "message": aborted.message }).to_string();
        // Where that fails too, the lease will end.
        let _ = process::transaction(|| {
            process::reset_session();
            let error = Some(Jsonb::from_text(&error));
            let verdict = Verdict::Fail { error, retryable: advice.retryable, retry_after_seconds: None };
            as_engine(|| report::report(&[Report { receipt, verdict }]));
        });
    }
    process::report_activity(None);
}

//! Work: claims, reports, leases.
use super::arguments::{self, Uuid, beside, elements};
use crate::engine::access::Level;
use crate::engine::template::MAX_NAME_CHARS;
use crate::engine::time::Span;
use crate::pg::error::{Outcome, finish, required};
use crate::pg::jsonb::{Jsonb, JsonbArray};
use crate::pg::rows::{Arguments, NULL, Rows, RowsReturned, TextRoom, return_rows, uuid};
use crate::pg::value::{Param, optional, param};
use crate::store::access::command;
use crate::store::claim::{self, ClaimedStep, Request};
use crate::store::claimable::Source;
use crate::store::report::{self, Outcome as Reported, Report, Verdict};
use pgrx::datum::Interval;
use pgrx::pg_sys;
use pgrx::prelude::*;

fn claim_for(
    worker: Option<String>,
    queues: Option<Vec<Option<String>>>,
    max_steps: Option<i32>,
    lease: Option<Interval>,
) -> Outcome<Vec<ClaimedStep>> {
    let worker = arguments::short_text("worker", MAX_NAME_CHARS, required("worker", worker)?)?;
    let queues = queues.map(|queues| elements("queues", queues)).transpose()?;
    let max_steps = arguments::max_steps(max_steps)?;
    let lease = arguments::lease(lease)?;
    Ok(claim::claim(&Request {
        worker: &worker,
        source: Source::Queues(queues.as_deref()),
        max_steps,
        lease,
        grace: Span(0),
    })
    .steps)
}

fn completions(receipts: Option<Vec<Option<Uuid>>>, results: Option<JsonbArray>) -> Outcome<Vec<Report>> {
    let receipts = elements("receipts", required("receipts", receipts)?)?;
    let results = beside(("receipts", receipts.len()), "results", results.map(|array| array.0))?;
    let reports = receipts.into_iter().zip(results);
    Ok(reports
        .map(|(receipt, results)| Report { receipt: *receipt.as_bytes(), verdict: Verdict::Complete { results } })
        .collect())
}

fn failures(
    receipts: Option<Vec<Option<Uuid>>>,
    errors: Option<JsonbArray>,
    retryable: Option<Vec<Option<bool>>>,
    retry_after: Option<Vec<Option<Interval>>>,
) -> Outcome<Vec<Report>> {
    let receipts = elements("receipts", required("receipts", receipts)?)?;
    let of = ("receipts", receipts.len());
    let errors = beside(of, "errors", errors.map(|array| array.0))?;
    let retryable = beside(of, "retryable", retryable)?;
    let retry_after = beside(of, "retry_after", retry_after)?;
    let mut reports = Vec::with_capacity(receipts.len());
    for (((receipt, error), retryable), retry_after) in receipts.into_iter().zip(errors).zip(retryable).zip(retry_after)
    {
        let wait = retry_after.map(|wait| arguments::whole_seconds("retry_after", &wait));
        let retry_after_seconds = wait.transpose()?;
        let verdict = Verdict::Fail { error, retryable, retry_after_seconds };
        reports.push(Report { receipt: *receipt.as_bytes(), verdict });
    }
    Ok(reports)
}

/// Writes the columns of a batch report: a row for each, in their order.
fn outcome_rows(fcinfo: pg_sys::FunctionCallInfo, reports: impl FnOnce() -> Outcome<Vec<Report>>) -> RowsReturned {
    let (reports, outcomes) = finish(command(Level::Worker, || {
        let reports = reports()?;
        let outcomes = report::report(&reports);
        Ok((reports, outcomes))
    }));
    return_rows(fcinfo, |rows: &mut Rows<2>| {
        let mut text = TextRoom::new();
        for (report, outcome) in reports.iter().zip(outcomes) {
            rows.put([uuid(&report.receipt), text.hold(outcome.as_str())]);
        }
    })
}

fn store_one(reports: Vec<Report>) -> Outcome<&'static str> {
    let outcome = report::report(&reports).first().copied().unwrap_or(Reported::NotFound);
    let receipt = reports.first().map(|report| report.receipt).unwrap_or_default();
    Ok(report::demand(receipt, outcome)?.as_str())
}

/// What the columns of claim_steps are written with.
struct Handing {
    texts: [TextRoom; 6],
    /// `{}`
    no_dependencies: Jsonb,
}

impl Handing {
    fn new() -> Self {
        Self { texts: std::array::from_fn(|_| TextRoom::new()), no_dependencies: Jsonb::empty_object() }
    }

    /// A claimed step in the columns of claim_steps; good until the next one.
    fn columns(&mut self, step: &ClaimedStep) -> [Param; 16] {
        let [task_name, step_name, namespace, version, handler, traceparent] = &mut self.texts;
        let template = &step.template;
        let known = template.step(step.step_id);
        [
            uuid(&step.receipt),
            param(step.task_id),
            param(step.step_id),
            task_name.hold(&template.name),
            step_name.hold(known.map_or("", |step| &step.name)),
            namespace.hold(&template.namespace),
            version.hold(&template.version),
            handler.hold(known.map_or("", |step| &step.handler)),
            optional(known.and_then(|step| step.config.as_deref()).map(Jsonb::from_bytes)),
            param(step.attempt),
            param(known.map_or(0, |step| step.rule.retry_limit)),
            param(step.lease_expires_at),
            optional(step.context),
            optional(step.inputs),
            param(step.dependencies.unwrap_or(self.no_dependencies)),
            step.traceparent.as_deref().map_or(NULL, |text| traceparent.hold(text)),
        ]
    }
}

#[pg_extern(sql = r#"
    CREATE FUNCTION stepwise.claim_steps(worker text, queues text[] DEFAULT NULL, max_steps integer DEFAULT 1,
        lease interval DEFAULT NULL)
    RETURNS TABLE (receipt uuid, task_id bigint, step_id integer, task_name text, step_name text, namespace text,
        version text, handler text, config jsonb, attempt integer, retry_limit integer, lease_expires_at timestamptz,
        context jsonb, inputs jsonb, dependencies jsonb, traceparent text)
    LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn claim_steps(fcinfo: pg_sys::FunctionCallInfo) -> RowsReturned {
    let at = Arguments(fcinfo);
    let steps = finish(command(Level::Worker, || claim_for(at.get(0), at.get(1), at.get(2), at.get(3))));
    return_rows(fcinfo, |rows: &mut Rows<16>| {
        let mut handing = Handing::new();
        steps.iter().for_each(|step| rows.put(handing.columns(step)));
    })
}

#[pg_extern]
fn complete_step(receipt: Option<Uuid>, results: default!(Option<Jsonb>, "NULL")) -> &'static str {
    let complete =
        |receipt| completions(Some(vec![Some(receipt)]), Some(JsonbArray(vec![results]))).and_then(store_one);
    finish(command(Level::Worker, || required("receipt", receipt).map_err(Into::into).and_then(complete)))
}

#[pg_extern(sql = r#"
    CREATE FUNCTION stepwise.complete_steps(receipts uuid[], results jsonb[] DEFAULT NULL)
    RETURNS TABLE (receipt uuid, outcome text)
    LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn complete_steps(fcinfo: pg_sys::FunctionCallInfo) -> RowsReturned {
    let at = Arguments(fcinfo);
    outcome_rows(fcinfo, || completions(at.get(0), at.get(1)))
}

#[pg_extern]
fn fail_step(
    receipt: Option<Uuid>,
    error: default!(Option<Jsonb>, "NULL"),
    retryable: default!(Option<bool>, "NULL"),
    retry_after: default!(Option<Interval>, "NULL"),
) -> &'static str {
    let fail = |receipt| {
        failures(
            Some(vec![Some(receipt)]),
            Some(JsonbArray(vec![error])),
            Some(vec![retryable]),
            Some(vec![retry_after]),
        )
        .and_then(store_one)
    };
    finish(command(Level::Worker, || required("receipt", receipt).map_err(Into::into).and_then(fail)))
}

#[pg_extern(sql = r#"
    CREATE FUNCTION stepwise.fail_steps(receipts uuid[], errors jsonb[] DEFAULT NULL, retryable boolean[] DEFAULT NULL,
        retry_after interval[] DEFAULT NULL)
    RETURNS TABLE (receipt uuid, outcome text)
    LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn fail_steps(fcinfo: pg_sys::FunctionCallInfo) -> RowsReturned {
    let at = Arguments(fcinfo);
    outcome_rows(fcinfo, || failures(at.get(0), at.get(1), at.get(2), at.get(3)))
}

fn extend(receipt: Option<Uuid>, lease: Option<Interval>) -> Outcome<&'static str> {
    let receipt = *required("receipt", receipt)?.as_bytes();
    let lease = arguments::lease(lease)?;
    Ok(report::demand(receipt, report::extend(receipt, lease))?.as_str())
}

fn release(receipt: Option<Uuid>) -> Outcome<&'static str> {
    let receipt = *required("receipt", receipt)?.as_bytes();
    Ok(report::demand(receipt, report::release(receipt))?.as_str())
}

#[pg_extern]
fn extend_lease(receipt: Option<Uuid>, lease: default!(Option<Interval>, "NULL")) -> &'static str {
    finish(command(Level::Worker, || extend(receipt, lease)))
}

#[pg_extern]
fn release_step(receipt: Option<Uuid>) -> &'static str {
    finish(command(Level::Worker, || release(receipt)))
}

#[pg_extern(sql = r#"
    CREATE FUNCTION stepwise.report_and_claim(worker text, completed uuid[] DEFAULT '{}', results jsonb[] DEFAULT NULL,
        failed uuid[] DEFAULT '{}', errors jsonb[] DEFAULT NULL, retryable boolean[] DEFAULT NULL,
        retry_after interval[] DEFAULT NULL, queues text[] DEFAULT NULL, max_steps integer DEFAULT 1,
        lease interval DEFAULT NULL)
    RETURNS TABLE (outcome text, receipt uuid, task_id bigint, step_id integer, task_name text, step_name text,
        namespace text, version text, handler text, config jsonb, attempt integer, retry_limit integer,
        lease_expires_at timestamptz, context jsonb, inputs jsonb, dependencies jsonb, traceparent text)
    LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn report_and_claim(fcinfo: pg_sys::FunctionCallInfo) -> RowsReturned {
    let at = Arguments(fcinfo);
    let (reports, outcomes, claimed) = finish(command(Level::Worker, || {
        let mut reports = completions(at.get(1), at.get(2))?;
        reports.extend(failures(at.get(3), at.get(4), at.get(5), at.get(6))?);
        let outcomes = report::report(&reports);
        Ok((reports, outcomes, claim_for(at.get(0), at.get(7), at.get(8), at.get(9))?))
    }));
    return_rows(fcinfo, |rows: &mut Rows<17>| {
        let (mut outcome, mut handing) = (TextRoom::new(), Handing::new());
        for (report, reported) in reports.iter().zip(outcomes) {
            let mut row = [NULL; 17];
            (row[0], row[1]) = (outcome.hold(reported.as_str()), uuid(&report.receipt));
            rows.put(row);
        }
        let claimed_as = outcome.hold("claimed");
        for step in &claimed {
            let mut row = [claimed_as; 17];
            row[1..].copy_from_slice(&handing.columns(step));
            rows.put(row);
        }
    })
}

//! Work: claims, reports, leases.
use super::arguments::{self, Uuid, beside, elements};
use crate::engine::access::Level;
use crate::engine::template::MAX_NAME_CHARS;
use crate::engine::time::Span;
use crate::pg::error::{Outcome, finish, required};
use crate::pg::jsonb::{Jsonb, JsonbArray};
use crate::pg::time;
use crate::store::access::command;
use crate::store::claim::{self, ClaimedStep, Request};
use crate::store::claimable::Source;
use crate::store::report::{self, Outcome as Reported, Report, Verdict};
use pgrx::datum::{Interval, TimestampWithTimeZone};
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

/// One row of a batch report.
type ReportRow = (Uuid, &'static str);

fn store(reports: Vec<Report>) -> Vec<ReportRow> {
    let outcomes = report::report(&reports);
    reports.iter().zip(outcomes).map(|(report, outcome)| (Uuid::from_bytes(report.receipt), outcome.as_str())).collect()
}

fn store_one(reports: Vec<Report>) -> Outcome<&'static str> {
    let outcome = report::report(&reports).first().copied().unwrap_or(Reported::NotFound);
    let receipt = reports.first().map(|report| report.receipt).unwrap_or_default();
    Ok(report::demand(receipt, outcome)?.as_str())
}

/// A claimed step in the columns of claim_steps.
type Handed = (
    Uuid,
    i64,
    i32,
    String,
    String,
    String,
    String,
    String,
    Option<Jsonb>,
    i32,
    i32,
    TimestampWithTimeZone,
    Option<Jsonb>,
    Option<Jsonb>,
    Jsonb,
    Option<String>,
);

fn handed_out(step: ClaimedStep) -> Handed {
    let (template, step_id) = (step.template, step.step_id);
    let known = template.step(step_id);
    (
        Uuid::from_bytes(step.receipt),
        step.task_id,
        step_id,
        template.name.clone(),
        known.map_or_else(String::new, |step| step.name.clone()),
        template.namespace.clone(),
        template.version.clone(),
        known.map_or_else(String::new, |step| step.handler.clone()),
        known.and_then(|step| step.config.as_deref()).map(Jsonb::from_bytes),
        step.attempt,
        known.map_or(0, |step| step.rule.retry_limit),
        time::to_sql(step.lease_expires_at),
        step.context,
        step.inputs,
        step.dependencies.unwrap_or_else(Jsonb::empty_object),
        step.traceparent,
    )
}

#[pg_extern]
#[allow(clippy::type_complexity)]
fn claim_steps(
    worker: Option<String>,
    queues: default!(Option<Vec<Option<String>>>, "NULL"),
    max_steps: default!(Option<i32>, "1"),
    lease: default!(Option<Interval>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(receipt, Uuid),
        name!(task_id, i64),
        name!(step_id, i32),
        name!(task_name, String),
        name!(step_name, String),
        name!(namespace, String),
        name!(version, String),
        name!(handler, String),
        name!(config, Option<Jsonb>),
        name!(attempt, i32),
        name!(retry_limit, i32),
        name!(lease_expires_at, TimestampWithTimeZone),
        name!(context, Option<Jsonb>),
        name!(inputs, Option<Jsonb>),
        name!(dependencies, Jsonb),
        name!(traceparent, Option<String>),
    ),
> {
    let claimed = finish(command(Level::Worker, || claim_for(worker, queues, max_steps, lease)));
    TableIterator::new(claimed.into_iter().map(handed_out))
}

#[pg_extern]
fn complete_step(receipt: Option<Uuid>, results: default!(Option<Jsonb>, "NULL")) -> &'static str {
    let complete =
        |receipt| completions(Some(vec![Some(receipt)]), Some(JsonbArray(vec![results]))).and_then(store_one);
    finish(command(Level::Worker, || required("receipt", receipt).map_err(Into::into).and_then(complete)))
}

#[pg_extern]
fn complete_steps(
    receipts: Option<Vec<Option<Uuid>>>,
    results: default!(Option<JsonbArray>, "NULL"),
) -> TableIterator<'static, (name!(receipt, Uuid), name!(outcome, &'static str))> {
    TableIterator::new(finish(command(Level::Worker, || completions(receipts, results).map(store))))
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

#[pg_extern]
fn fail_steps(
    receipts: Option<Vec<Option<Uuid>>>,
    errors: default!(Option<JsonbArray>, "NULL"),
    retryable: default!(Option<Vec<Option<bool>>>, "NULL"),
    retry_after: default!(Option<Vec<Option<Interval>>>, "NULL"),
) -> TableIterator<'static, (name!(receipt, Uuid), name!(outcome, &'static str))> {
    let failed = command(Level::Worker, || failures(receipts, errors, retryable, retry_after).map(store));
    TableIterator::new(finish(failed))
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

#[pg_extern]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
fn report_and_claim(
    worker: Option<String>,
    completed: default!(Option<Vec<Option<Uuid>>>, "'{}'"),
    results: default!(Option<JsonbArray>, "NULL"),
    failed: default!(Option<Vec<Option<Uuid>>>, "'{}'"),
    errors: default!(Option<JsonbArray>, "NULL"),
    retryable: default!(Option<Vec<Option<bool>>>, "NULL"),
    retry_after: default!(Option<Vec<Option<Interval>>>, "NULL"),
    queues: default!(Option<Vec<Option<String>>>, "NULL"),
    max_steps: default!(Option<i32>, "1"),
    lease: default!(Option<Interval>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(outcome, &'static str),
        name!(receipt, Uuid),
        name!(task_id, Option<i64>),
        name!(step_id, Option<i32>),
        name!(task_name, Option<String>),
        name!(step_name, Option<String>),
        name!(namespace, Option<String>),
        name!(version, Option<String>),
        name!(handler, Option<String>),
        name!(config, Option<Jsonb>),
        name!(attempt, Option<i32>),
        name!(retry_limit, Option<i32>),
        name!(lease_expires_at, Option<TimestampWithTimeZone>),
        name!(context, Option<Jsonb>),
        name!(inputs, Option<Jsonb>),
        name!(dependencies, Option<Jsonb>),
        name!(traceparent, Option<String>),
    ),
> {
    let (reported, claimed) = finish(command(Level::Worker, || {
        let mut reports = completions(completed, results)?;
        reports.extend(failures(failed, errors, retryable, retry_after)?);
        let reported = store(reports);
        Ok((reported, claim_for(worker, queues, max_steps, lease)?))
    }));
    let reported = reported.into_iter().map(|(receipt, outcome)| {
        (outcome, receipt, None, None, None, None, None, None, None, None, None, None, None, None, None, None, None)
    });
    let claimed = claimed.into_iter().map(|step| {
        let (
            receipt,
            task_id,
            step_id,
            task,
            name,
            namespace,
            version,
            handler,
            config,
            attempt,
            limit,
            lease,
            context,
            inputs,
            dependencies,
            traceparent,
        ) = handed_out(step);
        (
            "claimed",
            receipt,
            Some(task_id),
            Some(step_id),
            Some(task),
            Some(name),
            Some(namespace),
            Some(version),
            Some(handler),
            config,
            Some(attempt),
            Some(limit),
            Some(lease),
            context,
            inputs,
            Some(dependencies),
            traceparent,
        )
    });
    TableIterator::new(reported.chain(claimed))
}

//! Events as a durable stream: subscriptions, reading, acknowledging. See docs/events.md.
use super::arguments::name_text;
use crate::engine::access::Level;
use crate::pg::error::{ArgumentError, Outcome, finish, required};
use crate::pg::jsonb::Jsonb;
use crate::pg::rows::{Rows, RowsReturned, argument, return_rows};
use crate::pg::time;
use crate::pg::value::{optional, param};
use crate::store::access::command;
use crate::store::{stream, subscriptions};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use pgrx::prelude::*;

fn create(name: Option<String>, filter: Option<Jsonb>, start_from: Option<String>) -> Outcome<i64> {
    let name = name_text("name", required("name", name)?)?;
    subscriptions::create(&name, filter, &required("start_from", start_from)?)
}

#[pg_extern]
fn create_subscription(
    name: Option<String>,
    filter: default!(Option<Jsonb>, "NULL"),
    start_from: default!(Option<String>, "'now'"),
) -> i64 {
    finish(command(Level::Operator, || create(name, filter, start_from)))
}

fn remove(subscription: Option<String>) -> Outcome<()> {
    Ok(subscriptions::drop(&required("subscription", subscription)?)?)
}

#[pg_extern]
fn drop_subscription(subscription: Option<String>) {
    finish(command(Level::Operator, || remove(subscription)))
}

fn acknowledge(subscription: Option<String>, position: Option<i64>) -> Outcome<i64> {
    let (subscription, position) = (required("subscription", subscription)?, required("position", position)?);
    Ok(subscriptions::acknowledge(&subscription, position)?)
}

#[pg_extern]
fn ack_events(subscription: Option<String>, position: Option<i64>) -> i64 {
    finish(command(Level::Worker, || acknowledge(subscription, position)))
}

fn read(subscription: Option<String>, max: Option<i32>, alone: bool, rows: &mut Rows<16>) -> Outcome<()> {
    let (subscription, max) = (required("subscription", subscription)?, required("max", max)?);
    if !(1..=10_000).contains(&max) {
        let expected = "a number from 1 to 10000";
        return Err(ArgumentError::OutOfRange { name: "max", value: max.to_string(), expected }.into());
    }
    let put = |event: stream::Event| {
        rows.put([
            param(event.event),
            param(event.event_id),
            param(event.task_id),
            optional(event.step_id),
            optional(event.step_name),
            optional(event.template.map(|template| template.namespace.as_str())),
            optional(event.template.map(|template| template.name.as_str())),
            optional(event.template.map(|template| template.version.as_str())),
            optional(event.from),
            param(event.to),
            optional(event.attempt),
            param(event.at),
            optional(event.worker),
            optional(event.actor),
            optional(event.metadata),
            optional(event.traceparent),
        ]);
    };
    Ok(stream::read(&subscription, max as usize, alone, put)?)
}

#[pg_extern(sql = r#"
    CREATE FUNCTION stepwise.read_events(subscription text, max integer DEFAULT 100)
    RETURNS TABLE (event text, event_id bigint, task_id bigint, step_id integer, step_name text, namespace text,
        template text, version text, from_state text, to_state text, attempt integer, at timestamptz, worker text,
        actor text, metadata jsonb, traceparent text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn read_events(fcinfo: pg_sys::FunctionCallInfo) -> RowsReturned {
    let (subscription, max) = (argument(fcinfo, 0), argument(fcinfo, 1));
    return_rows(fcinfo, |rows| finish(command(Level::Any, || read(subscription, max, false, rows))))
}

#[pg_extern(sql = r#"
    CREATE FUNCTION stepwise.claim_events(subscription text, max integer DEFAULT 100)
    RETURNS TABLE (event text, event_id bigint, task_id bigint, step_id integer, step_name text, namespace text,
        template text, version text, from_state text, to_state text, attempt integer, at timestamptz, worker text,
        actor text, metadata jsonb, traceparent text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn claim_events(fcinfo: pg_sys::FunctionCallInfo) -> RowsReturned {
    let (subscription, max) = (argument(fcinfo, 0), argument(fcinfo, 1));
    return_rows(fcinfo, |rows| finish(command(Level::Worker, || read(subscription, max, true, rows))))
}

#[pg_extern]
#[allow(clippy::type_complexity)]
fn subscription_lag() -> TableIterator<
    'static,
    (
        name!(subscription, String),
        name!(position, i64),
        name!(safe_event, i64),
        name!(last_event, i64),
        name!(events_behind, i64),
        name!(behind_since, Option<TimestampWithTimeZone>),
    ),
> {
    let lags = command(Level::Reader, subscriptions::lags);
    TableIterator::new(lags.into_iter().map(|lag| {
        let behind = (lag.last_event - lag.position).max(0);
        let since = lag.behind_since.map(time::to_sql);
        (lag.name, lag.position, lag.safe_event, lag.last_event, behind, since)
    }))
}

//! The clock, and conversions between the engine's times and SQL's.
use super::guc;
use super::planted::{Bug, planted};
use crate::engine::time::{Span, Timestamp};
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys;

/// The only clock: the wall clock, which moves inside a transaction, plus `stepwise.clock_offset`.
pub fn now() -> Timestamp {
    if planted(Bug::TransactionClock) {
        // SAFETY: a transaction is open.
        return Timestamp(unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }).plus(guc::clock_offset());
    }
    // SAFETY: reads the system clock.
    Timestamp(unsafe { pg_sys::GetCurrentTimestamp() }).plus(guc::clock_offset())
}

/// A `timestamptz` as SQL sees it. Out-of-range values cannot occur: the engine saturates to ±infinity.
pub fn to_sql(time: Timestamp) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(time.0).unwrap_or_else(|_| TimestampWithTimeZone::positive_infinity())
}

pub fn from_sql(time: TimestampWithTimeZone) -> Timestamp {
    Timestamp(pg_sys::TimestampTz::from(time))
}

/// An interval in microseconds, days as 24 hours and months as 30 days, saturated.
pub fn span(interval: &Interval) -> Span {
    Span(i64::try_from(interval.as_micros()).unwrap_or(i64::MAX))
}

/// Microseconds as an interval.
pub fn interval(span: Span) -> Interval {
    Interval::from_micros(span.0)
}

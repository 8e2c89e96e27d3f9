//! Points and lengths of time, as Postgres counts them, and their text forms.
//!
//! In: saturating arithmetic on microseconds, reading an interval, writing a timestamp. Out: what time it is.

use chrono::{DateTime, SecondsFormat, Utc};
use thiserror::Error;

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i128 = 86_400;
/// 2000-01-01 00:00:00 UTC in microseconds since 1970.
const POSTGRES_EPOCH: i64 = 946_684_800 * MICROS_PER_SECOND;
/// The first finite `timestamptz`, 4714-11-24 BC.
const FIRST: i64 = -211_813_488_000_000_000;
/// The first microsecond after the last finite `timestamptz`, the start of the year 294277.
const END: i64 = 9_223_371_331_200_000_000;

/// A `timestamptz`: microseconds since 2000-01-01 UTC; `i64::MAX` is infinity, `i64::MIN` is -infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// A length of time in microseconds; negative reaches back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub i64);

impl Timestamp {
    pub const INFINITY: Timestamp = Timestamp(i64::MAX);
    pub const NEG_INFINITY: Timestamp = Timestamp(i64::MIN);

    /// This time moved by `span`. What leaves the range of `timestamptz` becomes an infinity; an infinity stays.
    #[inline]
    pub fn plus(self, span: Span) -> Timestamp {
        if !self.is_finite() {
            return self;
        }
        match self.0.saturating_add(span.0) {
            micros if micros >= END => Timestamp::INFINITY,
            micros if micros < FIRST => Timestamp::NEG_INFINITY,
            micros => Timestamp(micros),
        }
    }

    /// The time from `earlier` to this, saturating; between two equal times, infinite or not, it is zero.
    #[inline]
    pub fn since(self, earlier: Timestamp) -> Span {
        if self == earlier {
            Span(0)
        } else if self == Timestamp::INFINITY || earlier == Timestamp::NEG_INFINITY {
            Span(i64::MAX)
        } else if self == Timestamp::NEG_INFINITY || earlier == Timestamp::INFINITY {
            Span(i64::MIN)
        } else {
            Span(self.0.saturating_sub(earlier.0))
        }
    }

    #[inline]
    pub fn is_finite(self) -> bool {
        self != Timestamp::INFINITY && self != Timestamp::NEG_INFINITY
    }
}

impl Span {
    /// `seconds` as a span, saturating.
    pub const fn from_secs(seconds: i64) -> Span {
        Span(seconds.saturating_mul(MICROS_PER_SECOND))
    }

    /// In whole seconds, rounded up; at most some thirty years.
    pub fn whole_seconds(self) -> i32 {
        let seconds = self.0 / MICROS_PER_SECOND + i64::from(self.0 % MICROS_PER_SECOND > 0);
        seconds.clamp(0, 1_000_000_000) as i32
    }
}

/// Why a text is not an interval.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IntervalError {
    #[error("invalid interval: \"{text}\"")]
    Unreadable { text: String },
    #[error("interval has months or years, whose length varies: \"{text}\"")]
    VaryingUnit { text: String },
    #[error("interval is too long: \"{text}\"")]
    TooLong { text: String },
}

/// Reads an interval: `90 minutes`, `1h 30m`, `2 days 01:30:00`, `-2.5 seconds`, `PT1M`, or a plain number of seconds.
///
/// A day is 24 hours and a week 7 days. Parts below a microsecond are rounded half away from zero.
pub fn parse_interval(text: &str) -> Result<Span, IntervalError> {
    let trimmed = text.trim();
    let parsed: jiff::Span = if is_plain_number(trimmed) { format!("{trimmed}s").parse() } else { trimmed.parse() }
        .map_err(|_| IntervalError::Unreadable { text: shown(text) })?;
    if parsed.get_years() != 0 || parsed.get_months() != 0 {
        return Err(IntervalError::VaryingUnit { text: shown(text) });
    }
    let days = i128::from(parsed.get_weeks()) * 7 + i128::from(parsed.get_days());
    let seconds = days * SECONDS_PER_DAY
        + i128::from(parsed.get_hours()) * 3600
        + i128::from(parsed.get_minutes()) * 60
        + i128::from(parsed.get_seconds());
    let nanos = seconds * 1_000_000_000
        + i128::from(parsed.get_milliseconds()) * 1_000_000
        + i128::from(parsed.get_microseconds()) * 1_000
        + i128::from(parsed.get_nanoseconds());
    let micros = (nanos + nanos.signum() * 500) / 1_000;
    i64::try_from(micros).map(Span).map_err(|_| IntervalError::TooLong { text: shown(text) })
}

/// `seconds` as a span, rounded to the microsecond; for JSON documents that give an interval as a number.
pub fn interval_from_seconds(seconds: f64) -> Result<Span, IntervalError> {
    let micros = (seconds * 1e6).round();
    // 2^63, the first float that is no i64 any more.
    if micros.is_finite() && micros.abs() < 9_223_372_036_854_775_808.0 {
        Ok(Span(micros as i64))
    } else {
        Err(IntervalError::TooLong { text: seconds.to_string() })
    }
}

/// RFC 3339 in UTC with microseconds and `Z`; `infinity` and `-infinity` for those two.
///
/// Years beyond the calendar's reach (about 262,000) are shown as its last instant.
pub fn rfc3339(at: Timestamp) -> String {
    match at {
        Timestamp::INFINITY => "infinity".to_owned(),
        Timestamp::NEG_INFINITY => "-infinity".to_owned(),
        Timestamp(micros) => micros
            .checked_add(POSTGRES_EPOCH)
            .and_then(DateTime::<Utc>::from_timestamp_micros)
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
            .to_rfc3339_opts(SecondsFormat::Micros, true),
    }
}

fn is_plain_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit()) && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// The text as an error message may show it: not longer than a line.
fn shown(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_usual_ways_to_write_an_interval() {
        for (text, micros) in [
            ("60s", 60_000_000),
            ("90 minutes", 5_400_000_000),
            ("-2.5 seconds", -2_500_000),
            ("1h 30m", 5_400_000_000),
            ("2 days 01:30:00", 178_200_000_000),
            ("00:00:05.5", 5_500_000),
            ("PT1M", 60_000_000),
            ("1 week", 604_800_000_000),
            ("250ms", 250_000),
            (" 7 ", 7_000_000),
            ("0", 0),
            ("0.000001", 1),
            ("1 hour ago", -3_600_000_000),
        ] {
            assert_eq!(parse_interval(text), Ok(Span(micros)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_interval_or_has_no_fixed_length() {
        for text in ["", "soon", "5 parsecs", "s", ".", "-", "1..2", "1e3", "NaN", "infinity", "１s"] {
            assert!(matches!(parse_interval(text), Err(IntervalError::Unreadable { .. })), "{text}");
        }
        for text in ["1 month", "2 years", "P1Y", "1mo 2d"] {
            assert!(matches!(parse_interval(text), Err(IntervalError::VaryingUnit { .. })), "{text}");
        }
    }

    #[test]
    fn writes_rfc_3339_and_the_infinities() {
        assert_eq!(rfc3339(Timestamp(0)), "2000-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(Timestamp(-1)), "1999-12-31T23:59:59.999999Z");
        assert_eq!(rfc3339(Timestamp::INFINITY), "infinity");
        assert_eq!(rfc3339(Timestamp::NEG_INFINITY), "-infinity");
    }

    #[test]
    fn leaving_the_range_of_timestamptz_is_infinity() {
        assert_eq!(Timestamp(END - 1).plus(Span(1)), Timestamp::INFINITY);
        assert_eq!(Timestamp(FIRST).plus(Span(-1)), Timestamp::NEG_INFINITY);
        assert_eq!(Timestamp(5).plus(Span(-7)), Timestamp(-2));
        assert_eq!(Timestamp::INFINITY.plus(Span(i64::MIN)), Timestamp::INFINITY);
    }
}

//! Checks that several functions share.
use crate::engine::template::MAX_NAME_CHARS;
use crate::engine::time::Span;
use crate::engine::traceparent;
use crate::pg::catalog;
use crate::pg::error::ArgumentError;
use crate::pg::time;
use crate::store::scope::Cause;
use pgrx::datum::Interval;

pub type Uuid = pgrx::datum::Uuid;

/// The elements of an array argument, none of them NULL.
pub fn elements<T>(name: &'static str, values: Vec<Option<T>>) -> Result<Vec<T>, ArgumentError> {
    values.into_iter().collect::<Option<Vec<T>>>().ok_or(ArgumentError::NullElement(name))
}

/// An array argument that belongs to another one, element by element; NULL stands for none.
pub fn beside<T>(
    of: (&'static str, usize),
    name: &'static str,
    values: Option<Vec<Option<T>>>,
) -> Result<Vec<Option<T>>, ArgumentError> {
    match values {
        None => Ok((0..of.1).map(|_| None).collect()),
        Some(values) if values.len() == of.1 => Ok(values),
        Some(values) => Err(ArgumentError::LengthsDiffer(of.0, name, of.1, values.len())),
    }
}

/// How many steps to claim.
pub fn max_steps(value: Option<i32>) -> Result<usize, ArgumentError> {
    let value = crate::pg::error::required("max_steps", value)?;
    match value {
        1..=1000 => Ok(value as usize),
        _ => Err(ArgumentError::OutOfRange {
            name: "max_steps",
            value: value.to_string(),
            expected: "a number from 1 to 1000",
        }),
    }
}

/// A lease, longer than nothing.
pub fn lease(value: Option<Interval>) -> Result<Option<Span>, ArgumentError> {
    let Some(interval) = value else { return Ok(None) };
    let span = time::span(&interval);
    if span.0 > 0 {
        return Ok(Some(span));
    }
    let value = format!("{} microseconds", span.0);
    Err(ArgumentError::OutOfRange { name: "lease", value, expected: "an interval longer than zero" })
}

/// A priority; 0 where none is given.
pub fn priority(value: Option<i32>) -> Result<i16, ArgumentError> {
    let value = value.unwrap_or(0);
    i16::try_from(value).ok().filter(|priority| (-1000..=1000).contains(priority)).ok_or_else(|| {
        ArgumentError::OutOfRange {
            name: "priority",
            value: value.to_string(),
            expected: "a number from -1000 to 1000",
        }
    })
}

/// A wait in whole seconds, rounded up; at most some thirty years.
pub fn whole_seconds(name: &'static str, interval: &Interval) -> Result<i32, ArgumentError> {
    let span = time::span(interval);
    if span.0 < 0 {
        let value = format!("{} microseconds", span.0);
        return Err(ArgumentError::OutOfRange { name, value, expected: "an interval that is not negative" });
    }
    Ok(span.whole_seconds())
}

/// A text that is kept as it is: neither empty nor longer than `most` characters.
pub fn short_text(name: &'static str, most: usize, text: String) -> Result<String, ArgumentError> {
    let length = text.chars().count();
    if (1..=most).contains(&length) { Ok(text) } else { Err(ArgumentError::TextLength { name, length, most }) }
}

/// A name that people are to find again: as in a template not blank.
pub fn name_text(name: &'static str, text: String) -> Result<String, ArgumentError> {
    if text.trim().is_empty() { Err(ArgumentError::Blank(name, text)) } else { short_text(name, MAX_NAME_CHARS, text) }
}

/// The longest reason, in characters.
const MAX_REASON_CHARS: usize = 1000;

/// Why an operator acts, and on whose word; the calling role's unless given.
pub fn cause(reason: Option<String>, actor: Option<String>) -> Result<Cause, ArgumentError> {
    let reason = reason.map(|reason| short_text("reason", MAX_REASON_CHARS, reason)).transpose()?;
    let actor = actor.map(|actor| short_text("actor", MAX_NAME_CHARS, actor)).transpose()?;
    Ok(Cause { reason, actor: Some(actor.unwrap_or_else(catalog::actor)) })
}

/// A traceparent, as it is kept.
pub fn traceparent(text: String) -> Result<String, ArgumentError> {
    traceparent::parse(&text).map_err(|wrong| ArgumentError::Traceparent {
        text: text.chars().take(MOST_SHOWN).collect(),
        reason: wrong.reason(),
    })
}

/// How many characters of a malformed traceparent its error shows.
const MOST_SHOWN: usize = 64;

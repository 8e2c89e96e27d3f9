//! From the errors of each layer to a Postgres error: SQLSTATE, lower-case message, DETAIL with the values, HINT.
use crate::engine::refusal::Refusal;
use crate::engine::subscription::SubscriptionError;
use crate::engine::template::TemplateError;
use crate::picture::PictureError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// What every error enum of the crate says about itself; its `Display` is the message.
pub trait Explain: std::error::Error {
    fn sqlstate(&self) -> PgSqlErrorCode;
    fn detail(&self) -> Option<String> {
        None
    }
    fn hint(&self) -> Option<String> {
        None
    }
}

/// An error on its way to the client. `?` turns any [`Explain`] error into one.
#[derive(Debug)]
pub struct Failure(Box<ErrorReport>);

pub type Outcome<T> = Result<T, Failure>;

impl<E: Explain> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut report = ErrorReport::new(error.sqlstate(), error.to_string(), "pg_stepwise");
        if let Some(detail) = error.detail() {
            report = report.set_detail(detail);
        }
        if let Some(hint) = error.hint() {
            report = report.set_hint(hint);
        }
        Failure(Box::new(report))
    }
}

impl From<Failure> for ErrorReport {
    fn from(failure: Failure) -> Self {
        *failure.0
    }
}

/// A packed SQLSTATE as text: five characters of six bits each, from '0' on.
pub fn sqlstate(packed: i32) -> String {
    (0..5).map(|place| char::from(b'0' + ((packed >> (6 * place)) & 0x3f) as u8)).collect()
}

/// Ends a function at its SQL boundary: the value, or the Postgres error.
pub fn finish<T>(outcome: Outcome<T>) -> T {
    match outcome {
        Ok(value) => value,
        Err(Failure(report)) => {
            report.report(PgLogLevel::ERROR);
            unreachable!("an ERROR does not return")
        }
    }
}

/// An argument that the caller got wrong.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentError {
    #[error("argument \"{0}\" must not be NULL")]
    Null(&'static str),
    #[error("elements of argument \"{0}\" must not be NULL")]
    NullElement(&'static str),
    #[error("argument \"{name}\" is out of range")]
    OutOfRange { name: &'static str, value: String, expected: &'static str },
    #[error("argument \"{name}\" is empty or too long")]
    TextLength { name: &'static str, length: usize, most: usize },
    #[error("argument \"{0}\" is blank")]
    Blank(&'static str, String),
    #[error("arguments \"{0}\" and \"{1}\" must have the same length")]
    LengthsDiffer(&'static str, &'static str, usize, usize),
    #[error("argument \"traceparent\" is malformed")]
    Traceparent { text: String, reason: &'static str },
}

impl Explain for ArgumentError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::Null(_) | Self::NullElement(_) => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Self::OutOfRange { .. }
            | Self::TextLength { .. }
            | Self::Blank(..)
            | Self::LengthsDiffer(..)
            | Self::Traceparent { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        }
    }
    fn detail(&self) -> Option<String> {
        match self {
            Self::OutOfRange { value, .. } => Some(format!("The value is {value}.")),
            Self::Blank(_, text) => Some(format!("The value is \"{text}\".")),
            Self::TextLength { length, .. } => Some(format!("It has {length} characters.")),
            Self::LengthsDiffer(first, second, a, b) => {
                Some(format!("\"{first}\" has {a} elements, \"{second}\" has {b}."))
            }
            Self::Traceparent { text, reason } => Some(format!("The value is \"{text}\". {reason}")),
            _ => None,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::OutOfRange { expected, .. } => Some(format!("Pass {expected}.")),
            Self::Blank(..) => Some("Pass a name with a character that is no blank.".into()),
            Self::TextLength { most, .. } => Some(format!("Pass 1 to {most} characters.")),
            Self::Traceparent { .. } => Some("Pass the header of W3C Trace Context as it came, or NULL.".into()),
            _ => None,
        }
    }
}

/// A command's argument that must be there. Commands are not STRICT: a forgotten argument is an error, not a no-op.
pub fn required<T>(name: &'static str, value: Option<T>) -> Result<T, ArgumentError> {
    value.ok_or(ArgumentError::Null(name))
}

impl Explain for TemplateError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
    }
    fn detail(&self) -> Option<String> {
        TemplateError::detail(self)
    }
    fn hint(&self) -> Option<String> {
        TemplateError::hint(self)
    }
}

impl Explain for SubscriptionError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
    }
    fn detail(&self) -> Option<String> {
        SubscriptionError::detail(self)
    }
    fn hint(&self) -> Option<String> {
        SubscriptionError::hint(self)
    }
}

impl Explain for Refusal {
    fn sqlstate(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
    }
    fn detail(&self) -> Option<String> {
        Refusal::detail(self)
    }
    fn hint(&self) -> Option<String> {
        Refusal::hint(self)
    }
}

impl Explain for PictureError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::UnknownFormat { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::TooLarge { .. } => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        }
    }
    fn detail(&self) -> Option<String> {
        Some(PictureError::detail(self))
    }
    fn hint(&self) -> Option<String> {
        Some(PictureError::hint(self).into())
    }
}

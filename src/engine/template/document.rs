//! The JSON shape of a template's definition.
//!
//! In: keys, their aliases and their types. Out: defaults and limits, which need the whole document (`build`).

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::super::time::{Span, interval_from_seconds, parse_interval};
use super::error::TemplateError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document<'a> {
    #[serde(alias = "namespace_name")]
    pub namespace: Option<String>,
    pub name: String,
    pub version: Option<String>,
    pub description: Option<String>,
    pub identity: Option<String>,
    pub context_schema: Option<Box<RawValue>>,
    pub insert_defaults: Option<bool>,
    #[serde(default)]
    pub defaults: Option<Object<Defaults>>,
    pub timeout: Option<Interval>,
    pub max_parallel_steps: Option<i64>,
    pub concurrency_key: Option<String>,
    pub max_per_key: Option<i64>,
    pub default_retryable: Option<bool>,
    pub default_retry_limit: Option<i64>,
    #[serde(borrow, alias = "step_templates")]
    pub steps: Option<Vec<Object<Step<'a>>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    pub queue: Option<String>,
    pub priority: Option<i64>,
    pub retry_limit: Option<i64>,
    pub retryable: Option<bool>,
    pub skippable: Option<bool>,
    pub timeout: Option<Interval>,
    pub backoff: Option<Object<Backoff>>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    pub base: Option<Interval>,
    pub cap: Option<Interval>,
    pub jitter: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step<'a> {
    pub name: String,
    pub description: Option<String>,
    pub kind: Option<String>,
    #[serde(alias = "handler_class")]
    pub handler: Option<Handler>,
    #[serde(borrow)]
    pub depends_on: Option<Names<'a>>,
    #[serde(borrow)]
    pub depends_on_step: Option<Names<'a>>,
    #[serde(borrow)]
    pub depends_on_steps: Option<Names<'a>>,
    pub queue: Option<String>,
    pub priority: Option<i64>,
    #[serde(alias = "default_retry_limit")]
    pub retry_limit: Option<i64>,
    #[serde(alias = "default_retryable")]
    pub retryable: Option<bool>,
    pub skippable: Option<bool>,
    pub timeout: Option<Interval>,
    pub delay: Option<Interval>,
    pub backoff: Option<Object<Backoff>>,
    #[serde(alias = "handler_config")]
    pub config: Option<Box<RawValue>>,
}

/// Reads the document, naming the path of what is wrong with it.
pub fn read(definition: &str) -> Result<Document<'_>, TemplateError> {
    let mut json = serde_json::Deserializer::from_str(definition);
    let Object(document) = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| TemplateError::from_json(&error.path().to_string(), error.inner()))?;
    json.end().map_err(|error| TemplateError::from_json(".", &error))?;
    Ok(document)
}

/// A JSON object. Without it serde would take an array for the values of the keys in their order.
#[derive(Clone, Copy, Default)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// What runs a step: a name that a worker knows, or `{"sql": "schema.function"}`.
pub enum Handler {
    Worker(String),
    Sql(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SqlHandler {
    sql: String,
}

impl<'de> Deserialize<'de> for Handler {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HandlerVisitor)
    }
}

struct HandlerVisitor;

impl<'de> Visitor<'de> for HandlerVisitor {
    type Value = Handler;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name or {\"sql\": \"schema.function\"}")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Handler::Worker(name.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        SqlHandler::deserialize(MapAccessDeserializer::new(map)).map(|handler| Handler::Sql(handler.sql))
    }
}

/// One name or a list of names, borrowed from the document where it has no escapes: there may be a million of them.
pub struct Names<'a>(pub Vec<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Names<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a step's name or an array of names")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Names(vec![Cow::Borrowed(name)]))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Names(vec![Cow::Owned(name.to_owned())]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Name(name)) = names.next_element()? {
            all.push(name);
        }
        Ok(Names(all))
    }
}

struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameVisitor)
    }
}

struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Name<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a step's name")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Name(Cow::Borrowed(name)))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Name(Cow::Owned(name.to_owned())))
    }
}

/// A length of time that is not negative: text, or a number of seconds.
#[derive(Clone, Copy)]
pub struct Interval(pub Span);

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntervalVisitor)
    }
}

struct IntervalVisitor;

impl IntervalVisitor {
    fn checked<E: Error>(span: Span, given: &dyn fmt::Display) -> Result<Interval, E> {
        if span < Span(0) {
            Err(E::custom(format_args!("interval must not be negative: {given}")))
        } else {
            Ok(Interval(span))
        }
    }
}

impl<'de> Visitor<'de> for IntervalVisitor {
    type Value = Interval;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an interval such as \"90s\" or a number of seconds")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Self::checked(parse_interval(text).map_err(E::custom)?, &text)
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<Self::Value, E> {
        Self::checked(Span::from_secs(seconds), &seconds)
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<Self::Value, E> {
        Ok(Interval(Span::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))))
    }

    fn visit_f64<E: Error>(self, seconds: f64) -> Result<Self::Value, E> {
        Self::checked(interval_from_seconds(seconds).map_err(E::custom)?, &seconds)
    }
}

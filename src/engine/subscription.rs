//! What a subscription asks for: which events, and from where on.
//!
//! In: reading and checking it, and whether an event fits. Out: how far the stream may be read (`stream`).

use serde_json::{Map, Value};
use thiserror::Error;

use super::event::{STEP_EVENTS, TASK_EVENTS};
use super::template::MAX_NAME_CHARS;

const KEYS: [&str; 4] = ["event", "namespace", "template", "queue"];

/// Of a filter that is none, as many characters are quoted.
const MOST_SHOWN: usize = 100;

/// The most names of one key.
const MAX_NAMES: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubscriptionError {
    #[error("filter of a subscription is not an object")]
    NotAnObject { value: String },
    #[error("unknown key in filter of a subscription")]
    UnknownKey(String),
    #[error("invalid value in filter of a subscription")]
    BadValue { key: &'static str, problem: &'static str },
    #[error("unknown event in filter of a subscription")]
    UnknownEvent(String),
    #[error("invalid start of a subscription")]
    BadStart { value: String, last_event: i64 },
}

impl SubscriptionError {
    pub fn detail(&self) -> Option<String> {
        Some(match self {
            Self::NotAnObject { value } => format!("The filter is {value}."),
            Self::UnknownKey(key) => format!("The key is \"{key}\"."),
            Self::UnknownEvent(event) => format!("The event is \"{event}\"."),
            Self::BadValue { key, problem } => format!("{key}: {problem}."),
            Self::BadStart { value, last_event } => {
                format!("The value is \"{value}\"; the last event is {last_event}.")
            }
        })
    }

    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotAnObject { .. } | Self::UnknownKey(_) => format!("Keys known there: {}.", KEYS.join(", ")),
            Self::BadValue { .. } => "Pass a text or an array of texts.".into(),
            Self::UnknownEvent(_) => {
                format!("The events are task.*, step.*, {}, {}.", TASK_EVENTS.join(", "), STEP_EVENTS.join(", "))
            }
            Self::BadStart { .. } => "Pass now, start, or the event_id after which to begin.".into(),
        })
    }
}

/// Which events a subscription wants. A key that is missing fits everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    events: Option<Vec<String>>,
    namespaces: Option<Vec<String>>,
    templates: Option<Vec<String>>,
    queues: Option<Vec<String>>,
}

/// Where an event comes from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub namespace: &'a str,
    pub template: &'a str,
    /// None: an event of a task, which is in no queue.
    pub queue: Option<&'a str>,
}

impl Filter {
    pub fn parse(json: &str) -> Result<Self, SubscriptionError> {
        let Ok(Value::Object(mut object)) = serde_json::from_str(json) else {
            return Err(Self::not_an_object(json));
        };
        if let Some(unknown) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(SubscriptionError::UnknownKey(unknown.clone()));
        }
        let [event, namespace, template, queue] = KEYS;
        let filter = Filter {
            events: names(&mut object, event)?,
            namespaces: names(&mut object, namespace)?,
            templates: names(&mut object, template)?,
            queues: names(&mut object, queue)?,
        };
        let known = |name: &&String| {
            matches!(name.as_str(), "task.*" | "step.*")
                || TASK_EVENTS.contains(&name.as_str())
                || STEP_EVENTS.contains(&name.as_str())
        };
        match filter.events.iter().flatten().find(|name| !known(name)) {
            Some(unknown) => Err(SubscriptionError::UnknownEvent(unknown.clone())),
            None => Ok(filter),
        }
    }

    fn not_an_object(json: &str) -> SubscriptionError {
        SubscriptionError::NotAnObject { value: json.chars().take(MOST_SHOWN).collect() }
    }

    /// The text of a filter, with these namespaces where it names none.
    pub fn narrowed(json: Option<&str>, namespaces: &[String]) -> Result<String, SubscriptionError> {
        let Ok(Value::Object(mut object)) = serde_json::from_str(json.unwrap_or("{}")) else {
            return Err(Self::not_an_object(json.unwrap_or_default()));
        };
        object.entry("namespace").or_insert_with(|| namespaces.into());
        Ok(Value::Object(object).to_string())
    }

    /// The first namespace for which this does not hold; `Some(None)`: it wants events from all.
    pub fn namespace_beyond(&self, has: impl Fn(&str) -> bool) -> Option<Option<&str>> {
        match &self.namespaces {
            None => Some(None),
            Some(names) => names.iter().find(|name| !has(name)).map(|name| Some(name.as_str())),
        }
    }

    /// Whether it wants events from there at all.
    pub fn wants_from(&self, origin: Origin) -> bool {
        let fits = |names: &Option<Vec<String>>, name: Option<&str>| match names {
            None => true,
            Some(names) => name.is_some_and(|name| names.iter().any(|wanted| wanted == name)),
        };
        fits(&self.namespaces, Some(origin.namespace))
            && fits(&self.templates, Some(origin.template))
            && fits(&self.queues, origin.queue)
    }

    pub fn wants_event(&self, event: &str) -> bool {
        let fits = |wanted: &String| match wanted.strip_suffix('*') {
            Some(kind) => event.starts_with(kind),
            None => wanted == event,
        };
        self.events.as_ref().is_none_or(|wanted| wanted.iter().any(fits))
    }
}

fn names(object: &mut Map<String, Value>, key: &'static str) -> Result<Option<Vec<String>>, SubscriptionError> {
    let bad = |problem| SubscriptionError::BadValue { key, problem };
    let values = match object.remove(key) {
        None => return Ok(None),
        Some(Value::Array(values)) => values,
        Some(value) => vec![value],
    };
    if values.is_empty() {
        return Err(bad("the array is empty"));
    }
    if values.len() > MAX_NAMES {
        return Err(bad("the array has more than 1000 elements"));
    }
    let name = |value| match value {
        Value::String(name) if (1..=MAX_NAME_CHARS).contains(&name.chars().count()) => Ok(name),
        Value::String(_) => Err(bad("a name has 1 to 255 characters")),
        _ => Err(bad("it is neither a text nor an array of texts")),
    };
    values.into_iter().map(name).collect::<Result<_, _>>().map(Some)
}

/// The position of a subscription that begins there.
pub fn start(text: &str, last_event: i64) -> Result<i64, SubscriptionError> {
    let position = match text {
        "now" => Some(last_event),
        "start" => Some(0),
        number => number.parse::<i64>().ok().filter(|position| (0..=last_event).contains(position)),
    };
    position.ok_or_else(|| SubscriptionError::BadStart { value: text.to_owned(), last_event })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: Origin = Origin { namespace: "shop", template: "order", queue: Some("mail") };

    #[test]
    fn every_key_must_fit() {
        let wants = |json: &str, origin| Filter::parse(json).unwrap().wants_from(origin);
        assert!(wants("{}", SHOP));
        assert!(wants(r#"{"namespace": ["bank", "shop"], "template": "order", "queue": "mail"}"#, SHOP));
        assert!(!wants(r#"{"namespace": "shop", "template": "invoice"}"#, SHOP));
        assert!(!wants(r#"{"queue": "mail"}"#, Origin { queue: None, ..SHOP }));
        let steps = Filter::parse(r#"{"event": ["step.*", "task.failed"]}"#).unwrap();
        let wanted =
            ["step.failed", "step.backoff", "task.failed", "task.completed"].map(|event| steps.wants_event(event));
        assert_eq!(wanted, [true, true, true, false]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        use SubscriptionError::*;
        for (json, error) in [
            ("[]", NotAnObject { value: "[]".into() }),
            (r#"{"events": "step.*"}"#, UnknownKey("events".into())),
            (r#"{"event": "step"}"#, UnknownEvent("step".into())),
            (r#"{"event": "*"}"#, UnknownEvent("*".into())),
            (r#"{"queue": []}"#, BadValue { key: "queue", problem: "the array is empty" }),
            (r#"{"queue": null}"#, BadValue { key: "queue", problem: "it is neither a text nor an array of texts" }),
            (r#"{"template": [""]}"#, BadValue { key: "template", problem: "a name has 1 to 255 characters" }),
        ] {
            assert_eq!(Filter::parse(json), Err(error), "{json}");
        }
        assert_eq!(["start", "now", "7"].map(|text| start(text, 9).unwrap()), [0, 9, 7]);
        for text in ["10", "-1", "yesterday", ""] {
            assert!(start(text, 9).is_err(), "{text}");
        }
    }
}

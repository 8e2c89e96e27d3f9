//! From a definition's document to a template: defaults, limits, checks, numbering.
//!
//! In: what needs more than one key, or a range. Out: types and unknown keys (`document`), the graph itself.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::value::RawValue;

use super::super::backoff::Backoff;
use super::super::context_schema::ContextSchema;
use super::super::graph::{self, Graph};
use super::super::rule::{StepKind, StepRule};
use super::super::time::Span;
use super::super::version::Version;
use super::document::{self, Defaults, Document, Handler, Names, Object, Step};
use super::error::TemplateError;
use super::{Concurrency, DEFAULT_NAMESPACE, Identity, MAX_NAME_CHARS, MAX_STEPS, StepTemplate, Template};

const PRIORITIES: RangeInclusive<i64> = -1000..=1000;
const COUNTS: RangeInclusive<i64> = 0..=i32::MAX as i64;
/// Each place under a limit is a row.
const LIMITS: RangeInclusive<i64> = 0..=1000;
const LIMITS_PER_KEY: RangeInclusive<i64> = 1..=1000;
/// What is added to a namespace's name for the queue of its SQL handlers.
const SQL_QUEUE: &str = ":sql";

/// What a step gets that does not say otherwise.
struct Inherited {
    queue: String,
    /// Of steps with a SQL handler: workers that run other handlers do not claim from it.
    sql_queue: String,
    priority: i16,
    rule: StepRule,
}

pub fn template(document: Document<'_>) -> Result<Template, TemplateError> {
    let steps: Vec<Step> = document.steps.unwrap_or_default().into_iter().map(|Object(step)| step).collect();
    match steps.len() {
        0 => return Err(TemplateError::NoSteps),
        count if count > MAX_STEPS => return Err(TemplateError::TooManySteps { count }),
        _ => {}
    }
    let namespace = match document.namespace {
        Some(namespace) => checked_name(namespace, || "namespace".to_owned())?,
        None => DEFAULT_NAMESPACE.to_owned(),
    };
    let name = checked_name(document.name, || "name".to_owned())?;
    let version = match document.version {
        Some(text) => {
            Version::parse(&text).map_err(|error| TemplateError::bad_value("version", format!("{error}, not n.n.n")))?
        }
        None => Version::DEFAULT,
    };
    let identity = match document.identity.as_deref() {
        None | Some("none") => Identity::None,
        Some("context") => Identity::Context,
        Some(_) => return Err(TemplateError::bad_value("identity", "must be \"context\" or \"none\"")),
    };
    let insert_defaults = document.insert_defaults.unwrap_or(false);
    let context_schema = context_schema(document.context_schema, insert_defaults)?;
    let timeout = match document.timeout {
        Some(document::Interval(Span(0))) => {
            return Err(TemplateError::bad_value("timeout", "must be longer than nothing"));
        }
        timeout => timeout.map(|interval| interval.0),
    };
    let max_parallel_steps = ranged(document.max_parallel_steps, 0, &LIMITS, || "max_parallel_steps".to_owned())?;
    let concurrency = concurrency(document.concurrency_key, document.max_per_key)?;
    let defaults = document.defaults.unwrap_or_default().0;
    let inherited = inherit(defaults, document.default_retryable, document.default_retry_limit, &namespace)?;
    let (graph, sequence) = number(&steps)?;
    let mut checked = Vec::with_capacity(steps.len());
    for (place, step) in steps.into_iter().enumerate() {
        checked.push(Some(step_template(step, place, &inherited)?));
    }
    let steps = sequence.iter().filter_map(|&place| checked.get_mut(place)?.take()).collect();
    Ok(Template {
        namespace,
        name,
        version,
        description: document.description,
        identity,
        context_schema,
        insert_defaults,
        timeout,
        max_parallel_steps,
        concurrency,
        steps,
        graph,
    })
}

fn context_schema(
    schema: Option<Box<RawValue>>,
    insert_defaults: bool,
) -> Result<Option<Box<RawValue>>, TemplateError> {
    match &schema {
        Some(schema) => {
            ContextSchema::new(schema.get(), insert_defaults)
                .map_err(|error| TemplateError::bad_value("context_schema", error.to_string()))?;
        }
        None if insert_defaults => {
            return Err(TemplateError::bad_value("insert_defaults", "needs a context_schema"));
        }
        None => {}
    }
    Ok(schema)
}

fn concurrency(pointer: Option<String>, max_per_key: Option<i64>) -> Result<Option<Concurrency>, TemplateError> {
    let Some(pointer) = pointer else {
        return match max_per_key {
            Some(_) => Err(TemplateError::bad_value("max_per_key", "needs a concurrency_key")),
            None => Ok(None),
        };
    };
    let bad_escape = pointer.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1']));
    if !pointer.starts_with('/') || bad_escape || pointer.contains('\0') {
        return Err(TemplateError::bad_value("concurrency_key", "must be a JSON pointer such as \"/customer\""));
    }
    let max_per_key = ranged(max_per_key, 1, &LIMITS_PER_KEY, || "max_per_key".to_owned())?;
    Ok(Some(Concurrency { pointer, max_per_key }))
}

fn number(steps: &[Step<'_>]) -> Result<(Graph, Vec<usize>), TemplateError> {
    let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    let depends_on: Vec<Vec<&str>> = steps
        .iter()
        .map(|step| {
            let ways: [&Option<Names<'_>>; 3] = [&step.depends_on, &step.depends_on_step, &step.depends_on_steps];
            ways.into_iter().flatten().flat_map(|Names(names)| names.iter().map(AsRef::as_ref)).collect()
        })
        .collect();
    Ok(graph::order(&names, &depends_on)?)
}

/// A step's own word counts first, then `defaults`, then the ancestor's keys at the top, then the built-in defaults.
fn inherit(
    defaults: Defaults,
    retryable: Option<bool>,
    retry_limit: Option<i64>,
    namespace: &str,
) -> Result<Inherited, TemplateError> {
    let built_in = StepRule::default();
    let at = |key: &str| format!("defaults.{key}");
    let limit = ranged(retry_limit, built_in.retry_limit, &COUNTS, || "default_retry_limit".to_owned())?;
    let rule = StepRule {
        retry_limit: ranged(defaults.retry_limit, limit, &COUNTS, || at("retry_limit"))?,
        retryable: defaults.retryable.or(retryable).unwrap_or(built_in.retryable),
        backoff: backoff(defaults.backoff, built_in.backoff, || at("backoff.jitter"))?,
        timeout: timeout(defaults.timeout, built_in.timeout, || at("timeout"))?,
        skippable: defaults.skippable.unwrap_or(built_in.skippable),
        ..built_in
    };
    let queue = defaults.queue.map(|queue| checked_name(queue, || at("queue"))).transpose()?;
    let sql_queue = || {
        let room = MAX_NAME_CHARS - SQL_QUEUE.len();
        namespace.chars().take(room).chain(SQL_QUEUE.chars()).collect::<String>()
    };
    Ok(Inherited {
        sql_queue: queue.clone().unwrap_or_else(sql_queue),
        queue: queue.unwrap_or_else(|| namespace.to_owned()),
        priority: ranged(defaults.priority, 0, &PRIORITIES, || at("priority"))?,
        rule,
    })
}

fn step_template(step: Step<'_>, place: usize, inherited: &Inherited) -> Result<StepTemplate, TemplateError> {
    let at = |key: &str| format!("steps[{place}].{key}");
    let kind = match step.kind.as_deref() {
        None => StepKind::Work,
        Some(text) => {
            StepKind::parse(text).ok_or_else(|| TemplateError::bad_value(at("kind"), "must be \"work\" or \"wait\""))?
        }
    };
    if kind == StepKind::Wait {
        refuse_of_a_wait(&step, &at)?;
    }
    let name = checked_name(step.name, || at("name"))?;
    let (handler, in_database) = match step.handler {
        Some(Handler::Worker(handler)) => (checked_name(handler, || at("handler"))?, false),
        Some(Handler::Sql(function)) => (checked_name(function, || at("handler.sql"))?, true),
        None => (name.clone(), false),
    };
    let queue = match step.queue {
        Some(queue) => checked_name(queue, || at("queue"))?,
        None if in_database => inherited.sql_queue.clone(),
        None => inherited.queue.clone(),
    };
    let rule = if kind == StepKind::Wait {
        // It has one attempt, its signal, and fails for good without it.
        StepRule {
            kind,
            retry_limit: 1,
            retryable: false,
            timeout: step.timeout.map_or(Span(0), |interval| interval.0),
            delay: step.delay.map_or(Span(0), |interval| interval.0),
            skippable: step.skippable.unwrap_or(inherited.rule.skippable),
            backoff: inherited.rule.backoff,
        }
    } else {
        StepRule {
            kind,
            delay: step.delay.map_or(Span(0), |interval| interval.0),
            retry_limit: ranged(step.retry_limit, inherited.rule.retry_limit, &COUNTS, || at("retry_limit"))?,
            retryable: step.retryable.unwrap_or(inherited.rule.retryable),
            backoff: backoff(step.backoff, inherited.rule.backoff, || at("backoff.jitter"))?,
            timeout: timeout(step.timeout, inherited.rule.timeout, || at("timeout"))?,
            skippable: step.skippable.unwrap_or(inherited.rule.skippable),
        }
    };
    let priority = ranged(step.priority, inherited.priority, &PRIORITIES, || at("priority"))?;
    let (description, config) = (step.description, step.config);
    Ok(StepTemplate { name, description, handler, in_database, queue, priority, rule, config })
}

/// Keys that say how a worker runs a step mean nothing where none does.
fn refuse_of_a_wait(step: &Step<'_>, at: &dyn Fn(&str) -> String) -> Result<(), TemplateError> {
    let given = [
        ("handler", step.handler.is_some()),
        ("retry_limit", step.retry_limit.is_some()),
        ("retryable", step.retryable.is_some()),
        ("backoff", step.backoff.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((key, _)) => Err(TemplateError::bad_value(at(key), "means nothing for a step that waits for a signal")),
        None => Ok(()),
    }
}

fn checked_name(name: String, path: impl FnOnce() -> String) -> Result<String, TemplateError> {
    let problem = if name.trim().is_empty() {
        "must not be empty".to_owned()
    } else if name.contains('\0') {
        "must not contain the character U+0000".to_owned()
    } else if name.len() > MAX_NAME_CHARS && name.chars().count() > MAX_NAME_CHARS {
        format!("must not be longer than {MAX_NAME_CHARS} characters")
    } else {
        return Ok(name);
    };
    Err(TemplateError::bad_value(path(), problem))
}

fn ranged<N: TryFrom<i64>>(
    given: Option<i64>,
    otherwise: N,
    range: &RangeInclusive<i64>,
    path: impl FnOnce() -> String,
) -> Result<N, TemplateError> {
    let Some(number) = given else { return Ok(otherwise) };
    let fitting = if range.contains(&number) { N::try_from(number).ok() } else { None };
    fitting.ok_or_else(|| out_of_range(path(), number, range.start(), range.end()))
}

fn timeout(
    given: Option<document::Interval>,
    otherwise: Span,
    path: impl FnOnce() -> String,
) -> Result<Span, TemplateError> {
    match given {
        // A claim would be over before its worker hears of it.
        Some(document::Interval(Span(0))) => Err(TemplateError::bad_value(path(), "must be longer than nothing")),
        Some(document::Interval(span)) => Ok(span),
        None => Ok(otherwise),
    }
}

fn backoff(
    given: Option<Object<document::Backoff>>,
    otherwise: Backoff,
    jitter_path: impl FnOnce() -> String,
) -> Result<Backoff, TemplateError> {
    let Object(given) = given.unwrap_or_default();
    let jitter = given.jitter.unwrap_or(otherwise.jitter);
    if !(0.0..=1.0).contains(&jitter) {
        return Err(out_of_range(jitter_path(), jitter, 0, 1));
    }
    Ok(Backoff {
        base: given.base.map_or(otherwise.base, |interval| interval.0),
        cap: given.cap.map_or(otherwise.cap, |interval| interval.0),
        jitter,
    })
}

fn out_of_range(path: String, given: impl Display, least: impl Display, most: impl Display) -> TemplateError {
    TemplateError::bad_value(path, format!("{given} is out of range {least} to {most}"))
}

//! A template's definition: from the document a user submits to checked, numbered steps.
//!
//! In: defaults, limits and checks. Out: the shape of the JSON (`document`), the wording of its errors (`error`), storing it.

mod build;
mod document;
mod error;

use serde_json::value::RawValue;

pub use self::error::TemplateError;
use super::graph::Graph;
use super::rule::StepRule;
use super::time::Span;
use super::version::Version;

/// The most steps a template may have.
pub const MAX_STEPS: usize = 100_000;
/// The longest name of a namespace, queue, template, step or handler, in characters.
pub const MAX_NAME_CHARS: usize = 255;

/// The namespace of a template that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// One version of a workflow, checked.
#[derive(Debug, Clone)]
pub struct Template {
    pub namespace: String,
    pub name: String,
    pub version: Version,
    pub description: Option<String>,
    pub identity: Identity,
    /// What a task's context must be, as submitted: a JSON Schema that has been checked.
    pub context_schema: Option<Box<RawValue>>,
    /// Whether what a context lacks is added from the schema's defaults.
    pub insert_defaults: bool,
    /// How long a task may take from its start; its deadline.
    pub timeout: Option<Span>,
    /// The most steps of one task that are in progress at once; 0: no limit.
    pub max_parallel_steps: i32,
    pub concurrency: Option<Concurrency>,
    /// In the order of step ids: step `i + 1` at `i`.
    pub steps: Vec<StepTemplate>,
    pub graph: Graph,
}

/// A limit over all tasks of a template that have the same value at one place of their contexts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concurrency {
    /// A JSON pointer into the context.
    pub pointer: String,
    /// The most steps of one value that are in progress at once.
    pub max_per_key: i32,
}

/// What makes two tasks of a template the same when their creator gives no identity key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Identity {
    /// Nothing: every task is new.
    #[default]
    None,
    /// Namespace, template, version and context.
    Context,
}

/// One step of a template.
#[derive(Debug, Clone)]
pub struct StepTemplate {
    pub name: String,
    pub description: Option<String>,
    /// What the worker looks up; the step's name unless given.
    pub handler: String,
    /// The handler is a SQL function, `schema.function`, which the database itself can run.
    pub in_database: bool,
    /// The namespace's name unless given; of a SQL handler, that and `:sql`.
    pub queue: String,
    /// -1000..=1000, the higher the sooner.
    pub priority: i16,
    pub rule: StepRule,
    /// As submitted, to the last digit.
    pub config: Option<Box<RawValue>>,
}

/// The keys that a JSON pointer names, from the top.
pub fn pointer_path(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|key| key.replace("~1", "/").replace("~0", "~")).collect()
}

/// Reads a definition. Never panics; time and memory grow with its length and its number of edges.
pub fn parse(definition: &str) -> Result<Template, TemplateError> {
    build::template(document::read(definition)?)
}

#[cfg(test)]
mod tests {
    use super::super::rule::StepKind;
    use super::*;

    fn refused(definition: &str) -> (String, String) {
        let error = parse(definition).unwrap_err();
        (error.to_string(), error.detail().unwrap_or_default())
    }

    /// The detail of refusing a template with one step that has these further keys.
    fn refused_step(keys: &str) -> String {
        refused(&format!(r#"{{"name": "t", "steps": [{{"name": "a", {keys}}}]}}"#)).1
    }

    #[test]
    fn a_step_inherits_what_it_does_not_say() {
        let template = parse(
            r#"{"namespace": "shop", "name": "fulfil_order", "version": "1.2.0", "identity": "context",
                "defaults": {"queue": "q", "retry_limit": 4, "retryable": false, "timeout": "90s",
                             "backoff": {"base": "1s", "cap": "30s", "jitter": 0}},
                "steps": [{"name": "charge", "depends_on": ["validate"], "queue": "payments", "retry_limit": 5,
                           "backoff": {"base": 2.5, "cap": "5m"}, "config": {"gateway": "x"}},
                          {"name": "validate", "handler": "ValidateOrder", "timeout": 5}]}"#,
        )
        .unwrap();
        assert_eq!((template.version.to_string(), template.identity), ("1.2.0".to_owned(), Identity::Context));
        let [validate, charge] = template.steps.as_slice() else { panic!("two steps") };
        assert_eq!(
            (validate.name.as_str(), validate.handler.as_str(), validate.queue.as_str()),
            ("validate", "ValidateOrder", "q")
        );
        assert_eq!((validate.rule.retry_limit, validate.rule.retryable), (4, false));
        assert_eq!(validate.rule.timeout, Span::from_secs(5));
        assert_eq!(
            (charge.handler.as_str(), charge.queue.as_str(), charge.rule.retry_limit),
            ("charge", "payments", 5)
        );
        assert_eq!((charge.rule.backoff.base, charge.rule.backoff.cap), (Span(2_500_000), Span::from_secs(300)));
        assert_eq!(charge.rule.timeout, Span::from_secs(90));
        assert_eq!(template.graph.parents(2), [1]);
    }

    #[test]
    fn the_built_in_defaults_hold_where_nothing_is_said() {
        let template = parse(r#"{"name": "t", "steps": [{"name": "a"}]}"#).unwrap();
        assert_eq!((template.namespace.as_str(), template.version.to_string()), ("default", "0.1.0".to_owned()));
        let step = &template.steps[0];
        assert_eq!((step.queue.as_str(), step.handler.as_str(), step.priority), ("default", "a", 0));
        assert_eq!(step.rule, StepRule::default());
    }

    #[test]
    fn a_wait_has_no_worker_and_waits_for_ever_unless_it_says_how_long() {
        let steps =
            r#"{"name": "approve", "kind": "wait"}, {"name": "pay", "kind": "wait", "timeout": "1h", "delay": 5}"#;
        let template = parse(&format!(r#"{{"name": "t", "steps": [{steps}]}}"#)).unwrap();
        let [approve, pay] = template.steps.as_slice() else { panic!("two steps") };
        assert_eq!((approve.rule.kind, approve.rule.timeout, approve.rule.retryable), (StepKind::Wait, Span(0), false));
        assert_eq!((pay.rule.timeout, pay.rule.delay), (Span::from_secs(3600), Span::from_secs(5)));
        assert_eq!(refused_step(r#""kind": "loop""#), "steps[0].kind: must be \"work\" or \"wait\"");
        assert!(refused_step(r#""kind": "wait", "retry_limit": 2"#).starts_with("steps[0].retry_limit: means nothing"));
    }

    #[test]
    fn a_sql_handler_waits_in_a_queue_of_its_own() {
        let steps = r#"{"name": "a", "handler": {"sql": "app.f"}}, {"name": "b", "handler": {"sql": "app.f"}, "queue": "q"},
                       {"name": "c"}"#;
        let queues = |defaults: &str| -> Vec<(String, bool)> {
            let text = format!(r#"{{"namespace": "n", "name": "t", {defaults} "steps": [{steps}]}}"#);
            parse(&text).unwrap().steps.into_iter().map(|step| (step.queue, step.in_database)).collect()
        };
        let pairs = |expected: [(&str, bool); 3]| expected.map(|(queue, sql)| (queue.to_owned(), sql)).to_vec();
        assert_eq!(queues(""), pairs([("n:sql", true), ("q", true), ("n", false)]));
        assert_eq!(queues(r#""defaults": {"queue": "d"},"#), pairs([("d", true), ("q", true), ("d", false)]));
        assert_eq!(
            refused_step(r#""handler": {"sqll": "x"}"#),
            "steps[0].handler.sqll: unknown field `sqll`, expected `sql`"
        );
        assert!(refused_step(r#""handler": 1"#).starts_with("steps[0].handler: invalid type"));
    }

    #[test]
    fn limits_and_a_deadline_are_read_and_checked() {
        let with = |keys: &str| format!(r#"{{"name": "t", {keys}, "steps": [{{"name": "a"}}]}}"#);
        let template =
            parse(&with(r#""timeout": "1h", "max_parallel_steps": 2, "concurrency_key": "/a~1b/0""#)).unwrap();
        assert_eq!((template.timeout, template.max_parallel_steps), (Some(Span::from_secs(3600)), 2));
        assert_eq!(pointer_path("/a~1b/0/~01"), ["a/b", "0", "~1"]);
        assert_eq!(template.concurrency, Some(Concurrency { pointer: "/a~1b/0".to_owned(), max_per_key: 1 }));
        assert_eq!(
            refused(&with(r#""max_parallel_steps": 1001"#)).1,
            "max_parallel_steps: 1001 is out of range 0 to 1000"
        );
        assert_eq!(refused(&with(r#""max_per_key": 2"#)).1, "max_per_key: needs a concurrency_key");
        assert_eq!(refused(&with(r#""timeout": 0"#)).1, "timeout: must be longer than nothing");
        for pointer in ["customer", "/a~2", "/a~", ""] {
            let definition = with(&format!(r#""concurrency_key": "{pointer}""#));
            assert_eq!(refused(&definition).1, "concurrency_key: must be a JSON pointer such as \"/customer\"");
        }
    }

    #[test]
    fn the_older_shape_loads_unchanged() {
        let template = parse(
            r#"{"namespace_name": "n", "name": "t", "default_retryable": false, "default_retry_limit": 7,
                "step_templates": [
                  {"name": "a", "handler_class": "A", "handler_config": {"n": 1}},
                  {"name": "b", "depends_on_step": "a", "default_retryable": true, "default_retry_limit": 2},
                  {"name": "c", "depends_on_step": "a", "depends_on_steps": ["b", "a"], "depends_on": "b"}]}"#,
        )
        .unwrap();
        assert_eq!(template.namespace, "n");
        assert_eq!(template.graph.parents(3), [1, 2]);
        let [a, b, _] = template.steps.as_slice() else { panic!("three steps") };
        assert_eq!((a.handler.as_str(), a.rule.retryable, a.rule.retry_limit), ("A", false, 7));
        assert_eq!((b.rule.retryable, b.rule.retry_limit), (true, 2));
        assert_eq!(a.config.as_deref().map(RawValue::get), Some(r#"{"n": 1}"#));
    }

    #[test]
    fn config_keeps_every_digit() {
        let config = r#"{"big": 1e400, "long": 123456789012345678901234567890.123456789012345678901234567890}"#;
        let template = parse(&format!(r#"{{"name": "t", "steps": [{{"name": "a", "config": {config}}}]}}"#)).unwrap();
        assert_eq!(template.steps[0].config.as_deref().map(RawValue::get), Some(config));
    }

    #[test]
    fn an_unknown_key_is_refused_by_name_and_place() {
        let (message, detail) = refused(r#"{"name": "t", "steps": [{"name": "a"}, {"name": "b", "colour": 1}]}"#);
        assert_eq!(message, "unknown key in template definition: \"colour\"");
        assert!(detail.contains("steps[1].colour"), "{detail}");
        assert!(refused(r#"{"name": "t", "nme": 1}"#).0.contains("\"nme\""));
        assert!(refused(r#"{"name": "t", "defaults": {"backoff": {"bse": 1}}}"#).1.contains("defaults.backoff.bse"));
    }

    #[test]
    fn a_bad_value_is_refused_with_its_place() {
        assert_eq!(refused_step(r#""timeout": "soon""#), "steps[0].timeout: invalid interval: \"soon\"");
        assert_eq!(refused_step(r#""timeout": "-5s""#), "steps[0].timeout: interval must not be negative: -5s");
        assert_eq!(refused_step(r#""timeout": -1"#), "steps[0].timeout: interval must not be negative: -1");
        assert_eq!(refused_step(r#""timeout": 0"#), "steps[0].timeout: must be longer than nothing");
        assert_eq!(refused_step(r#""handler": " ""#), "steps[0].handler: must not be empty");
        assert_eq!(refused_step(r#""retry_limit": -1"#), "steps[0].retry_limit: -1 is out of range 0 to 2147483647");
        assert_eq!(refused_step(r#""priority": 1001"#), "steps[0].priority: 1001 is out of range -1000 to 1000");
        assert_eq!(
            refused_step(r#""backoff": {"jitter": 1.5}"#),
            "steps[0].backoff.jitter: 1.5 is out of range 0 to 1"
        );
        assert!(refused_step(r#""depends_on": [1]"#).starts_with("steps[0].depends_on[0]: invalid type"));
        assert!(
            refused_step(r#""retryable": true, "default_retryable": true"#).contains("duplicate field `retryable`")
        );
        let bad_version = r#"{"name": "t", "version": "1.2", "steps": [{"name": "a"}]}"#;
        assert_eq!(refused(bad_version).1, "version: invalid version: \"1.2\", not n.n.n");
    }

    #[test]
    fn names_are_counted_in_characters() {
        let named = |length| parse(&format!(r#"{{"name": "t", "steps": [{{"name": "{}"}}]}}"#, "ä".repeat(length)));
        assert!(named(255).is_ok());
        assert!(named(256).is_err());
        assert!(named(0).is_err());
        assert!(refused_step(r#""queue": "a\u0000b""#).contains("U+0000"));
    }

    #[test]
    fn a_template_that_could_not_run_is_refused() {
        assert_eq!(refused(r#"{"name": "t", "steps": []}"#).0, "template has no steps");
        assert_eq!(refused(r#"{"name": "t"}"#).0, "template has no steps");
        let cycle = r#"{"name": "t", "steps": [{"name": "a", "depends_on": "b"}, {"name": "b", "depends_on": "a"}]}"#;
        assert_eq!(refused(cycle), ("dependencies form a cycle".to_owned(), "a → b → a".to_owned()));
    }

    #[test]
    fn text_that_is_no_json_is_refused() {
        for text in ["", "{", "nonsense", "{\"name\": \"t\"} x", "[1,", "\"\\ud800\""] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(refused("{").0, "template definition is not valid JSON");
    }
}

//! Template definitions: whatever is submitted, the answer is a template or a clear error.

use std::fmt::Write;

use pg_stepwise_cluster_tests::engine::template::{MAX_STEPS, TemplateError, parse};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const KEYS: [&str; 31] = [
    "namespace",
    "namespace_name",
    "name",
    "version",
    "description",
    "identity",
    "defaults",
    "default_retryable",
    "default_retry_limit",
    "steps",
    "step_templates",
    "handler",
    "handler_class",
    "depends_on",
    "depends_on_step",
    "depends_on_steps",
    "queue",
    "priority",
    "retry_limit",
    "retryable",
    "skippable",
    "timeout",
    "backoff",
    "base",
    "cap",
    "jitter",
    "config",
    "handler_config",
    "$serde_json::private::RawValue",
    "",
    "colour",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..9).prop_map(Value::from),
        prop::sample::select(vec!["a", "b", "c", "1.2.3", "5s", "-1 day", "context", ""]).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let key = prop_oneof![9 => prop::sample::select(KEYS.to_vec()).prop_map(str::to_owned), 1 => ".{0,5}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// A step of a good shape, with some keys replaced by anything.
fn nearly_a_step() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["a", "b", "c", "d"]);
    let spoilt = prop::collection::vec((prop::sample::select(KEYS.to_vec()), any_json()), 0..2);
    (name.clone(), prop::collection::vec(name, 0..3), spoilt).prop_map(|(name, depends_on, spoilt)| {
        let mut step = Map::from_iter([("name".to_owned(), json!(name)), ("depends_on".to_owned(), json!(depends_on))]);
        step.extend(spoilt.into_iter().map(|(key, value)| (key.to_owned(), value)));
        Value::Object(step)
    })
}

fn nearly_a_template() -> impl Strategy<Value = Value> {
    let spoilt = prop::collection::vec((prop::sample::select(KEYS.to_vec()), any_json()), 0..2);
    (prop::collection::vec(nearly_a_step(), 0..5), spoilt).prop_map(|(steps, spoilt)| {
        let mut template = Map::from_iter([("name".to_owned(), json!("t")), ("steps".to_owned(), Value::from(steps))]);
        template.extend(spoilt.into_iter().map(|(key, value)| (key.to_owned(), value)));
        Value::Object(template)
    })
}

/// Parses, and checks what must hold of any answer.
fn check(definition: &str) -> Result<(), TestCaseError> {
    match parse(definition) {
        Ok(template) => {
            prop_assert_eq!(template.steps.len(), template.graph.len());
            prop_assert!(!template.steps.is_empty());
            for (step, step_id) in template.steps.iter().zip(1..) {
                prop_assert!(template.graph.parents(step_id).iter().all(|&parent| parent < step_id));
                prop_assert!(!step.name.is_empty() && !step.handler.is_empty() && !step.queue.is_empty());
                prop_assert!(step.rule.retry_limit >= 0 && step.rule.timeout.0 > 0);
                prop_assert!((0.0..=1.0).contains(&step.rule.backoff.jitter));
            }
        }
        Err(error) => {
            let message = error.to_string();
            prop_assert!(message.starts_with(|c: char| c.is_ascii_lowercase()), "{message}");
            prop_assert!(error == TemplateError::NoSteps || error.detail().is_some_and(|detail| !detail.is_empty()));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_text_breaks_it(text in ".*") {
        check(&text)?;
    }

    #[test]
    fn no_json_breaks_it(value in any_json()) {
        check(&value.to_string())?;
    }

    #[test]
    fn nothing_nearly_right_breaks_it(value in nearly_a_template(), cut in any::<prop::sample::Index>()) {
        let text = value.to_string();
        check(&text)?;
        let end = cut.index(text.len());
        check(text.get(..end).unwrap_or_default())?;
    }

    #[test]
    fn steps_come_in_the_order_of_their_ids(order in Just(vec!["a", "b", "c", "d", "e"]).prop_shuffle()) {
        let chain = ["a", "b", "c", "d", "e"];
        let before = |name: &str| chain.iter().position(|other| *other == name).unwrap().checked_sub(1).map(|at| chain[at]);
        let steps: Vec<Value> =
            order.iter().map(|name| json!({"name": name, "depends_on": before(name), "config": {"is": name}})).collect();
        let template = parse(&json!({"name": "t", "steps": steps}).to_string()).unwrap();
        for (step, name) in template.steps.iter().zip(chain) {
            prop_assert_eq!(&step.name, name);
            let config: Value = serde_json::from_str(step.config.as_ref().unwrap().get()).unwrap();
            prop_assert_eq!(&config["is"], name);
        }
    }

    #[test]
    fn an_unknown_key_is_always_named(key in "[a-z`\"]{1,12}", place in 0..4_usize) {
        prop_assume!(!KEYS.contains(&key.as_str()));
        let mut template = json!({"name": "t", "defaults": {"backoff": {}}, "steps": [{"name": "a"}]});
        let pointer = ["", "/defaults", "/defaults/backoff", "/steps/0"][place];
        template.pointer_mut(pointer).unwrap()[key.as_str()] = Value::Null;
        match parse(&template.to_string()) {
            Err(TemplateError::UnknownKey { key: named, .. }) => prop_assert_eq!(named, key),
            other => prop_assert!(false, "{other:?}"),
        }
    }
}

#[test]
fn deep_nesting_is_an_error_or_kept_but_no_overflow() {
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    assert!(parse(&deep).is_err());
    for key in ["depends_on", "timeout", "backoff", "colour"] {
        assert!(parse(&format!(r#"{{"name": "t", "steps": [{{"name": "a", "{key}": {deep}}}]}}"#)).is_err(), "{key}");
    }
    let kept = parse(&format!(r#"{{"name": "t", "steps": [{{"name": "a", "config": {deep}}}]}}"#));
    assert!(kept.is_ok_and(|template| template.steps[0].config.as_ref().is_some_and(|c| c.get().len() == deep.len())));
}

/// A template in which step n depends on the `edges` steps before it.
fn large(steps: usize, edges: usize) -> String {
    let mut text = r#"{"name": "t", "steps": ["#.to_owned();
    for n in 0..steps {
        let parents: Vec<String> = (n.saturating_sub(edges)..n).map(|parent| format!("\"s{parent}\"")).collect();
        let comma = if n == 0 { "" } else { "," };
        write!(text, r#"{comma}{{"name": "s{n}", "depends_on": [{}]}}"#, parents.join(",")).unwrap();
    }
    text + "]}"
}

#[test]
fn a_hundred_thousand_steps_and_a_million_edges_are_read() {
    let template = parse(&large(MAX_STEPS, 10)).unwrap();
    assert_eq!(template.graph.level(MAX_STEPS as i32), MAX_STEPS as i32 - 1);
    assert!(
        matches!(parse(&large(MAX_STEPS + 1, 0)), Err(TemplateError::TooManySteps { count }) if count == MAX_STEPS + 1)
    );
}

#[test]
fn the_largest_cycle_is_found_and_shown_short() {
    let definition = large(MAX_STEPS, 1).replacen(r#""s0", "depends_on": []"#, r#""s0", "depends_on": "s99999""#, 1);
    let detail = parse(&definition).unwrap_err().detail().unwrap();
    assert!(detail.starts_with("s0 → s1 → ") && detail.ends_with(" → s99999 → s0"), "{detail}");
    assert!(detail.len() < 1000);
}

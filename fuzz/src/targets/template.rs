//! Definitions of templates: the answer is a template that can run, or an error that says what is wrong.

use crate::engine::context_schema::ContextSchema;
use crate::engine::simulate::simulate;
use crate::engine::template::{MAX_NAME_CHARS, TemplateError, parse};
use serde_json::Value;
use std::collections::HashSet;

/// A simulation goes through every attempt, of which a definition may allow two thousand million.
const SIMULATED: usize = 64;

pub fn run(data: &[u8]) {
    let Ok(definition) = std::str::from_utf8(data) else { return };
    match parse(definition) {
        Ok(template) => {
            assert_eq!(template.steps.len(), template.graph.len());
            let names: HashSet<&str> = template.steps.iter().map(|step| step.name.as_str()).collect();
            assert_eq!(names.len(), template.steps.len(), "a name twice");
            for (step, step_id) in template.steps.iter().zip(1..) {
                assert!(template.graph.parents(step_id).iter().all(|&parent| 0 < parent && parent < step_id));
                for text in [&step.name, &step.handler, &step.queue] {
                    assert!((1..=MAX_NAME_CHARS).contains(&text.chars().count()) && !text.contains('\0'), "{text:?}");
                }
                assert!(step.rule.retry_limit >= 0 && step.rule.timeout.0 >= 0 && step.rule.delay.0 >= 0);
                assert!((0.0..=1.0).contains(&step.rule.backoff.jitter));
                assert!((-1000..=1000).contains(&step.priority));
            }
            if let Some(schema) = &template.context_schema {
                let schema = ContextSchema::new(schema.get(), template.insert_defaults);
                let schema = schema.expect("a schema that was accepted can be used");
                let _ = schema.check("{\"a\": [1, null, \"x\"]}");
            }
            if template.steps.len() <= SIMULATED {
                let transitions =
                    simulate(&template, &Value::Null, &mut || ()).expect("a task that succeeds comes to an end");
                let last = transitions.last().expect("there is its creation");
                // A step that no worker ever runs, or a deadline, keeps a task from its end.
                assert!(last.step_id.is_none() || template.steps.iter().any(|step| step.rule.retry_limit == 0));
            }
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with(|c: char| c.is_ascii_lowercase()), "{message}");
            assert!(error == TemplateError::NoSteps || error.detail().is_some_and(|detail| !detail.is_empty()));
            let _ = error.hint();
        }
    }
}

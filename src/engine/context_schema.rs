//! The schema of a template's contexts: JSON Schema 2020-12.
//!
//! In: which contexts it allows, and the defaults it would add. Out: the standard itself (crate `jsonschema`), and how
//! a context is stored.

use jsonschema::{Draft, Validator};
use serde_json::Value;
use thiserror::Error;

/// Violations shown; the others are counted.
const SHOWN: usize = 20;
/// Characters of one violation's message.
const MESSAGE_CHARS: usize = 200;
/// References followed at one place of a context, when looking for defaults: they may go in circles.
const MAX_REFERENCES: usize = 32;

/// A schema, ready to check contexts.
pub struct ContextSchema {
    validator: Validator,
    /// Kept only to look for defaults.
    with_defaults: Option<Value>,
}

/// A text that is no JSON Schema.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{problem}")]
pub struct SchemaError {
    pub problem: String,
}

/// Something in a context that its schema does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// A JSON pointer; empty for the whole context.
    pub pointer: String,
    pub message: String,
}

/// A value that the context lacks and its schema knows a default for.
#[derive(Debug, Clone, PartialEq)]
pub struct Missing {
    /// Keys from the top.
    pub path: Vec<String>,
    pub default: Value,
}

impl ContextSchema {
    /// Reads a schema. Only references within it are followed.
    pub fn new(schema: &str, insert_defaults: bool) -> Result<Self, SchemaError> {
        let schema: Value = serde_json::from_str(schema).map_err(|error| SchemaError { problem: error.to_string() })?;
        check_references(&schema)?;
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .build(&schema)
            .map_err(|error| SchemaError { problem: shortened(&error.to_string()) })?;
        Ok(ContextSchema { validator, with_defaults: insert_defaults.then_some(schema) })
    }

    /// What the context lacks, outermost first; then what is wrong with it once that is added.
    pub fn check(&self, context: &str) -> Result<Vec<Missing>, Vec<Violation>> {
        let whole = |message: String| vec![Violation { pointer: String::new(), message }];
        let unreadable = |error: serde_json::Error| whole(without_position(&error.to_string()));
        let mut value: Value = serde_json::from_str(context).map_err(unreadable)?;
        let mut missing = Vec::new();
        if let Some(schema) = &self.with_defaults {
            add_defaults(schema, schema, &mut value, &mut Vec::new(), MAX_REFERENCES, &mut missing);
        }
        let violations: Vec<Violation> = self
            .validator
            .iter_errors(&value)
            .map(|error| Violation {
                pointer: error.instance_path().to_string(),
                message: shortened(&error.to_string()),
            })
            .collect();
        if violations.is_empty() { Ok(missing) } else { Err(violations) }
    }
}

/// Violations as lines of text: `/path: message`.
pub fn lines(violations: &[Violation]) -> String {
    let mut lines: Vec<String> = violations
        .iter()
        .take(SHOWN)
        .map(|violation| match violation.pointer.as_str() {
            "" => format!("(the whole context): {}", violation.message),
            pointer => format!("{pointer}: {}", violation.message),
        })
        .collect();
    if violations.len() > SHOWN {
        lines.push(format!("… and {} more", violations.len() - SHOWN));
    }
    lines.join("\n")
}

/// A context is text that Postgres has written, not the user: its lines and columns mislead.
fn without_position(message: &str) -> String {
    message.rsplit_once(" at line ").map_or(message, |(problem, _)| problem).to_owned()
}

fn shortened(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        None => message.to_owned(),
    }
}

/// Adds the defaults of an object's properties. What was just added is not looked into: its own defaults might never
/// end. Depth is that of the context, which the parser bounds, and of `references`.
fn add_defaults(
    root: &Value,
    schema: &Value,
    value: &mut Value,
    path: &mut Vec<String>,
    references: usize,
    missing: &mut Vec<Missing>,
) {
    if let (Some(target), Some(left)) = (referenced(root, schema), references.checked_sub(1)) {
        add_defaults(root, target, value, path, left, missing);
    }
    if let (Some(all), Some(left)) = (schema.get("allOf").and_then(Value::as_array), references.checked_sub(1)) {
        for part in all {
            add_defaults(root, part, value, path, left, missing);
        }
    }
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let Some(object) = value.as_object_mut() else { return };
    for (key, of_key) in properties {
        path.push(key.clone());
        match (object.get_mut(key), of_key.get("default")) {
            (Some(inner), _) => add_defaults(root, of_key, inner, path, MAX_REFERENCES, missing),
            (None, Some(default)) => {
                object.insert(key.clone(), default.clone());
                missing.push(Missing { path: path.clone(), default: default.clone() });
            }
            (None, None) => {}
        }
        path.pop();
    }
}

/// The schema within `root` that a `$ref` such as `#/$defs/address` names.
fn referenced<'a>(root: &'a Value, schema: &Value) -> Option<&'a Value> {
    root.pointer(schema.get("$ref")?.as_str()?.strip_prefix('#')?)
}

/// References must be JSON pointers into the schema, so that it can be seen here that none leads to itself without
/// going into the context: checking such a one would never end.
fn check_references(root: &Value) -> Result<(), SchemaError> {
    let mut open = vec![root];
    while let Some(schema) = open.pop() {
        match schema {
            Value::Object(keys) => open.extend(keys.values()),
            Value::Array(items) => open.extend(items),
            _ => continue,
        }
        for key in ["$dynamicRef", "$recursiveRef", "$id"] {
            if schema.get(key).is_some_and(Value::is_string) && (key != "$id" || !std::ptr::eq(schema, root)) {
                return Err(SchemaError { problem: format!("{key} is not supported: use $ref with a JSON pointer") });
            }
        }
        let Some(reference) = schema.get("$ref").and_then(Value::as_str) else { continue };
        let is_pointer = reference == "#" || reference.starts_with("#/") && !reference.contains('%');
        if !is_pointer {
            let problem = format!("reference \"{}\" is no JSON pointer into the schema", shortened(reference));
            return Err(SchemaError { problem });
        }
        if leads_to(root, schema, schema) {
            return Err(SchemaError {
                problem: format!("reference \"{}\" leads back to itself", shortened(reference)),
            });
        }
    }
    Ok(())
}

/// Whether checking `from` checks `target` on the same value.
fn leads_to(root: &Value, from: &Value, target: &Value) -> bool {
    let mut seen: Vec<*const Value> = Vec::new();
    let mut open: Vec<&Value> = same_place(root, from);
    while let Some(schema) = open.pop() {
        if std::ptr::eq(schema, target) {
            return true;
        }
        if !seen.contains(&std::ptr::from_ref(schema)) {
            seen.push(schema);
            open.extend(same_place(root, schema));
        }
    }
    false
}

/// The schemas that are applied to the very value that `schema` is applied to.
fn same_place<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let mut applied = Vec::new();
    applied.extend(referenced(root, schema));
    for key in ["allOf", "anyOf", "oneOf"] {
        applied.extend(schema.get(key).and_then(Value::as_array).into_iter().flatten());
    }
    for key in ["not", "if", "then", "else"] {
        applied.extend(schema.get(key));
    }
    let dependent = schema.get("dependentSchemas").and_then(Value::as_object);
    applied.extend(dependent.into_iter().flat_map(serde_json::Map::values));
    applied
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str) -> ContextSchema {
        ContextSchema::new(text, true).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_violation_is_told_with_its_place() {
        let orders = schema(
            r#"{"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"},
                "lines": {"type": "array", "items": {"type": "object", "required": ["sku"]}}}}"#,
        );
        assert_eq!(orders.check(r#"{"id": 1, "lines": [{"sku": "x"}]}"#), Ok(Vec::new()));
        let violations = orders.check(r#"{"id": "one", "lines": [{"sku": "x"}, {}]}"#).unwrap_err();
        assert_eq!(
            lines(&violations),
            "/id: \"one\" is not of type \"integer\"\n/lines/1: \"sku\" is a required property"
        );
        assert!(lines(&orders.check("{}").unwrap_err()).starts_with("(the whole context): "));
    }

    #[test]
    fn what_is_missing_comes_from_the_defaults() {
        let shop = schema(
            r##"{"$defs": {"address": {"properties": {"country": {"default": "DE"}}}},
                "properties": {"currency": {"default": "EUR"}, "to": {"$ref": "#/$defs/address"},
                    "next": {"$ref": "#", "default": {}}}}"##,
        );
        let missing = shop.check(r#"{"to": {}}"#).unwrap();
        let paths: Vec<String> = missing.iter().map(|one| format!("{}={}", one.path.join("/"), one.default)).collect();
        assert_eq!(paths, ["currency=\"EUR\"", "next={}", "to/country=\"DE\""]);
        let strict = ContextSchema::new(r#"{"required": ["a"], "properties": {"a": {"default": 1}}}"#, false);
        assert!(strict.is_ok_and(|strict| strict.check("{}").is_err()));
    }

    #[test]
    fn what_is_no_schema_or_never_ends_is_refused() {
        for text in [
            "{",
            r#"{"type": "nothing"}"#,
            r#"{"$ref": "https://example.org/other"}"#,
            r##"{"$ref": "#"}"##,
            r##"{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}"##,
            r##"{"not": {"$ref": "#"}}"##,
            r##"{"$anchor": "a", "$ref": "#a"}"##,
            r##"{"$dynamicAnchor": "a", "$dynamicRef": "#a"}"##,
            r##"{"$defs": {"a": {"$id": "https://example.org/a", "$ref": "a"}}, "$ref": "#/$defs/a"}"##,
        ] {
            assert!(ContextSchema::new(text, false).is_err(), "{text}");
        }
        let tree = schema(r##"{"properties": {"left": {"$ref": "#"}}, "type": "object"}"##);
        assert!(tree.check(r#"{"left": {"left": {}}}"#).is_ok());
        assert!(tree.check(r#"{"left": {"left": 1}}"#).is_err());
    }
}

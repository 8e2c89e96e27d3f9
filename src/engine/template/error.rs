//! What can be wrong with a template's definition, in words.
//!
//! In: messages, details and hints. Out: finding it.

use serde_json::error::Category;
use thiserror::Error;

use super::super::graph::GraphError;
use super::MAX_STEPS;

/// Why a definition is refused. Where `path` occurs it is the place in the document, such as `steps[3].timeout`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    #[error("template definition is not valid JSON")]
    NotJson { problem: String },
    #[error("unknown key in template definition: \"{key}\"")]
    UnknownKey { path: String, key: String, known: String },
    #[error("invalid value in template definition")]
    BadValue { path: String, problem: String },
    #[error("template has no steps")]
    NoSteps,
    #[error("template has too many steps")]
    TooManySteps { count: usize },
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl TemplateError {
    /// The values and the place behind the message.
    pub fn detail(&self) -> Option<String> {
        Some(match self {
            Self::NotJson { problem } => problem.clone(),
            Self::UnknownKey { path, .. } => format!("The key is {path}."),
            Self::BadValue { path, problem } => format!("{path}: {problem}"),
            Self::NoSteps => return None,
            Self::TooManySteps { count } => format!("It has {count} steps; the most are {MAX_STEPS}."),
            Self::Graph(error) => error.detail(),
        })
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::UnknownKey { known, .. } => return Some(format!("Keys known there: {known}.")),
            Self::NoSteps => "Give at least one step in \"steps\".",
            Self::TooManySteps { .. } => "Split the workflow into several templates.",
            Self::Graph(GraphError::Cycle { .. }) => "Remove one of the dependencies on the path.",
            Self::Graph(GraphError::DuplicateStep { .. }) => "Give every step of the template its own name.",
            Self::Graph(GraphError::UnknownDependency { .. }) => "Define that step, or correct its name.",
            Self::Graph(GraphError::SelfDependency { .. }) => "Remove the step from its own dependencies.",
            Self::NotJson { .. } | Self::BadValue { .. } => return None,
        };
        Some(hint.to_owned())
    }

    pub(super) fn bad_value(path: impl Into<String>, problem: impl Into<String>) -> TemplateError {
        TemplateError::BadValue { path: path.into(), problem: problem.into() }
    }

    pub(super) fn from_json(path: &str, error: &serde_json::Error) -> TemplateError {
        let text = error.to_string();
        // The document's text is not what the user typed but how Postgres writes it, so its lines and columns mislead.
        let problem = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem).to_owned();
        // Valid JSON may hold numbers and depths that no key here can take.
        let too_much = problem == "number out of range" || problem == "recursion limit exceeded";
        if error.classify() != Category::Data && !too_much {
            return TemplateError::NotJson { problem: text };
        }
        let path = if path == "." { "the definition".to_owned() } else { path.to_owned() };
        let unknown = problem.strip_prefix("unknown field `").and_then(|rest| rest.split_once("`, expected one of "));
        match unknown {
            Some((key, known)) => {
                TemplateError::UnknownKey { path, key: key.to_owned(), known: known.replace('`', "") }
            }
            None => TemplateError::BadValue { path, problem },
        }
    }
}

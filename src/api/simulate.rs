//! Simulate: a dry run of a template in memory. Reads and stores nothing.
use crate::engine::simulate::{self, SimulationError, Transition};
use crate::engine::template::{self, Template};
use crate::pg::error::{Explain, Outcome, finish, required};
use crate::pg::jsonb::Jsonb;
use crate::pg::{time, wait};
use pgrx::datum::Interval;
use pgrx::prelude::*;

impl Explain for SimulationError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            SimulationError::TooLong => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            _ => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            SimulationError::UnknownStep { step } => Some(format!("The step is \"{step}\".")),
            SimulationError::BadOutcome { step, outcome } => {
                Some(format!("The outcome of step \"{step}\" is {outcome}."))
            }
            SimulationError::NotAnObject | SimulationError::TooLong => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            SimulationError::NotAnObject => "Pass {\"step\": outcome, …}.".to_owned(),
            SimulationError::BadOutcome { .. } => {
                "An outcome is complete, error, cancelled, resolved_manually or skipped, \
                an array of these, one for each attempt, or the number (up to 1000) of attempts that fail."
                    .to_owned()
            }
            SimulationError::UnknownStep { .. } | SimulationError::TooLong => return None,
        })
    }
}

fn run(definition: Option<Jsonb>, outcomes: Option<Jsonb>) -> Outcome<(Template, Vec<Transition>)> {
    let template = template::parse(&required("definition", definition)?.to_text())?;
    let outcomes = required("outcomes", outcomes)?.to_text();
    let outcomes = serde_json::from_str(&outcomes).map_err(|_| SimulationError::NotAnObject)?;
    let transitions = simulate::simulate(&template, &outcomes, &mut wait::heed_cancel)?;
    Ok((template, transitions))
}

#[pg_extern(immutable, parallel_safe)]
#[allow(clippy::type_complexity)]
fn simulate_template(
    definition: Option<Jsonb>,
    outcomes: default!(Option<Jsonb>, "'{}'"),
) -> TableIterator<
    'static,
    (
        name!(position, i32),
        name!(after, Interval),
        name!(subject, String),
        name!(step_id, Option<i32>),
        name!(from_state, Option<&'static str>),
        name!(to_state, &'static str),
        name!(attempt, Option<i32>),
    ),
> {
    let (template, transitions) = finish(run(definition, outcomes));
    let name = move |step_id: Option<i32>| match step_id {
        Some(step_id) => template.steps.get(step_id as usize - 1).map_or_else(String::new, |step| step.name.clone()),
        None => "task".to_owned(),
    };
    TableIterator::new(transitions.into_iter().zip(1..).map(move |(one, position)| {
        (position, time::interval(one.after), name(one.step_id), one.step_id, one.from, one.to, one.attempt)
    }))
}

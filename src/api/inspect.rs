//! Inspect: why a step does not move, levels, the critical path. Readers.
use crate::pg::error::{Outcome, finish, required};
use crate::pg::time;
use crate::store::inspect::{self, Explanation};
use crate::store::operate::StepRef;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;

fn explanations(task_id: Option<i64>, step: Option<StepRef>) -> Outcome<Vec<Explanation>> {
    Ok(inspect::explain(required("task_id", task_id)?, &required("step", step)?)?)
}

/// One function for both ways to name a step. (pgrx reads the columns from the signature.)
macro_rules! explain {
    ($name:ident, $step:ident, $variant:path) => {
        #[pg_extern(name = "explain_step", stable, parallel_safe)]
        #[allow(clippy::type_complexity)]
        fn $name(
            task_id: Option<i64>,
            step: Option<$step>,
        ) -> TableIterator<
            'static,
            (
                name!(position, i32),
                name!(reason, &'static str),
                name!(detail, String),
                name!(until, Option<TimestampWithTimeZone>),
                name!(rank, Option<i64>),
            ),
        > {
            let found = finish(explanations(task_id, step.map($variant)));
            TableIterator::new(found.into_iter().zip(1..).map(|(found, position)| {
                let until = found.reason.until().map(time::to_sql);
                (position, found.reason.as_str(), found.detail, until, found.rank)
            }))
        }
    };
}

explain!(explain_step, String, StepRef::Name);
explain!(explain_step_by_id, i32, StepRef::Id);

/// A row of critical_path.
type OnPath = (i32, i32, String, &'static str, Interval, bool, Interval);

fn path(task_id: Option<i64>) -> Outcome<Vec<OnPath>> {
    let (template, steps) = inspect::critical_path(required("task_id", task_id)?)?;
    let mut total = 0_i64;
    let mut rows = Vec::with_capacity(steps.len());
    for (step, position) in steps.into_iter().zip(1..) {
        total = total.saturating_add(step.duration.0);
        let name = template.step(step.step_id).map_or_else(String::new, |step| step.name.clone());
        let until_its_end = time::interval(crate::engine::time::Span(total));
        let duration = time::interval(step.duration);
        rows.push((position, step.step_id, name, step.state.as_str(), duration, step.measured, until_its_end));
    }
    Ok(rows)
}

#[pg_extern(stable, parallel_safe)]
#[allow(clippy::type_complexity)]
fn critical_path(
    task_id: Option<i64>,
) -> TableIterator<
    'static,
    (
        name!(position, i32),
        name!(step_id, i32),
        name!(name, String),
        name!(current_state, &'static str),
        name!(duration, Interval),
        name!(measured, bool),
        name!(until_its_end, Interval),
    ),
> {
    TableIterator::new(finish(path(task_id)))
}

fn levels(task_id: Option<i64>) -> Outcome<Vec<(i32, String, i32)>> {
    let template = inspect::template_of_task(required("task_id", task_id)?)?;
    let named = template.graph.step_ids().zip(&template.steps);
    Ok(named.map(|(step_id, step)| (step_id, step.name.clone(), template.graph.level(step_id))).collect())
}

#[pg_extern(stable, parallel_safe)]
fn calculate_dependency_levels(
    task_id: Option<i64>,
) -> TableIterator<'static, (name!(step_id, i32), name!(name, String), name!(dependency_level, i32))> {
    TableIterator::new(finish(levels(task_id)))
}

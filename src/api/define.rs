//! Define: templates.
use crate::engine::template;
use crate::pg::error::{Outcome, finish, required};
use crate::pg::jsonb::Jsonb;
use crate::store::templates;
use pgrx::prelude::*;

fn register(definition: Option<Jsonb>) -> Outcome<i64> {
    let definition = required("definition", definition)?;
    let template = template::parse(&definition.to_text())?;
    Ok(templates::register(&template, definition)?)
}

#[pg_extern]
fn register_template(definition: Option<Jsonb>) -> i64 {
    finish(register(definition))
}

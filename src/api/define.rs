//! Define: templates.
use crate::engine::access::Level;
use crate::engine::template;
use crate::pg::error::{Outcome, finish, required};
use crate::pg::jsonb::Jsonb;
use crate::store::access::command;
use crate::store::templates;
use pgrx::prelude::*;

fn register(definition: Option<Jsonb>) -> Outcome<i64> {
    let definition = required("definition", definition)?;
    let template = template::parse(&definition.to_text())?;
    Ok(templates::register(&template, definition)?)
}

#[pg_extern]
fn register_template(definition: Option<Jsonb>) -> i64 {
    finish(command(Level::Author, || register(definition)))
}

fn find(name: Option<String>, namespace: Option<String>, version: Option<String>) -> Outcome<Option<Jsonb>> {
    let name = required("template", name)?;
    Ok(templates::definition(&name, namespace.as_deref(), version.as_deref())?)
}

#[pg_extern(stable, parallel_safe)]
fn template_definition(
    template: Option<String>,
    namespace: default!(Option<String>, "NULL"),
    version: default!(Option<String>, "NULL"),
) -> Option<Jsonb> {
    finish(find(template, namespace, version))
}

//! See: pictures of tasks and templates. Readers: the caller's snapshot and rights, no transaction id.
use crate::pg::error::{Outcome, finish, required};
use crate::picture::{self, Format};
use crate::store::picture::{self as drawn, Drawn};
use pgrx::prelude::*;

fn draw(format: Format, drawn: Drawn) -> Outcome<String> {
    let template = std::rc::Rc::clone(&drawn.template);
    Ok(picture::render(&drawn.picture(&template), format)?)
}

fn of_task(task_id: Option<i64>, format: Option<String>) -> Outcome<String> {
    let task_id = required("task_id", task_id)?;
    let format = Format::parse(&required("format", format)?)?;
    draw(format, drawn::of_task(task_id, format)?)
}

#[pg_extern(stable, parallel_safe)]
fn render_task(task_id: Option<i64>, format: default!(Option<String>, "'text'")) -> String {
    finish(of_task(task_id, format))
}

fn of_template(
    name: Option<String>,
    format: Option<String>,
    namespace: Option<String>,
    version: Option<String>,
) -> Outcome<String> {
    let name = required("template", name)?;
    let format = Format::parse(&required("format", format)?)?;
    draw(format, drawn::of_template(&name, namespace.as_deref(), version.as_deref())?)
}

#[pg_extern(stable, parallel_safe)]
fn render_template(
    template: Option<String>,
    format: default!(Option<String>, "'text'"),
    namespace: default!(Option<String>, "NULL"),
    version: default!(Option<String>, "NULL"),
) -> String {
    finish(of_template(template, format, namespace, version))
}

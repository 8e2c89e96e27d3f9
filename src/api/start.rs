//! Start: tasks.
use super::arguments::{beside, elements, priority as priority_of, short_text, traceparent as traceparent_of};
use crate::engine::access::Level;
use crate::engine::template::MAX_NAME_CHARS;
use crate::pg::error::{Outcome, finish, required};
use crate::pg::jsonb::{Jsonb, JsonbArray};
use crate::pg::rows::{Arguments, Rows, RowsReturned, return_rows};
use crate::pg::time;
use crate::pg::value::param;
use crate::store::access::command;
use crate::store::start::{self, NewTasks};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// The longest identity key, in characters: whatever they are, it fits an index.
const MAX_KEY_CHARS: usize = 512;

/// Arguments that both functions take.
struct Common {
    template: Option<String>,
    namespace: Option<String>,
    version: Option<String>,
    priority: Option<i32>,
    run_at: Option<TimestampWithTimeZone>,
    tags: Option<Vec<Option<String>>>,
    bypass_steps: Option<Vec<Option<String>>>,
    requested_by: Option<String>,
    traceparent: Option<String>,
}

fn create(contexts: Vec<Jsonb>, identity_keys: Vec<Option<String>>, common: Common) -> Outcome<Vec<i64>> {
    let template = required("template", common.template)?;
    let name = |argument, text| short_text(argument, MAX_NAME_CHARS, text);
    let key = |key: Option<String>| key.map(|key| short_text("identity_key", MAX_KEY_CHARS, key)).transpose();
    let tags = common.tags.map(|tags| elements("tags", tags)).transpose()?;
    let tags = tags.map(|tags| tags.into_iter().map(|tag| name("tags", tag)).collect());
    let new = NewTasks {
        template: &template,
        namespace: common.namespace.as_deref(),
        version: common.version.as_deref(),
        contexts,
        identity_keys: identity_keys.into_iter().map(key).collect::<Result<_, _>>()?,
        priority: priority_of(common.priority)?,
        run_at: common.run_at.map(time::from_sql),
        tags: tags.transpose()?,
        bypass_steps: elements("bypass_steps", common.bypass_steps.unwrap_or_default())?,
        requested_by: common.requested_by.map(|role| name("requested_by", role)).transpose()?,
        traceparent: common.traceparent.map(traceparent_of).transpose()?,
    };
    Ok(start::create(&new)?)
}

fn create_many(
    contexts: Option<JsonbArray>,
    identity_keys: Option<Vec<Option<String>>>,
    common: Common,
) -> Outcome<Vec<i64>> {
    let contexts = elements("contexts", required("contexts", contexts)?.0)?;
    let identity_keys = beside(("contexts", contexts.len()), "identity_keys", identity_keys)?;
    create(contexts, identity_keys, common)
}

fn create_one(context: Option<Jsonb>, identity_key: Option<String>, common: Common) -> Outcome<i64> {
    let ids = create(vec![required("context", context)?], vec![identity_key], common)?;
    Ok(ids.first().copied().unwrap_or_default())
}

#[pg_extern]
#[allow(clippy::too_many_arguments)]
fn create_task(
    template: Option<String>,
    context: default!(Option<Jsonb>, "'{}'"),
    namespace: default!(Option<String>, "NULL"),
    version: default!(Option<String>, "NULL"),
    identity_key: default!(Option<String>, "NULL"),
    priority: default!(Option<i32>, "0"),
    run_at: default!(Option<TimestampWithTimeZone>, "NULL"),
    tags: default!(Option<Vec<Option<String>>>, "NULL"),
    bypass_steps: default!(Option<Vec<Option<String>>>, "NULL"),
    requested_by: default!(Option<String>, "NULL"),
    traceparent: default!(Option<String>, "NULL"),
) -> i64 {
    let common =
        Common { template, namespace, version, priority, run_at, tags, bypass_steps, requested_by, traceparent };
    finish(command(Level::Worker, || create_one(context, identity_key, common)))
}

#[pg_extern(sql = r#"
    CREATE FUNCTION stepwise.create_tasks(template text, contexts jsonb[], namespace text DEFAULT NULL,
        version text DEFAULT NULL, identity_keys text[] DEFAULT NULL, priority integer DEFAULT 0,
        run_at timestamptz DEFAULT NULL, tags text[] DEFAULT NULL, bypass_steps text[] DEFAULT NULL,
        requested_by text DEFAULT NULL, traceparent text DEFAULT NULL)
    RETURNS SETOF bigint
    LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn create_tasks(fcinfo: pg_sys::FunctionCallInfo) -> RowsReturned {
    let at = Arguments(fcinfo);
    let common = Common {
        template: at.get(0),
        namespace: at.get(2),
        version: at.get(3),
        priority: at.get(5),
        run_at: at.get(6),
        tags: at.get(7),
        bypass_steps: at.get(8),
        requested_by: at.get(9),
        traceparent: at.get(10),
    };
    let task_ids = finish(command(Level::Worker, || create_many(at.get(1), at.get(4), common)));
    return_rows(fcinfo, |rows: &mut Rows<1>| task_ids.into_iter().for_each(|task_id| rows.put([param(task_id)])))
}

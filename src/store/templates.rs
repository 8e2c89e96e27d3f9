//! Templates in their tables: registration, and look-up by name.
use super::access;
use super::error::StoreError;
use super::handlers;
use super::privacy;
use crate::engine::access::is_own_queue;
use crate::engine::graph::Graph;
use crate::engine::template::{Identity, StepTemplate, Template};
use crate::pg::array::{array, array_of_optional};
use crate::pg::jsonb::Jsonb;
use crate::pg::role;
use crate::pg::spi::{self, Row, Session, Statement};
use crate::pg::time;
use crate::pg::value::{optional, param};
use std::collections::{BTreeSet, HashMap};

static ADD_NAMESPACE: Statement = Statement::write(
    "INSERT INTO stepwise.namespaces (name, created_at) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
);
static ADD_QUEUES: Statement = Statement::write(
    "INSERT INTO stepwise.queues (name, created_at) SELECT q, $2 FROM unnest($1) AS q \
     WHERE NOT EXISTS (SELECT FROM stepwise.queues old WHERE old.name = q) ORDER BY q ON CONFLICT (name) DO NOTHING",
);
static QUEUE: Statement = Statement::fresh("SELECT queue_id FROM stepwise.queues WHERE name = $1");
static FIND_VERSION: Statement = Statement::write(
    "SELECT t.template_id, t.content_hash = sha256(convert_to($4::text, 'UTF8')) \
     FROM stepwise.templates t JOIN stepwise.namespaces n ON n.namespace_id = t.namespace_id \
     WHERE n.name = $1 AND t.name = $2 AND t.version = $3",
);
static ADD_TEMPLATE: Statement = Statement::write(
    "INSERT INTO stepwise.templates (namespace_id, name, version, version_order, description, identity, step_count, \
         definition, content_hash, created_at, context_schema, insert_defaults, timeout, max_parallel_steps, \
         concurrency_key, max_per_key) \
     SELECT n.namespace_id, $2, $3, $4, $5, $6, $7, $8, sha256(convert_to($8::text, 'UTF8')), $9, $10::jsonb, $11, \
         $12 * interval '1 microsecond', $13, $14, $15 \
     FROM stepwise.namespaces n WHERE n.name = $1 \
     ON CONFLICT (namespace_id, name, version) DO NOTHING RETURNING template_id",
);
static ADD_STEPS: Statement = Statement::write(include_str!("../../sql/query/insert_template_steps.sql"));

static FIND: Statement = Statement::fresh(
    "SELECT DISTINCT ON (n.name) n.name, t.template_id, t.identity \
     FROM stepwise.templates t JOIN stepwise.namespaces n ON n.namespace_id = t.namespace_id \
     WHERE t.name = $1 AND ($2 IS NULL OR n.name = $2) AND ($3 IS NULL OR t.version = $3) \
     ORDER BY n.name, t.version_order DESC",
);
static DEFINITION: Statement = Statement::read("SELECT definition FROM stepwise.templates WHERE template_id = $1");

fn label(template: &Template) -> String {
    format!("{}/{}@{}", template.namespace, template.name, template.version)
}

/// Stores a parsed template; the id of the one that was there where the content is the same.
pub fn register(template: &Template, definition: Jsonb) -> Result<i64, StoreError> {
    spi::session(|spi| {
        check_place(spi, template)?;
        if let Some(found) = find_version(spi, template, definition) {
            return found;
        }
        let handlers = handlers::check(spi, template)?;
        let now = time::now();
        ADD_NAMESPACE.run(spi, &[param(template.namespace.as_str()), param(now)]);
        let queues: BTreeSet<&str> = template.steps.iter().map(|step| step.queue.as_str()).collect();
        ADD_QUEUES.run(spi, &[array(&queues.into_iter().collect::<Vec<_>>()), param(now)]);
        let version = template.version.to_string();
        let added = ADD_TEMPLATE.run(
            spi,
            &[
                param(template.namespace.as_str()),
                param(template.name.as_str()),
                param(version),
                array(&template.version.numbers()),
                optional(template.description.as_deref()),
                optional(match template.identity {
                    Identity::Context => Some("context"),
                    Identity::None => None,
                }),
                param(template.steps.len() as i32),
                param(definition),
                param(now),
                optional(template.context_schema.as_deref().map(|schema| schema.get())),
                param(template.insert_defaults),
                optional(template.timeout.map(|timeout| timeout.0)),
                param(template.max_parallel_steps),
                optional(template.concurrency.as_ref().map(|concurrency| concurrency.pointer.as_str())),
                param(template.concurrency.as_ref().map_or(0, |concurrency| concurrency.max_per_key)),
            ],
        );
        match added.first() {
            Some(row) => {
                let template_id = row.want(1);
                add_steps(spi, template_id, template, &handlers);
                if privacy::is_private(&template.namespace) {
                    // The queues that it uses now are not announced by name any more.
                    role::tell_backends_of(c"namespaces");
                }
                Ok(template_id)
            }
            // A concurrent registration has won; READ COMMITTED sees it, a snapshot of the whole transaction cannot.
            None => find_version(spi, template, definition)
                .unwrap_or_else(|| Err(StoreError::RegistrationRace { label: label(template) })),
        }
    })
}

/// Refuses (42501) a namespace that is not the caller's, whether it exists or not, and queues that may be others'.
fn check_place(spi: &Session, template: &Template) -> Result<(), StoreError> {
    let Some(restriction) = access::restriction() else { return Ok(()) };
    let (namespace, role) = (template.namespace.clone(), access::caller());
    if !restriction.has_namespace(&namespace) {
        return Err(StoreError::NamespaceForbidden { namespace, role, level: restriction.level() });
    }
    let queues: BTreeSet<&str> = template.steps.iter().map(|step| step.queue.as_str()).collect();
    for queue in queues {
        let queue_id = QUEUE.run(spi, &[param(queue)]).first().map(|row| row.want::<i64>(1));
        let (own, foreign) = queue_id.map_or((false, false), |queue_id| restriction.uses_of_queue(queue_id));
        if !own && (foreign || !is_own_queue(&namespace, queue)) {
            return Err(StoreError::QueueForbidden { queue: queue.to_owned(), namespace, role });
        }
    }
    Ok(())
}

fn find_version(spi: &Session, template: &Template, definition: Jsonb) -> Option<Result<i64, StoreError>> {
    let rows = FIND_VERSION.run(
        spi,
        &[
            param(template.namespace.as_str()),
            param(template.name.as_str()),
            param(template.version.to_string()),
            param(definition),
        ],
    );
    let row = rows.first()?;
    Some(if row.want(2) { Ok(row.want(1)) } else { Err(StoreError::TemplateConflict { label: label(template) }) })
}

fn add_steps(spi: &Session, template_id: i64, template: &Template, handlers: &HashMap<String, String>) {
    let steps = &template.steps;
    let graph: &Graph = &template.graph;
    let ids: Vec<i32> = (1..=steps.len() as i32).collect();
    let literal = |ids: &[i32]| {
        let joined: Vec<String> = ids.iter().map(i32::to_string).collect();
        format!("{{{}}}", joined.join(","))
    };
    fn texts<'a>(steps: &'a [StepTemplate], value: fn(&'a StepTemplate) -> &'a str) -> Vec<&'a str> {
        steps.iter().map(value).collect()
    }
    let microseconds = |value: fn(&StepTemplate) -> i64| array(&steps.iter().map(value).collect::<Vec<i64>>());
    let flags = |value: fn(&StepTemplate) -> bool| array(&steps.iter().map(value).collect::<Vec<bool>>());
    ADD_STEPS.run(
        spi,
        &[
            param(template_id),
            array(&ids),
            array(&ids.iter().map(|id| graph.level(*id)).collect::<Vec<i32>>()),
            array(&texts(steps, |step| &step.name)),
            array_of_optional(&steps.iter().map(|step| step.description.as_deref()).collect::<Vec<_>>()),
            array(
                &steps
                    .iter()
                    .map(|step| match step.in_database {
                        true => handlers.get(&step.handler).unwrap_or(&step.handler),
                        false => step.handler.as_str(),
                    })
                    .collect::<Vec<&str>>(),
            ),
            array(&texts(steps, |step| &step.queue)),
            array(&steps.iter().map(|step| step.priority).collect::<Vec<i16>>()),
            array(&ids.iter().map(|id| literal(graph.parents(*id))).collect::<Vec<String>>()),
            array(&ids.iter().map(|id| literal(graph.children(*id))).collect::<Vec<String>>()),
            flags(|step| step.rule.retryable),
            array(&steps.iter().map(|step| step.rule.retry_limit).collect::<Vec<i32>>()),
            flags(|step| step.rule.skippable),
            microseconds(|step| step.rule.timeout.0),
            microseconds(|step| step.rule.backoff.base.0),
            microseconds(|step| step.rule.backoff.cap.0),
            array(&steps.iter().map(|step| step.rule.backoff.jitter).collect::<Vec<f64>>()),
            array_of_optional(
                &steps.iter().map(|step| step.config.as_deref().map(|raw| raw.get())).collect::<Vec<_>>(),
            ),
            array(&texts(steps, |step| step.rule.kind.as_str())),
            flags(|step| step.in_database),
            microseconds(|step| step.rule.delay.0),
        ],
    );
}

/// A template as create_task needs it.
pub struct FoundTemplate {
    pub template_id: i64,
    /// Tasks are identified by their context.
    pub identity_from_context: bool,
}

/// Finds a template by name: the given version or the latest, in the given namespace or the only one that has it.
pub fn find(
    spi: &Session,
    name: &str,
    namespace: Option<&str>,
    version: Option<&str>,
) -> Result<FoundTemplate, StoreError> {
    let rows = FIND.run(spi, &[param(name), optional(namespace), optional(version)]);
    // What others have of this name makes it neither ambiguous nor known.
    let restriction = access::restriction();
    let seen = |row: &Row| restriction.as_ref().is_none_or(|only| only.has_namespace(&row.want::<String>(1)));
    let mut found: Vec<Row> = rows.iter().filter(seen).collect();
    if found.len() > 1 {
        let namespaces = found.iter().map(|row| row.want(1)).collect();
        return Err(StoreError::TemplateAmbiguous { name: name.into(), namespaces });
    }
    let row = found.pop().ok_or_else(|| StoreError::TemplateNotFound {
        namespace: namespace.map(String::from),
        name: name.into(),
        version: version.map(String::from),
    })?;
    Ok(FoundTemplate { template_id: row.want(2), identity_from_context: row.get::<String>(3).is_some() })
}

/// The definition of a template as it was submitted.
pub fn definition(name: &str, namespace: Option<&str>, version: Option<&str>) -> Result<Option<Jsonb>, StoreError> {
    spi::session(|spi| {
        let found = find(spi, name, namespace, version)?;
        Ok(DEFINITION.run(spi, &[param(found.template_id)]).first().and_then(|row| row.keep(1)))
    })
}

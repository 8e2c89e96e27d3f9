//! Templates in the memory of a backend. A registered template never changes, and its id is never used again, so an
//! entry is right until the extension is dropped and created anew.
use super::columns::{NAMESPACES_BY_KEY, TEMPLATES_BY_KEY, namespaces as namespace, templates as template};
use crate::engine::backoff::Backoff;
use crate::engine::context_schema::ContextSchema;
use crate::engine::graph::Graph;
use crate::engine::rule::{StepKind, StepRule};
use crate::engine::template::pointer_path;
use crate::engine::time::Span;
use crate::pg::catalog;
use crate::pg::jsonb::Jsonb;
use crate::pg::lookup::{Key, Sees};
use crate::pg::spi::{self, Statement};
use crate::pg::value::param;
use pgrx::pg_sys::Oid;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// One step of a cached template.
pub struct CachedStep {
    pub name: String,
    pub handler: String,
    /// The handler is a SQL function that the database can run.
    pub in_database: bool,
    pub config: Option<Box<[u8]>>,
    pub queue_id: i64,
    pub priority: i16,
    pub rule: StepRule,
}

/// A template with its graph; steps by `step_id - 1`.
pub struct CachedTemplate {
    pub namespace: String,
    pub name: String,
    pub version: String,
    /// `namespace/name@version`
    pub label: String,
    pub graph: Graph,
    pub steps: Vec<CachedStep>,
    /// How long a task may take.
    pub timeout: Option<Span>,
    /// The most steps of one task that are in progress at once; 0: no limit.
    pub max_parallel_steps: i32,
    /// Where in the context the key of a limit over tasks stands, and the most steps in progress for one.
    pub concurrency: Option<(Vec<String>, i32)>,
    /// The schema's text, and whether to insert its defaults.
    schema: Option<(String, bool)>,
    /// Compiled when the first task is created here: most backends claim and report only.
    compiled: OnceCell<Option<ContextSchema>>,
}

impl CachedTemplate {
    /// What contexts must be. It was checked at registration; a text that is no schema any more allows everything.
    pub fn context_schema(&self) -> Option<&ContextSchema> {
        let compile = || self.schema.as_ref().and_then(|(schema, defaults)| ContextSchema::new(schema, *defaults).ok());
        self.compiled.get_or_init(compile).as_ref()
    }

    /// Whether its steps may be limited by more than their queue.
    pub fn is_limited(&self) -> bool {
        self.max_parallel_steps > 0 || self.concurrency.is_some()
    }

    pub fn step_id(&self, name: &str) -> Option<i32> {
        self.steps.iter().position(|step| step.name == name).and_then(|index| i32::try_from(index + 1).ok())
    }

    pub fn step(&self, step_id: i32) -> Option<&CachedStep> {
        usize::try_from(step_id).ok().and_then(|id| id.checked_sub(1)).and_then(|index| self.steps.get(index))
    }
}

/// Steps held at most; beyond, the cache starts anew.
const MAX_CACHED_STEPS: usize = 1_000_000;

#[derive(Default)]
struct Cache {
    incarnation: Option<Oid>,
    templates: HashMap<i64, Rc<CachedTemplate>>,
    /// The template asked for last: rows of one call mostly belong to one.
    last: Option<(i64, Rc<CachedTemplate>)>,
    queues: HashMap<i64, Rc<str>>,
    /// Of templates whose graph need not be known.
    namespaces: HashMap<i64, Rc<str>>,
    steps: usize,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::new(Cache::default());
}

// A step that a claim has just found may belong to a template that is younger than the caller's snapshot.
static TEMPLATE: Statement = Statement::fresh(
    "SELECT n.name, t.name, t.version, t.context_schema::text, t.insert_defaults, \
         (date_part('epoch', t.timeout) * 1e6)::bigint, t.max_parallel_steps, t.concurrency_key, t.max_per_key \
     FROM stepwise.templates t \
     JOIN stepwise.namespaces n ON n.namespace_id = t.namespace_id \
     WHERE t.template_id = $1",
);

static STEPS: Statement = Statement::fresh(include_str!("../../sql/query/load_template_steps.sql"));

static QUEUE: Statement = Statement::fresh("SELECT name FROM stepwise.queues WHERE queue_id = $1");

/// The template, from memory or, on its first use, from its tables, which are read as their owner: a role that may
/// update steps need not be able to read templates. `None`: no such template.
pub fn template(template_id: i64) -> Option<Rc<CachedTemplate>> {
    let table = current_incarnation();
    let last = CACHE.with_borrow(|cache| cache.last.clone());
    if let Some((_, template)) = last.filter(|(id, _)| *id == template_id) {
        return Some(template);
    }
    if let Some(found) = CACHE.with_borrow(|cache| cache.templates.get(&template_id).cloned()) {
        CACHE.with_borrow_mut(|cache| cache.last = Some((template_id, Rc::clone(&found))));
        return Some(found);
    }
    let loaded = Rc::new(catalog::as_owner_of(table, || load(template_id))?);
    CACHE.with_borrow_mut(|cache| {
        if cache.steps + loaded.steps.len() > MAX_CACHED_STEPS {
            cache.templates.clear();
            cache.last = None;
            cache.steps = 0;
        }
        cache.steps += loaded.steps.len();
        cache.templates.insert(template_id, Rc::clone(&loaded));
    });
    Some(loaded)
}

/// A template that rows refer to: it must be there.
pub fn template_of_row(template_id: i64) -> Rc<CachedTemplate> {
    match template(template_id) {
        Some(template) => template,
        None => spi::internal_error("template is missing", template_id as i32, "stepwise.templates"),
    }
}

/// The name of a template's namespace. `None`: no such template that is committed by now.
pub fn namespace_of(template_id: i64) -> Option<Rc<str>> {
    current_incarnation();
    if let Some(found) = CACHE.with_borrow(|cache| cache.namespaces.get(&template_id).cloned()) {
        return Some(found);
    }
    let mut namespace_id = None;
    let one = |id| std::iter::once(Key::Run(id, id));
    TEMPLATES_BY_KEY.each(Sees::Now, one(template_id), |_, row| namespace_id = Some(row.want(template::NAMESPACE_ID)));
    let mut name: Option<Rc<str>> = None;
    NAMESPACES_BY_KEY.each(Sees::Now, one(namespace_id?), |_, row| name = Some(row.text(namespace::NAME).into()));
    let name = name?;
    CACHE.with_borrow_mut(|cache| {
        if cache.namespaces.len() >= MAX_CACHED_STEPS {
            cache.namespaces.clear();
        }
        cache.namespaces.insert(template_id, Rc::clone(&name));
    });
    Some(name)
}

/// A queue's name. Queues are never renamed.
pub fn queue_name(queue_id: i64) -> Rc<str> {
    let table = current_incarnation();
    if let Some(found) = CACHE.with_borrow(|cache| cache.queues.get(&queue_id).cloned()) {
        return found;
    }
    let name = catalog::as_owner_of(table, || {
        spi::session(|spi| QUEUE.run(spi, &[param(queue_id)]).first().map(|row| row.want::<String>(1)))
    });
    let name: Rc<str> = name.unwrap_or_default().into();
    CACHE.with_borrow_mut(|cache| cache.queues.insert(queue_id, Rc::clone(&name)));
    name
}

/// Empties the cache where the extension has been created anew; the oid of its table.
fn current_incarnation() -> Oid {
    let table = catalog::incarnation();
    CACHE.with_borrow_mut(|cache| {
        if cache.incarnation != Some(table) {
            *cache = Cache { incarnation: Some(table), ..Cache::default() };
        }
    });
    table
}

fn load(template_id: i64) -> Option<CachedTemplate> {
    spi::session(|spi| {
        let schema: Option<(String, bool)>;
        let (timeout, max_parallel_steps, concurrency);
        let (namespace, name, version) = {
            let rows = TEMPLATE.run(spi, &[param(template_id)]);
            let row = rows.first()?;
            schema = row.get::<String>(4).map(|schema| (schema, row.want::<bool>(5)));
            timeout = row.get::<i64>(6).map(Span);
            max_parallel_steps = row.want::<i32>(7);
            concurrency = row.get::<String>(8).map(|pointer| (pointer_path(&pointer), row.want::<i32>(9)));
            (row.want::<String>(1), row.want::<String>(2), row.want::<String>(3))
        };
        let rows = STEPS.run(spi, &[param(template_id)]);
        let mut steps = Vec::with_capacity(rows.count);
        let mut parents = Vec::with_capacity(rows.count);
        for row in rows.iter() {
            parents.push(row.want::<Vec<i32>>(1));
            steps.push(CachedStep {
                name: row.want(2),
                handler: row.want(3),
                in_database: row.want(15),
                config: row.get::<Jsonb>(4).map(Jsonb::to_bytes),
                queue_id: row.want(5),
                priority: row.want(6),
                rule: StepRule {
                    kind: StepKind::parse(&row.want::<String>(14)).unwrap_or_default(),
                    delay: Span(row.want(16)),
                    retry_limit: row.want(7),
                    retryable: row.want(8),
                    skippable: row.want(9),
                    timeout: Span(row.want(10)),
                    backoff: Backoff { base: Span(row.want(11)), cap: Span(row.want(12)), jitter: row.want(13) },
                },
            });
        }
        let label = format!("{namespace}/{name}@{version}");
        let (graph, compiled) = (Graph::from_parents(parents), OnceCell::new());
        Some(CachedTemplate {
            namespace,
            name,
            version,
            label,
            graph,
            steps,
            timeout,
            max_parallel_steps,
            concurrency,
            schema,
            compiled,
        })
    })
}

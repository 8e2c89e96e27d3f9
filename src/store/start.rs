//! New tasks with their steps. Every statement takes all tasks of a call at once.
use super::access;
use super::due;
use super::error::StoreError;
use super::graph_cache::{self, CachedTemplate};
use super::history::{self, TaskChange};
use super::limits;
use super::scope::{self, Cause, StepChange};
use super::templates;
use crate::engine::context_schema::{Missing, lines};
use crate::engine::start::{InitialStep, initial_steps};
use crate::engine::state::{StepState, TaskState};
use crate::engine::time::Timestamp;
use crate::events;
use crate::pg::array::{array, array_of_optional, column};
use crate::pg::board;
use crate::pg::catalog;
use crate::pg::heap;
use crate::pg::jsonb::Jsonb;
use crate::pg::spi::{self, Session, Statement};
use crate::pg::time;
use crate::pg::value::{no_array, optional, param};
use std::collections::{BTreeSet, HashMap, HashSet};

/// What create_task and create_tasks were asked for.
pub struct NewTasks<'a> {
    pub template: &'a str,
    pub namespace: Option<&'a str>,
    pub version: Option<&'a str>,
    pub contexts: Vec<Jsonb>,
    /// As many as contexts, or none.
    pub identity_keys: Vec<Option<String>>,
    /// Added to the priority of each step.
    pub priority: i16,
    /// `None`: now.
    pub run_at: Option<Timestamp>,
    pub tags: Option<Vec<String>>,
    pub bypass_steps: Vec<String>,
    /// `None`: the calling role.
    pub requested_by: Option<String>,
    /// The trace that they belong to, of version 00.
    pub traceparent: Option<String>,
}

static INSERT_TASKS: Statement = Statement::write(include_str!("../../sql/query/insert_tasks.sql"));
static INSERT_STEPS: Statement = Statement::write(
    "INSERT INTO stepwise.steps (task_id, template_id, queue_id, visible_at, finished_at, step_id, remaining_parents, \
         priority, state) \
     SELECT t, $2, i.queue_id, i.visible_at, i.finished_at, i.step_id, i.remaining_parents, i.priority, i.state \
     FROM unnest($1) AS t CROSS JOIN unnest($3, $4, $5, $6, $7, $8, $9) \
         AS i (queue_id, visible_at, finished_at, step_id, remaining_parents, priority, state)",
);
static HASH_CONTEXTS: Statement = Statement::write(
    "SELECT encode(sha256(convert_to($2 || i.context::text, 'UTF8')), 'hex') \
     FROM unnest($1) WITH ORDINALITY AS i (context, ord) ORDER BY i.ord",
);
// A long value is known by its hash, so that it fits an index.
static CONCURRENCY_KEYS: Statement = Statement::write(
    "SELECT CASE WHEN length(k.key) > 500 THEN encode(sha256(convert_to(k.key, 'UTF8')), 'hex') ELSE k.key END \
     FROM unnest($1) WITH ORDINALITY AS i (context, ord) \
     CROSS JOIN LATERAL (SELECT CASE WHEN jsonb_typeof(i.context #> $4) <> 'null' \
         THEN jsonb_build_array($2, $3, i.context #> $4)::text END) AS k (key) ORDER BY i.ord",
);
static FIND_BY_KEYS: Statement = Statement::write(
    "SELECT identity_key, task_id FROM stepwise.tasks WHERE template_id = $1 AND identity_key = ANY ($2)",
);

/// Creates tasks; their ids in the order of the contexts. Where an identity key is taken, the id of its task.
pub fn create(new: &NewTasks) -> Result<Vec<i64>, StoreError> {
    spi::session(|spi| {
        let found = templates::find(spi, new.template, new.namespace, new.version)?;
        let template = graph_cache::template_of_row(found.template_id);
        let steps = plan(&template, &new.bypass_steps)?;
        let contexts = contexts(&template, &new.contexts)?;
        let now = time::now();
        let (created, mut ids, taken) = insert_tasks(spi, new, &contexts, &found, &template, &steps, now);
        insert_steps(spi, new, found.template_id, &template, &steps, &created, now);
        record(spi, new, found.template_id, &template, &steps, &created, now);
        let start = new.run_at.unwrap_or(now);
        if !created.is_empty() {
            for step in steps.iter().filter(|step| step.ready) {
                let rule = template.step(step.step_id).map(|step| &step.rule);
                due::note(&template, step.step_id, rule.map_or(start, |rule| rule.visible_from(start)), now);
            }
            if let Some(timeout) = template.timeout {
                board::note(start.plus(timeout));
            }
            let roots = steps.iter().filter(|step| step.ready).filter_map(|root| template.step(root.step_id));
            let now_due = roots.filter(|step| step.rule.visible_from(start) <= now);
            let queues: BTreeSet<i64> = now_due.map(|step| step.queue_id).collect();
            events::announce_ready(queues.into_iter());
        }
        resolve_taken(spi, found.template_id, &mut ids, &taken)?;
        Ok(ids.into_iter().flatten().collect())
    })
}

/// The contexts as they are stored: checked, with the defaults that the template wants inserted.
fn contexts(template: &CachedTemplate, given: &[Jsonb]) -> Result<Vec<Jsonb>, StoreError> {
    let Some(schema) = template.context_schema() else { return Ok(given.to_vec()) };
    let mut contexts = Vec::with_capacity(given.len());
    for (index, context) in given.iter().enumerate() {
        let missing = schema.check(&context.to_text()).map_err(|violations| StoreError::ContextRefused {
            template: template.label.clone(),
            index: (given.len() > 1).then_some(index),
            violations: lines(&violations),
        })?;
        // Added to the jsonb itself: a number with many digits stays what it is.
        let insert =
            |context: Jsonb, one: &Missing| context.with(&one.path, Jsonb::from_text(&one.default.to_string()));
        contexts.push(missing.iter().fold(*context, insert));
    }
    Ok(contexts)
}

/// The first states of the steps, with those to bypass checked.
fn plan(template: &CachedTemplate, bypass: &[String]) -> Result<Vec<InitialStep>, StoreError> {
    let mut bypassed = HashSet::new();
    for name in bypass {
        let index = template.steps.iter().position(|step| step.name == *name);
        let index =
            index.ok_or_else(|| StoreError::UnknownBypass { step: name.clone(), template: template.label.clone() })?;
        if !template.steps[index].rule.skippable {
            return Err(StoreError::NotSkippable { step: name.clone(), template: template.label.clone() });
        }
        bypassed.insert(index as i32 + 1);
    }
    Ok(initial_steps(&template.graph, &bypassed))
}

/// Ids of the created tasks; ids by place, where created; keys that were taken, by place.
type Inserted = (Vec<i64>, Vec<Option<i64>>, Vec<(usize, String)>);

fn insert_tasks(
    spi: &Session,
    new: &NewTasks,
    contexts: &[Jsonb],
    found: &templates::FoundTemplate,
    template: &CachedTemplate,
    steps: &[InitialStep],
    now: Timestamp,
) -> Inserted {
    let live = steps.iter().filter(|step| step.ready).count() as i32;
    let bypassed = steps.iter().filter(|step| step.state == StepState::ResolvedManually).count() as i32;
    let state = if live == 0 { TaskState::Complete } else { TaskState::Pending };
    let requested_by = new.requested_by.clone().unwrap_or_else(catalog::actor);
    let task_ids = heap::draw(c"tasks_task_id_seq", contexts.len());
    let concurrency_keys = concurrency_keys(spi, contexts, template);
    let deadline = template.timeout.map(|timeout| new.run_at.unwrap_or(now).plus(timeout));
    let keys = identity_keys(spi, new, contexts, found, template);
    // In the order of the keys; tasks without one keep their order.
    let mut order: Vec<usize> = (0..contexts.len()).collect();
    order.sort_by(|&a, &b| keys[a].cmp(&keys[b]));
    let rows = INSERT_TASKS.run(
        spi,
        &[
            array(&order.iter().map(|&place| task_ids[place]).collect::<Vec<i64>>()),
            array(&order.iter().map(|&place| contexts[place]).collect::<Vec<Jsonb>>()),
            column(order.iter().map(|&place| keys[place].as_deref()).collect()),
            param(found.template_id),
            param(now),
            param(live),
            param(steps.len() as i32),
            param(bypassed),
            param(state.as_str()),
            param(new.priority),
            param(requested_by),
            match &new.tags {
                Some(tags) => array(tags),
                None => no_array::<String>(),
            },
            param(access::caller()),
            optional(deadline.filter(|deadline| deadline.is_finite())),
            column(order.iter().map(|&place| concurrency_keys.get(place).cloned().flatten()).collect()),
            optional(new.traceparent.as_deref()),
        ],
    );
    let inserted: HashSet<i64> = rows.iter().map(|row| row.want(1)).collect();
    make_slots(spi, template, task_ids.iter().filter(|id| inserted.contains(id)), &concurrency_keys);
    let (mut created, mut ids, mut taken) = (Vec::new(), Vec::new(), Vec::new());
    for ((place, id), key) in task_ids.into_iter().enumerate().zip(keys) {
        if inserted.contains(&id) {
            created.push(id);
            ids.push(Some(id));
        } else {
            ids.push(None);
            taken.extend(key.map(|key| (place, key)));
        }
    }
    (created, ids, taken)
}

/// The concurrency key of each task, where its template has one and its context a value for it.
fn concurrency_keys(spi: &Session, contexts: &[Jsonb], template: &CachedTemplate) -> Vec<Option<String>> {
    let Some((path, _)) = &template.concurrency else { return Vec::new() };
    let (namespace, name) = (template.namespace.as_str(), template.name.as_str());
    let rows = CONCURRENCY_KEYS.run(spi, &[array(contexts), param(namespace), param(name), array(path)]);
    rows.iter().map(|row| row.get(1)).collect()
}

/// The places under the limits of new tasks.
fn make_slots<'a>(
    spi: &Session,
    template: &CachedTemplate,
    created: impl Iterator<Item = &'a i64>,
    concurrency_keys: &[Option<String>],
) {
    if template.is_limited() {
        let mut owners: Vec<limits::Owner> =
            created.flat_map(|&task_id| limits::owners(template, task_id, None, 0, 0)).collect();
        let keys = concurrency_keys.iter().filter_map(|key| key.as_deref());
        owners.extend(keys.filter_map(|key| limits::owner_of_key(template, key)));
        limits::make(spi, &owners);
    }
}

/// The key of each task, if it has one: the given one, else what its template makes of its context.
fn identity_keys(
    spi: &Session,
    new: &NewTasks,
    contexts: &[Jsonb],
    found: &templates::FoundTemplate,
    template: &CachedTemplate,
) -> Vec<Option<String>> {
    if !found.identity_from_context {
        return new.identity_keys.clone();
    }
    let hashes = HASH_CONTEXTS.run(spi, &[array(contexts), param(format!("{}\n", template.label))]);
    let given = new.identity_keys.iter().cloned();
    given.zip(hashes.iter().map(|row| row.want(1))).map(|(given, hash)| given.or(Some(hash))).collect()
}

fn insert_steps(
    spi: &Session,
    new: &NewTasks,
    template_id: i64,
    template: &CachedTemplate,
    steps: &[InitialStep],
    created: &[i64],
    now: Timestamp,
) {
    if created.is_empty() {
        return;
    }
    let start = new.run_at.unwrap_or(now);
    let of = |step: &InitialStep| template.step(step.step_id);
    let visible =
        |step: &InitialStep| of(step).filter(|_| step.ready).map(|of_template| of_template.rule.visible_from(start));
    INSERT_STEPS.run(
        spi,
        &[
            array(created),
            param(template_id),
            array(&steps.iter().map(|step| of(step).map_or(0, |step| step.queue_id)).collect::<Vec<i64>>()),
            array_of_optional(&steps.iter().map(visible).collect::<Vec<_>>()),
            array_of_optional(&steps.iter().map(|step| step.state.is_terminal().then_some(now)).collect::<Vec<_>>()),
            array(&steps.iter().map(|step| step.step_id).collect::<Vec<i32>>()),
            array(&steps.iter().map(|step| step.remaining_parents).collect::<Vec<i32>>()),
            array(
                &steps
                    .iter()
                    .map(|step| of(step).map_or(0, |step| step.priority).saturating_add(new.priority))
                    .collect::<Vec<i16>>(),
            ),
            array(&steps.iter().map(|step| step.state.as_str()).collect::<Vec<_>>()),
        ],
    );
}

/// The history of the new tasks: their creation, their bypassed steps, their end where nothing is left to run.
fn record(
    spi: &Session,
    new: &NewTasks,
    template_id: i64,
    template: &CachedTemplate,
    steps: &[InitialStep],
    created: &[i64],
    now: Timestamp,
) {
    let task_changes = |from: Option<TaskState>, to: TaskState| -> Vec<TaskChange> {
        let traceparent = || new.traceparent.clone();
        let change = |&task_id| TaskChange { task_id, template_id, from, to, at: now, traceparent: traceparent() };
        created.iter().map(change).collect()
    };
    let cause = Cause { reason: None, actor: Some(catalog::actor()) };
    scope::writing(cause.clone(), || {
        history::record_tasks(spi, &task_changes(None, TaskState::Pending), &cause);
        let bypassed: Vec<&InitialStep> =
            steps.iter().filter(|step| step.state == StepState::ResolvedManually).collect();
        let changes: Vec<StepChange> = created
            .iter()
            .flat_map(|&task_id| bypassed.iter().map(move |step| (task_id, step.step_id)))
            .map(|(task_id, step_id)| StepChange {
                task_id,
                step_id,
                template_id,
                queue_id: template.step(step_id).map_or(0, |step| step.queue_id),
                from: StepState::Pending,
                to: StepState::ResolvedManually,
                attempt: 0,
                was_live: false,
                is_live: false,
                was_failed: false,
                is_failed: false,
                visible_at: None,
                was_limited: false,
                signalled: false,
                claimable_now: false,
                worker: None,
                error: None,
                retryable: None,
                backoff_request_seconds: None,
                at: now,
                ready_at: None,
                claimed_at: None,
            })
            .collect();
        history::record_steps(spi, &changes, &cause, |_| Some(String::from("{\"bypassed\": true}")));
        if bypassed.len() == steps.len() {
            history::record_tasks(spi, &task_changes(Some(TaskState::Pending), TaskState::Complete), &cause);
        }
    });
}

/// Fills in the ids of tasks that had their keys already.
fn resolve_taken(
    spi: &Session,
    template_id: i64,
    ids: &mut [Option<i64>],
    taken: &[(usize, String)],
) -> Result<(), StoreError> {
    if taken.is_empty() {
        return Ok(());
    }
    let keys: Vec<&str> = taken.iter().map(|(_, key)| key.as_str()).collect();
    let rows = FIND_BY_KEYS.run(spi, &[param(template_id), array(&keys)]);
    let by_key: HashMap<String, i64> = rows.iter().map(|row| (row.want(1), row.want(2))).collect();
    for (place, key) in taken {
        let id = by_key.get(key).copied();
        ids[*place] = Some(id.ok_or_else(|| StoreError::IdentityNotVisible { key: key.clone() })?);
    }
    Ok(())
}

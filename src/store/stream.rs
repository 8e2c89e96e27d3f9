//! The stream of events: the history of all tasks in the order of event ids, as far as it can be read, through the filter
//! of a subscription.
use super::columns::{TASKS_BY_KEY, tasks};
use super::error::StoreError;
use super::graph_cache::{self, CachedTemplate};
use super::subscriptions::{self, Subscription};
use crate::engine::event::{step_events, task_events};
use crate::engine::state::{StepState, TaskState};
use crate::engine::stream::{Known, look};
use crate::engine::subscription::{Filter, Origin};
use crate::engine::time::Timestamp;
use crate::pg::jsonb::Jsonb;
use crate::pg::lookup::{Key, Sees, with_fresh_snapshot};
use crate::pg::snapshot;
use crate::pg::spi::{self, Row, Rows, Session, Statement};
use crate::pg::value::param;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

static WINDOW: Statement = Statement::window(include_str!("../../sql/query/read_stream.sql"));
static ANY: Statement =
    Statement::window("SELECT EXISTS (SELECT FROM stepwise.transitions WHERE event_id > $1 AND event_id <= $2)");
static SUMMARIZE: Statement =
    Statement::write("SELECT pg_catalog.brin_summarize_new_values('stepwise.transitions_stream_idx')");

/// Event ids that are looked at in one go.
const LEAST_WINDOW: i64 = 64;
const MOST_WINDOW: i64 = 16_384;
/// Pages that a read may touch in vain before it summarizes what the index has no summary of.
const PATIENCE: i64 = 512;
/// Events that the filter passes over before that is kept.
const WORTH_KEEPING: i64 = 1_000;

/// One event, as long as its row lives.
pub struct Event<'a> {
    pub event: &'static str,
    pub event_id: i64,
    pub task_id: i64,
    pub step_id: Option<i32>,
    pub step_name: Option<&'a str>,
    pub template: Option<&'a CachedTemplate>,
    pub from: Option<&'a str>,
    pub to: &'a str,
    pub attempt: Option<i32>,
    pub at: Timestamp,
    pub worker: Option<&'a str>,
    pub actor: Option<&'a str>,
    pub metadata: Option<Jsonb>,
    /// Of the task.
    pub traceparent: Option<&'a str>,
}

/// Gives the next events of a subscription, at most so many, to `put`. `alone`: holds the subscription until the transaction
/// ends; where another transaction does, there are none.
pub fn read(name: &str, most: usize, alone: bool, mut put: impl FnMut(Event)) -> Result<(), StoreError> {
    spi::session(|spi| {
        // Before a row is locked, which gives this transaction an id of its own.
        subscriptions::at_a_moment(spi, |now| {
            let found = if alone { subscriptions::claim(spi, name)? } else { Some(subscriptions::find(spi, name)?) };
            let Some((subscription, filter)) = found else { return Ok(()) };
            let (safe_event, left) = look(subscription.known, now);
            let mut reader = Reader { spi, filter, most, given: 0, passed: subscription.position, in_vain: 0 };
            // What the subscription's row says may be younger than the moment: a row that was locked is the latest. So must be
            // what the events are read with.
            with_fresh_snapshot(|| reader.run(subscription.position, safe_event, &mut put));
            let passed = reader.passed - subscription.position;
            let keeps = passed >= WORTH_KEEPING || passed > 0 && reader.given == 0;
            if left.is_some() || keeps {
                let known = left.unwrap_or(Known { safe_event, ..subscription.known });
                subscriptions::leave(spi, &[Subscription { position: reader.passed, known, ..subscription }]);
            }
            if reader.in_vain > PATIENCE {
                summarize(spi);
            }
            Ok(())
        })
    })
}

/// Where autovacuum has not come by for long, the rows of last are in no summary, and every read goes over all of them.
fn summarize(spi: &Session) {
    if snapshot::may_write_aside() {
        snapshot::unless_maintained(c"transitions", || {
            SUMMARIZE.run(spi, &[]);
        });
    }
}

struct Reader<'a> {
    spi: &'a Session,
    filter: Filter,
    most: usize,
    given: usize,
    /// The last event before the first that was given: the filter wants none up to it.
    passed: i64,
    /// Pages of history and its index that were read beyond those of the rows found.
    in_vain: i64,
}

impl Reader<'_> {
    /// Goes from `position` to `end` in windows: what is read follows what is given, not what is there.
    fn run(&mut self, position: i64, end: i64, put: &mut impl FnMut(Event)) {
        let mut low = position;
        let mut width = (self.most as i64).clamp(LEAST_WINDOW, MOST_WINDOW);
        while low < end {
            let high = low.saturating_add(width).min(end);
            let before = snapshot::buffers_touched();
            let rows = WINDOW.run(self.spi, &[param(low), param(high)]);
            self.in_vain += (snapshot::buffers_touched() - before - rows.count as i64).max(0);
            if rows.count == 0 {
                low = self.skip(high, end);
                continue;
            }
            if self.give(&rows, put) {
                return;
            }
            low = high;
            width = (width * 2).min(MOST_WINDOW);
        }
    }

    /// The end of a gap in the history: from where on there is a row within one window.
    fn skip(&self, mut low: i64, end: i64) -> i64 {
        let any = |low: i64, high: i64| {
            ANY.run(self.spi, &[param(low), param(high)]).first().is_some_and(|row| row.want::<bool>(1))
        };
        let mut width = MOST_WINDOW;
        while low < end && !any(low, low.saturating_add(width).min(end)) {
            low = low.saturating_add(width).min(end);
            width = width.saturating_mul(2);
        }
        while width > MOST_WINDOW && low < end {
            let half = width / 2;
            if any(low, low.saturating_add(half).min(end)) {
                width = half;
            } else {
                low = low.saturating_add(half).min(end);
                width -= half;
            }
        }
        low
    }

    /// Whether that was enough.
    fn give(&mut self, rows: &Rows, put: &mut impl FnMut(Event)) -> bool {
        let tasks = tasks_of(rows);
        for row in rows.iter() {
            let (event_id, task_id) = (row.want::<i64>(1), row.want::<i64>(2));
            let step_id = row.get::<i32>(4);
            let task = tasks.get(&task_id);
            let template = task.map(|task| task.template.as_ref());
            let step = step_id.zip(template).and_then(|(step_id, template)| template.step(step_id));
            let events = self.wanted(&row, step_id, template);
            if events.is_empty() {
                if self.given == 0 {
                    self.passed = event_id;
                }
                continue;
            }
            if self.given > 0 && self.given + events.len() > self.most {
                return true;
            }
            let (from, to) = (row.get::<String>(7), row.want::<String>(8));
            let (worker, actor) = (row.get::<String>(9), row.get::<String>(10));
            self.given += events.len();
            for event in events {
                put(Event {
                    event,
                    event_id,
                    task_id,
                    step_id,
                    step_name: step.map(|step| step.name.as_str()),
                    template,
                    from: from.as_deref(),
                    to: &to,
                    attempt: row.get(5),
                    at: row.want(3),
                    worker: worker.as_deref(),
                    actor: actor.as_deref(),
                    metadata: row.get(11),
                    traceparent: task.and_then(|task| task.traceparent.as_deref()),
                });
            }
        }
        self.given >= self.most
    }

    /// The events of a row that the subscription is for. The one place where it is decided who gets which.
    fn wanted(&self, row: &Row, step_id: Option<i32>, template: Option<&CachedTemplate>) -> Vec<&'static str> {
        let queue_id =
            step_id.zip(template).and_then(|(step_id, template)| template.step(step_id)).map(|step| step.queue_id);
        let queue = queue_id.map(graph_cache::queue_name);
        let origin = Origin {
            namespace: template.map_or("", |template| &template.namespace),
            template: template.map_or("", |template| &template.name),
            queue: queue.as_deref(),
        };
        if !self.filter.wants_from(origin) {
            return Vec::new();
        }
        let (from, to) = (row.get::<String>(7), row.want::<String>(8));
        let events = match step_id {
            None => {
                let from = from.as_deref().and_then(TaskState::parse);
                TaskState::parse(&to).map(|to| task_events(from, to))
            }
            Some(_) => {
                let from = from.as_deref().and_then(StepState::parse);
                from.zip(StepState::parse(&to)).map(|(from, to)| step_events(from, to, row.get(6)))
            }
        };
        events.unwrap_or_default().iter().copied().filter(|event| self.filter.wants_event(event)).collect()
    }
}

/// What an event tells of its task.
struct OfTask {
    template: Rc<CachedTemplate>,
    traceparent: Option<String>,
}

/// The tasks that the rows speak of.
fn tasks_of(rows: &Rows) -> HashMap<i64, OfTask> {
    let task_ids: BTreeSet<i64> = rows.iter().map(|row| row.want(2)).collect();
    let mut found: Vec<(i64, i64, Option<String>)> = Vec::with_capacity(task_ids.len());
    TASKS_BY_KEY.each(Sees::Caller, Key::runs(task_ids.into_iter()), |_, row| {
        found.push((row.want(tasks::TASK_ID), row.want(tasks::TEMPLATE_ID), row.get(tasks::TRACEPARENT)));
    });
    let known = |(task_id, template_id, traceparent)| {
        Some((task_id, OfTask { template: graph_cache::template(template_id)?, traceparent }))
    };
    found.into_iter().filter_map(known).collect()
}

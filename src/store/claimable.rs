//! Which steps a claim may take: locked rows that are visible now, by priority, then age.
use super::graph_cache::{self, CachedTemplate};
use crate::engine::state::StepState;
use crate::engine::time::Timestamp;
use crate::engine::transition::attempt_left;
use crate::pg::array::array;
use crate::pg::jsonb::Jsonb;
use crate::pg::spi::{Cursor, Row, Session, Statement};
use crate::pg::value::param;
use std::rc::Rc;

/// The columns of a claimable row, locked where nobody else has locked it.
macro_rules! claimable {
    ($from:literal, $range:literal) => {
        concat!(
            "SELECT s.task_id, s.step_id, s.template_id, s.state, s.attempts, s.inputs, t.context, \
                 t.state = 'pending', s.queue_id, s.priority FROM ",
            $from,
            " JOIN stepwise.tasks t ON t.task_id = s.task_id WHERE ",
            $range,
            " ORDER BY s.visible_at FOR UPDATE OF s SKIP LOCKED"
        )
    };
}

/// The highest priority that has visible steps, per queue that is not paused.
macro_rules! top_priorities {
    ($filter:literal) => {
        concat!(
            "SELECT q.queue_id, (SELECT s.priority FROM stepwise.steps s \
                 WHERE s.queue_id = q.queue_id AND s.visible_at IS NOT NULL ORDER BY s.priority DESC LIMIT 1) \
             FROM stepwise.queues q WHERE NOT q.paused",
            $filter
        )
    };
}
static TOP_OF_ALL: Statement = Statement::write(top_priorities!(""));
static TOP_OF_NAMED: Statement = Statement::write(top_priorities!(" AND q.name = ANY ($1)"));
static NEXT_PRIORITY: Statement = Statement::write(
    "SELECT s.priority FROM stepwise.steps s \
     WHERE s.queue_id = $1 AND s.priority < $2 AND s.visible_at IS NOT NULL ORDER BY s.priority DESC LIMIT 1",
);
static RANGE: Statement =
    Statement::scan(claimable!("stepwise.steps s", "s.queue_id = $1 AND s.priority = $2 AND s.visible_at <= $3"));
// Of several queues the oldest rows are wanted. They are looked for without a lock: one on each queue's next row would
// keep it from other claims for the rest of the transaction.
static PEEK: Statement = Statement::scan(
    "SELECT task_id, step_id, visible_at FROM stepwise.steps \
     WHERE queue_id = $1 AND priority = $2 AND visible_at <= $3 ORDER BY visible_at",
);
static LOCK: Statement = Statement::write(claimable!(
    "unnest($1, $2) AS i (task_id, step_id) \
     JOIN stepwise.steps s ON s.task_id = i.task_id AND s.step_id = i.step_id",
    "s.visible_at <= $3"
));
// What most claims need, in one statement: the highest priority of one queue, unless it is paused.
static TOP_RANGE: Statement = Statement::scan(claimable!(
    "stepwise.steps s",
    "s.queue_id = (SELECT q.queue_id FROM stepwise.queues q WHERE q.name = $1 AND NOT q.paused) \
     AND s.priority = (SELECT p.priority FROM stepwise.steps p \
         WHERE p.queue_id = (SELECT q.queue_id FROM stepwise.queues q WHERE q.name = $1) \
             AND p.visible_at IS NOT NULL ORDER BY p.priority DESC LIMIT 1) \
     AND s.visible_at <= $2"
));
/// A locked row that is visible now.
pub struct Found {
    pub task_id: i64,
    pub step_id: i32,
    pub template: Rc<CachedTemplate>,
    pub state: StepState,
    pub attempts: i32,
    pub inputs: Option<Jsonb>,
    pub context: Option<Jsonb>,
    pub task_is_pending: bool,
    queue_id: i64,
    priority: i16,
}

impl Found {
    fn read(row: &Row) -> Found {
        Found {
            task_id: row.want(1),
            step_id: row.want(2),
            template: graph_cache::template_of_row(row.want(3)),
            state: StepState::parse(&row.want::<String>(4)).unwrap_or(StepState::Cancelled),
            attempts: row.want(5),
            inputs: row.keep(6),
            context: row.keep(7),
            task_is_pending: row.want(8),
            queue_id: row.want(9),
            priority: row.want(10),
        }
    }

    pub fn has_attempt_left(&self) -> bool {
        self.template.step(self.step_id).is_some_and(|step| attempt_left(self.attempts, &step.rule))
    }
}

/// Leases without a further attempt that one claim ends at most, so that it stays short after all workers have died.
const MAX_ENDED: usize = 1000;

/// Locks claimable rows in order. A row whose lease has expired with no attempt left is returned beyond the number
/// asked for, because it will not be handed out.
pub fn find(spi: &Session, queues: Option<&[String]>, max_steps: usize, now: Timestamp) -> Vec<Found> {
    let mut found = Vec::new();
    let mut wanted = max_steps;
    let mut ranges = Vec::new();
    if let Some([queue]) = queues {
        wanted -= take(&TOP_RANGE.open(spi, &[param(queue.as_str()), param(now)]), wanted, &mut found);
        if wanted == 0 {
            return found;
        }
        // Rows found here are locked by this very transaction and would be found again: go on below them.
        if let Some((queue_id, priority)) = found.first().map(|row| (row.queue_id, row.priority)) {
            ranges.extend(next_priority(spi, queue_id, priority));
            return find_in(spi, ranges, wanted, found, now);
        }
    }
    let rows = match queues {
        Some(queues) => TOP_OF_NAMED.run(spi, &[array(queues)]),
        None => TOP_OF_ALL.run(spi, &[]),
    };
    ranges.extend(rows.iter().filter_map(|row| Some((row.want(1), row.get(2)?))));
    find_in(spi, ranges, wanted, found, now)
}

fn next_priority(spi: &Session, queue_id: i64, below: i16) -> Option<(i64, i16)> {
    let rows = NEXT_PRIORITY.run(spi, &[param(queue_id), param(below)]);
    rows.first().map(|row| (queue_id, row.want(1)))
}

/// Goes through ranges of (queue, priority), the highest priority first, and on to lower ones of the same queues.
fn find_in(
    spi: &Session,
    mut ranges: Vec<(i64, i16)>,
    mut wanted: usize,
    mut found: Vec<Found>,
    now: Timestamp,
) -> Vec<Found> {
    let most = found.len() + wanted + MAX_ENDED;
    while wanted > 0 && found.len() < most {
        let Some(priority) = ranges.iter().map(|range| range.1).max() else { break };
        let (mut now_due, mut rest): (Vec<_>, Vec<_>) = ranges.into_iter().partition(|range| range.1 == priority);
        now_due.sort_unstable();
        let open =
            |range: &'static Statement, of: &(i64, i16)| range.open(spi, &[param(of.0), param(of.1), param(now)]);
        wanted -= match now_due.as_slice() {
            [one] => take(&open(&RANGE, one), wanted, &mut found),
            several => {
                let cursors: Vec<Cursor> = several.iter().map(|of| open(&PEEK, of)).collect();
                take_oldest(spi, &cursors, wanted, &mut found, now)
            }
        };
        if wanted > 0 {
            rest.extend(now_due.into_iter().filter_map(|(queue_id, below)| next_priority(spi, queue_id, below)));
        }
        ranges = rest;
    }
    found
}

/// Takes rows of one range in order; returns how many of them can be handed out.
fn take(cursor: &Cursor, wanted: usize, found: &mut Vec<Found>) -> usize {
    let most = found.len() + wanted + MAX_ENDED;
    let mut usable = 0;
    while usable < wanted && found.len() < most {
        let rows = cursor.fetch(wanted - usable);
        let complete = rows.count < wanted - usable;
        usable += rows.iter().map(|row| keep(Found::read(&row), found)).sum::<usize>();
        if complete {
            break;
        }
    }
    usable
}

/// A row that was only looked at.
type Peeked = (Timestamp, i64, i32);

/// Takes the oldest rows of several ranges of one priority; returns how many of them can be handed out.
fn take_oldest(spi: &Session, cursors: &[Cursor], wanted: usize, found: &mut Vec<Found>, now: Timestamp) -> usize {
    let most = found.len() + wanted + MAX_ENDED;
    let next = |cursor: &Cursor| cursor.fetch(1).first().map(|row| (row.want(3), row.want(1), row.want(2)));
    let mut heads: Vec<Option<Peeked>> = cursors.iter().map(next).collect();
    let mut usable = 0;
    while usable < wanted && found.len() < most {
        let (mut task_ids, mut step_ids): (Vec<i64>, Vec<i32>) = (Vec::new(), Vec::new());
        while task_ids.len() < wanted - usable {
            let oldest = (0..heads.len()).filter(|&i| heads[i].is_some()).min_by_key(|&i| heads[i]);
            let Some((oldest, (_, task_id, step_id))) = oldest.and_then(|i| Some((i, heads[i]?))) else { break };
            task_ids.push(task_id);
            step_ids.push(step_id);
            heads[oldest] = next(&cursors[oldest]);
        }
        if task_ids.is_empty() {
            break;
        }
        // Fewer than were looked at where another claim has been quicker.
        let rows = LOCK.run(spi, &[array(&task_ids), array(&step_ids), param(now)]);
        usable += rows.iter().map(|row| keep(Found::read(&row), found)).sum::<usize>();
    }
    usable
}

/// Keeps a row that can be handed out or whose last lease has expired; returns how many can be handed out.
fn keep(row: Found, found: &mut Vec<Found>) -> usize {
    let usable = row.has_attempt_left();
    // Attempts used up by an operator's hand: nobody can run it, and nothing is expired about it.
    if usable || row.state == StepState::InProgress {
        found.push(row);
    }
    usize::from(usable)
}

//! Which steps a claim may take: locked rows that are visible now, by priority, then age, each with its places under the
//! limits that it is under. What time has decided about the rows met on the way (`settle`) is done here too.
use super::access::{self, Restriction, of_namespaces};
use super::columns::steps as step;
use super::found::Found;
use super::limits::{self, Owner};
use super::of_task;
use super::queue::{self, Range};
use super::settle::{self, Hold};
use crate::engine::explain::Limit;
use crate::engine::state::StepState;
use crate::engine::time::{Span, Timestamp};
use crate::pg::array::array;
use crate::pg::planted::{Bug, planted};
use crate::pg::queue_index::Range as Part;
use crate::pg::spi::{Cursor, Session, Statement};
use crate::pg::trigger::SlotRow;
use crate::pg::value::{Param, optional, param};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

/// The columns of a claimable row, locked where nobody else has locked it.
macro_rules! claimable {
    ($from:expr, $range:expr) => {
        concat!(
            "SELECT s.task_id, s.step_id, s.template_id, s.state, s.attempts, s.inputs, t.context, \
                 t.state = 'pending', s.queue_id, s.priority, t.deadline, t.concurrency_key, t.traceparent FROM ",
            $from,
            " JOIN stepwise.tasks t ON t.task_id = s.task_id WHERE ",
            $range,
            " ORDER BY s.visible_at FOR UPDATE OF s SKIP LOCKED"
        )
    };
}

/// A step under a limit of its task or its concurrency key that is reached, as far as can be seen, is passed over before
/// its row is locked. A place whose holder's lease is over is as good as free.
macro_rules! has_place {
    () => {
        " AND NOT EXISTS (SELECT FROM (VALUES ('task', t.task_id, ''), ('key', 0, t.concurrency_key)) \
             AS o (kind, owner_id, key) \
         WHERE EXISTS (SELECT FROM stepwise.slots b \
                 WHERE b.kind = o.kind AND b.owner_id = o.owner_id AND b.key = o.key) \
             AND NOT EXISTS (SELECT FROM stepwise.slots b WHERE b.kind = o.kind AND b.owner_id = o.owner_id \
                 AND b.key = o.key AND (b.task_id IS NULL OR EXISTS (SELECT FROM stepwise.steps h \
                     WHERE h.task_id = b.task_id AND h.step_id = b.step_id AND h.visible_at <= $3))))"
    };
}

/// A step with a SQL handler.
macro_rules! in_database {
    () => {
        " AND EXISTS (SELECT FROM stepwise.template_steps r \
             WHERE r.template_id = s.template_id AND r.step_id = s.step_id AND r.in_database)"
    };
}

/// A step of a task that this role ($4; NULL: anybody) has created.
macro_rules! of_role {
    () => {
        " AND ($4 IS NULL OR t.created_by = $4)"
    };
}

/// The steps of one queue and priority that are visible now.
macro_rules! in_range {
    () => {
        "s.queue_id = $1 AND s.priority = $2 AND s.visible_at <= $3"
    };
}

// Limited queues that have a place left, or one that is held by a step whose lease is over.
static WITH_PLACE: Statement = Statement::write(
    "SELECT q.queue_id FROM unnest($2, $3) AS q (queue_id, max_in_flight) WHERE EXISTS ( \
         SELECT FROM stepwise.slots b WHERE b.kind = 'queue' AND b.owner_id = q.queue_id AND b.key = '' \
             AND (b.task_id IS NULL AND b.number <= q.max_in_flight OR EXISTS (SELECT FROM stepwise.steps h \
                 WHERE h.task_id = b.task_id AND h.step_id = b.step_id AND h.visible_at <= $1)))",
);

// What takes no condition is read without a statement (`queue`). Of one queue: rows are locked as they are fetched.
static RANGE_WITH_PLACE: Statement =
    Statement::scan(claimable!("stepwise.steps s", concat!(in_range!(), has_place!())));
static RANGE_IN_DATABASE: Statement =
    Statement::scan(claimable!("stepwise.steps s", concat!(in_range!(), has_place!(), in_database!(), of_role!())));

// Of several queues the oldest rows are wanted. They are looked for without a lock: one on each queue's next row would
// keep it from other claims for the rest of the transaction.
macro_rules! peek {
    ($more:expr) => {
        concat!("SELECT s.task_id, s.step_id, s.visible_at FROM stepwise.steps s ", $more, " ORDER BY s.visible_at")
    };
}
macro_rules! peek_with_task {
    ($more:expr) => {
        peek!(concat!("JOIN stepwise.tasks t ON t.task_id = s.task_id WHERE ", in_range!(), $more))
    };
}
// The same for a caller who is restricted to namespaces. A filter on the row: the index knows none.
static RANGE_OF_WITH_PLACE: Statement =
    Statement::scan(claimable!("stepwise.steps s", concat!(in_range!(), of_namespaces!("s", "$4"), has_place!())));
static RANGE_OF_IN_DATABASE: Statement = Statement::scan(claimable!(
    "stepwise.steps s",
    concat!(in_range!(), of_namespaces!("s", "$5"), has_place!(), in_database!(), of_role!())
));
static PEEK_OF_WITH_PLACE: Statement =
    Statement::scan(peek_with_task!(concat!(of_namespaces!("s", "$4"), has_place!())));
static PEEK_OF_IN_DATABASE: Statement =
    Statement::scan(peek_with_task!(concat!(of_namespaces!("s", "$5"), has_place!(), in_database!(), of_role!())));
static PEEK_WITH_PLACE: Statement = Statement::scan(peek_with_task!(has_place!()));
static PEEK_IN_DATABASE: Statement =
    Statement::scan(peek_with_task!(concat!(has_place!(), in_database!(), of_role!())));
static LOCK: Statement = Statement::write(claimable!(
    "unnest($1, $2) AS i (task_id, step_id) \
     JOIN stepwise.steps s ON s.task_id = i.task_id AND s.step_id = i.step_id",
    "s.visible_at <= $3"
));

/// Where a claim looks.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// `None`: every queue.
    Queues(Option<&'a [String]>),
    /// Only steps with SQL handlers; of tasks that this role has created, if it is given.
    InDatabase { queues: Option<&'a [String]>, role: Option<&'a str> },
    /// Only steps with SQL handlers of this task.
    Task(i64),
}

type Key = (i64, i32);

/// Rows that cannot be handed out which one claim deals with at most, so that it stays short after all workers have
/// died.
const MAX_ENDED: usize = 1000;
/// Looks at one range again at most, for rows whose limits have places left.
const MAX_ROUNDS: usize = 16;

/// Locks claimable rows in order, and takes their places under limits.
pub fn find(spi: &Session, source: Source, max_steps: usize, now: Timestamp) -> Vec<Found> {
    let role = match source {
        Source::InDatabase { role, .. } => optional(role),
        _ => optional(None::<&str>),
    };
    let only = access::restriction();
    let mut search = Search {
        spi,
        now,
        most: max_steps,
        in_database: matches!(source, Source::InDatabase { .. }),
        role,
        namespaces: only.as_ref().map(Restriction::names),
        only,
        max_in_flight: HashMap::new(),
        found: Vec::new(),
        ended: 0,
        blocked: HashSet::new(),
        holds_tasks: false,
    };
    match source {
        Source::Task(task_id) => search.of_task(task_id),
        Source::Queues(queues) | Source::InDatabase { queues, .. } => search.of_queues(queues),
    }
    search.found
}

struct Search<'a> {
    spi: &'a Session,
    now: Timestamp,
    most: usize,
    in_database: bool,
    role: Param,
    /// `None`: all namespaces.
    only: Option<Restriction>,
    /// Those of `only`, for statements.
    namespaces: Option<Param>,
    /// The queues met that are limited.
    max_in_flight: HashMap<i64, i32>,
    found: Vec<Found>,
    /// Rows met that were not handed out.
    ended: usize,
    /// Rows that are locked, but whose limits were reached.
    blocked: HashSet<Key>,
    /// It has locked tasks, and may wait for no other one.
    holds_tasks: bool,
}

impl Search<'_> {
    fn wanted(&self) -> usize {
        self.most - self.found.len()
    }

    fn is_done(&self) -> bool {
        self.wanted() == 0 || self.ended >= MAX_ENDED
    }

    fn of_task(&mut self, task_id: i64) {
        let (mut batch, max_in_flight) = of_task::lock(task_id, self.now);
        self.max_in_flight.extend(max_in_flight);
        // Those that limits keep back make room for others.
        while !batch.is_empty() && !self.is_done() {
            let rest = batch.split_off(batch.len().min(self.wanted()));
            self.accept(std::mem::replace(&mut batch, rest));
        }
    }

    fn of_queues(&mut self, queues: Option<&[String]>) {
        let mut ranges: Vec<Range> = Vec::new();
        let index = queue::index();
        for queue in queue::open(self.spi, queues) {
            let Some(range) = queue::next_due(&index, queue.queue_id, None, self.now) else { continue };
            if queue.max_in_flight > 0 {
                self.max_in_flight.insert(queue.queue_id, queue.max_in_flight);
            }
            ranges.push(range);
        }
        drop(index);
        if !self.max_in_flight.is_empty() {
            let with_place = self.with_place();
            ranges.retain(|range| !self.max_in_flight.contains_key(&range.0) || with_place.contains(&range.0));
        }
        self.of_ranges(ranges);
    }

    fn with_place(&self) -> HashSet<i64> {
        let (ids, most): (Vec<i64>, Vec<i32>) = self.max_in_flight.iter().map(|(id, most)| (*id, *most)).unzip();
        let rows = WITH_PLACE.run(self.spi, &[param(self.now), array(&ids), array(&most)]);
        rows.iter().map(|row| row.want(1)).collect()
    }

    /// Goes through ranges, the highest priority first, and on to lower ones of the same queues.
    fn of_ranges(&mut self, mut ranges: Vec<Range>) {
        while !self.is_done() {
            let priorities = || ranges.iter().map(|range| range.1);
            let first = if planted(Bug::PriorityReversed) { priorities().min() } else { priorities().max() };
            let Some(priority) = first else { break };
            let (mut now_due, mut rest): (Vec<_>, Vec<_>) = ranges.into_iter().partition(|range| range.1 == priority);
            now_due.sort_unstable();
            let limited = if self.in_database {
                let (one, several) = match self.namespaces {
                    None => (&RANGE_IN_DATABASE, &PEEK_IN_DATABASE),
                    Some(_) => (&RANGE_OF_IN_DATABASE, &PEEK_OF_IN_DATABASE),
                };
                self.take(&now_due, one, several)
            } else {
                let batch = self.read_in_order(&now_due);
                self.accept(batch)
            };
            if limited {
                self.look_again(&now_due);
            }
            if !self.is_done() {
                let index = queue::index();
                let next = |(queue_id, priority)| queue::next_due(&index, queue_id, Some(priority), self.now);
                rest.extend(now_due.into_iter().filter_map(next));
            }
            ranges = rest;
        }
    }

    /// Locks the oldest rows of several ranges of one priority, straight from the index.
    fn read_in_order(&self, ranges: &[Range]) -> Vec<Found> {
        let starts: Vec<Option<Timestamp>> = ranges.iter().map(|&range| queue::start_of(range)).collect();
        let part = |place: usize, from, to| Part { queue_id: ranges[place].0, priority: ranges[place].1, from, to };
        let from_marks = |(place, start): (usize, &Option<Timestamp>)| {
            part(place, start.unwrap_or(Timestamp::NEG_INFINITY), self.now)
        };
        let mut batch = Vec::new();
        let parts: Vec<Part> = starts.iter().enumerate().map(from_marks).collect();
        self.read_parts(&parts, &mut batch, &starts);
        let older = |(place, start): (usize, &Option<Timestamp>)| {
            start.map(|start| part(place, Timestamp::NEG_INFINITY, start.plus(Span(-1))))
        };
        let parts: Vec<Part> = starts.iter().enumerate().filter_map(older).collect();
        if !parts.is_empty() && self.usable(&batch) < self.wanted() {
            self.read_parts(&parts, &mut batch, &[]);
        }
        batch
    }

    fn usable(&self, batch: &[Found]) -> usize {
        batch.iter().filter(|row| row.is_usable(self.now)).count()
    }

    /// Adds locked rows of these parts, the oldest first, until as many as are wanted can be handed out.
    fn read_parts(&self, parts: &[Part], batch: &mut Vec<Found>, starts: &[Option<Timestamp>]) {
        let started = Instant::now();
        let index = queue::index();
        let mut reading = index.read(parts);
        let time = |row: &SlotRow| row.get(step::VISIBLE_AT);
        let is_claimable = |row: &SlotRow| {
            let (queue_id, priority) = (row.want::<i64>(step::QUEUE_ID), row.want::<i16>(step::PRIORITY));
            row.get::<Timestamp>(step::VISIBLE_AT).is_some_and(|visible_at| visible_at <= self.now)
                && parts.iter().any(|part| part.queue_id == queue_id && part.priority == priority)
                && !self.is_mine((row.want(step::TASK_ID), row.want(step::STEP_ID)))
                && self.only.as_ref().is_none_or(|only| only.has_template(row.want(step::TEMPLATE_ID)))
        };
        let (wanted, mut usable, mut more) = (self.wanted(), self.usable(batch), true);
        while more && usable < wanted && batch.len() < wanted + MAX_ENDED {
            let mut rows = Vec::with_capacity(wanted - usable);
            while more && rows.len() < wanted - usable {
                let row = reading.lock_next(time, is_claimable, Found::of_step);
                more = row.is_some();
                rows.extend(row);
            }
            let rows = Found::with_tasks(rows);
            usable += self.usable(&rows);
            batch.extend(rows);
        }
        for (place, part) in parts.iter().enumerate() {
            let (passed, first) = reading.passed(place);
            let from_mark = starts.get(place).is_some_and(Option::is_some);
            let first = if starts.is_empty() { first.or(Some(part.to)) } else { first };
            queue::learn((part.queue_id, part.priority), passed, first, (!from_mark).then(|| started.elapsed()));
        }
    }

    /// Takes what is left of these ranges where rows met there were under limits that are reached.
    fn look_again(&mut self, ranges: &[Range]) {
        let (one, several) = match (self.in_database, self.namespaces) {
            (true, None) => (&RANGE_IN_DATABASE, &PEEK_IN_DATABASE),
            (false, None) => (&RANGE_WITH_PLACE, &PEEK_WITH_PLACE),
            (true, Some(_)) => (&RANGE_OF_IN_DATABASE, &PEEK_OF_IN_DATABASE),
            (false, Some(_)) => (&RANGE_OF_WITH_PLACE, &PEEK_OF_WITH_PLACE),
        };
        for _ in 0..MAX_ROUNDS {
            if self.is_done() || !self.take(ranges, one, several) {
                break;
            }
        }
    }

    /// Takes rows of ranges of one priority in order; whether limits kept some of them back.
    fn take(&mut self, ranges: &[Range], one: &'static Statement, several: &'static Statement) -> bool {
        let (now, role) = (param(self.now), self.role);
        let params = |range: &Range| {
            let mut params = vec![param(range.0), param(range.1), now];
            if self.in_database {
                params.push(role);
            }
            params.extend(self.namespaces);
            params
        };
        match ranges {
            [range] => {
                let cursor = one.open(self.spi, &params(range));
                let batch = self.fetch(&cursor);
                drop(cursor);
                self.accept(batch)
            }
            ranges => {
                let cursors: Vec<Cursor> = ranges.iter().map(|range| several.open(self.spi, &params(range))).collect();
                let batch = self.fetch_oldest(&cursors);
                drop(cursors);
                self.accept(batch)
            }
        }
    }

    /// Reads rows of one range in order until as many as are wanted can be handed out.
    fn fetch(&self, cursor: &Cursor) -> Vec<Found> {
        let wanted = self.wanted();
        let (mut batch, mut usable) = (Vec::new(), 0);
        while usable < wanted && batch.len() < wanted + MAX_ENDED {
            let rows = cursor.fetch(wanted - usable);
            let complete = rows.count < wanted - usable;
            usable += self.read(&rows, &mut batch);
            if complete {
                break;
            }
        }
        batch
    }

    /// Reads the oldest rows of several ranges of one priority.
    fn fetch_oldest(&self, cursors: &[Cursor]) -> Vec<Found> {
        let wanted = self.wanted();
        let next = |cursor: &Cursor| cursor.fetch(1).first().map(|row| (row.want(3), row.want(1), row.want(2)));
        let mut heads: Vec<Option<Peeked>> = cursors.iter().map(next).collect();
        let (mut batch, mut usable) = (Vec::new(), 0);
        while usable < wanted && batch.len() < wanted + MAX_ENDED {
            let (mut task_ids, mut step_ids): (Vec<i64>, Vec<i32>) = (Vec::new(), Vec::new());
            while task_ids.len() < wanted - usable {
                let oldest = (0..heads.len()).filter(|&i| heads[i].is_some()).min_by_key(|&i| heads[i]);
                let Some((oldest, (_, task_id, step_id))) = oldest.and_then(|i| Some((i, heads[i]?))) else { break };
                if !self.is_mine((task_id, step_id)) {
                    task_ids.push(task_id);
                    step_ids.push(step_id);
                }
                heads[oldest] = next(&cursors[oldest]);
            }
            if task_ids.is_empty() {
                break;
            }
            // Fewer than were looked at where another claim has been quicker.
            let rows = LOCK.run(self.spi, &[array(&task_ids), array(&step_ids), param(self.now)]);
            usable += self.read(&rows, &mut batch);
        }
        batch
    }

    /// Rows met before are locked by this very transaction and are found again when it looks again.
    fn is_mine(&self, key: Key) -> bool {
        !self.blocked.is_empty() && (self.blocked.contains(&key) || self.found.iter().any(|found| found.key() == key))
    }

    /// Reads rows; returns how many of them can be handed out.
    fn read(&self, rows: &crate::pg::spi::Rows, batch: &mut Vec<Found>) -> usize {
        let before = batch.len();
        batch.extend(rows.iter().map(|row| Found::read(&row)).filter(|row| !self.is_mine(row.key())));
        self.usable(&batch[before..])
    }

    /// Locks the tasks of which something ends, and those that begin with a claim, before anything is changed: all that is
    /// known by now at once, by key, and what is met later only if nobody else has it. Keeps the rows whose tasks need no
    /// lock, or have one.
    fn hold_tasks(&mut self, batch: Vec<Found>) -> Vec<Found> {
        let now = self.now;
        let ends = |row: &Found| row.state == StepState::InProgress || row.waits() || row.is_overdue(now);
        let needed = |row: &Found| row.task_is_pending || ends(row);
        if !self.holds_tasks && !batch.iter().any(ends) {
            return batch;
        }
        let held = self.hold(batch.iter().filter(|row| needed(row)).map(|row| row.task_id).collect());
        batch.into_iter().filter(|row| !needed(row) || held.contains(&row.task_id)).collect()
    }

    fn hold(&mut self, mut task_ids: Vec<i64>) -> HashSet<i64> {
        let how = if self.holds_tasks { Hold::Free } else { Hold::Waiting };
        if !self.holds_tasks {
            task_ids.extend(self.found.iter().filter(|row| row.task_is_pending).map(|row| row.task_id));
        }
        self.holds_tasks = true;
        settle::hold(self.spi, task_ids, how)
    }

    /// Settles what time has decided about these rows and keeps those that can be handed out; whether limits kept some
    /// of them back.
    fn accept(&mut self, batch: Vec<Found>) -> bool {
        let batch = self.hold_tasks(batch);
        let attempts = batch.iter().filter(|row| row.state == StepState::InProgress);
        settle::expire_leases(self.spi, attempts.map(Found::key).collect());
        let waits = batch.iter().filter(|row| row.waits() && row.state == StepState::Pending);
        settle::fail_waits(self.spi, waits.map(Found::key).collect());
        let overdue = batch.iter().filter(|row| row.is_overdue(self.now));
        settle::end_overdue(self.spi, overdue.map(|row| row.task_id).collect(), self.now);
        let met = batch.len();
        let (usable, _) = batch.into_iter().partition::<Vec<_>, _>(|row| row.is_usable(self.now));
        self.ended += met - usable.len();
        let limited = |row: &Found| row.template.is_limited() || self.max_in_flight.contains_key(&row.queue_id);
        if usable.iter().any(limited) {
            return self.admit(usable);
        }
        self.found.extend(usable);
        false
    }

    fn owners(&self, row: &Found) -> Vec<Owner> {
        let max_in_flight = self.max_in_flight.get(&row.queue_id).copied().unwrap_or(0);
        limits::owners(&row.template, row.task_id, row.concurrency_key.as_deref(), row.queue_id, max_in_flight)
    }

    /// Takes places for those rows that are under limits; whether some of them got none. Places of a queue are asked for
    /// last, for rows that have all others: what is locked and not taken is nobody's until the transaction ends.
    fn admit(&mut self, usable: Vec<Found>) -> bool {
        let met = usable.len();
        let mut taken: HashMap<Key, Vec<i64>> = HashMap::new();
        let narrow = self.with_places(usable, |owner| owner.limit != Limit::Queue, &mut taken);
        let admitted = self.with_places(narrow, |owner| owner.limit == Limit::Queue, &mut taken);
        let mut slots = Vec::new();
        let kept = admitted.len();
        for mut row in admitted {
            let of_row = taken.remove(&row.key()).unwrap_or_default();
            row.limited = !of_row.is_empty();
            slots.extend(of_row.into_iter().map(|slot| (slot, row.task_id, row.step_id)));
            self.found.push(row);
        }
        limits::assign(self.spi, &slots);
        kept < met
    }

    /// The rows for which there is a place under each of these limits, with the places locked.
    fn with_places(
        &mut self,
        rows: Vec<Found>,
        of: impl Fn(&Owner) -> bool,
        taken: &mut HashMap<Key, Vec<i64>>,
    ) -> Vec<Found> {
        let owners = |search: &Self, row: &Found| search.owners(row).into_iter().filter(&of).collect::<Vec<Owner>>();
        let mut wanted: BTreeMap<Owner, i32> = BTreeMap::new();
        for owner in rows.iter().flat_map(|row| owners(self, row)) {
            *wanted.entry(owner).or_default() += 1;
        }
        if wanted.is_empty() {
            return rows;
        }
        let mut free = limits::free(self.spi, &wanted);
        let has = |free: &BTreeMap<Owner, Vec<i64>>, owner: &Owner| free.get(owner).map_or(0, Vec::len);
        let short: Vec<Owner> = wanted
            .iter()
            .filter(|(owner, n)| has(&free, owner) < **n as usize)
            .map(|(owner, _)| owner.clone())
            .collect();
        if !short.is_empty() {
            let (spi, now) = (self.spi, self.now);
            let begin = rows.iter().filter(|row| row.task_is_pending).map(|row| row.task_id);
            if limits::regain(spi, &short, now, |task_ids| self.hold(begin.chain(task_ids).collect())) {
                free = limits::free(self.spi, &wanted);
            }
        }
        let mut kept = Vec::with_capacity(rows.len());
        for row in rows {
            let owners = owners(self, &row);
            if owners.iter().all(|owner| has(&free, owner) > 0) {
                let slots = owners.iter().filter_map(|owner| free.get_mut(owner)?.pop());
                taken.entry(row.key()).or_default().extend(slots);
                kept.push(row);
            } else {
                self.blocked.insert(row.key());
            }
        }
        kept
    }
}

/// A row that was only looked at.
type Peeked = (Timestamp, i64, i32);

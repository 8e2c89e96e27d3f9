//! Where a claim looks: queues that are open, their priorities that have something due, and from where on.
//!
//! While a long transaction holds back vacuum, the entries of claimed and finished steps stay at the head of each range,
//! and a scan from there passes over all of them. A backend that has passed over many remembers where the first live row
//! stood and begins there for a while. It looks at what is older whenever it finds too little, and now and then anyway, for
//! steps that have become visible behind it: nothing is lost, and nothing waits for long.
use super::columns::{QUEUES_BY_KEY, STEPS_QUEUE, queues as column};
use crate::engine::time::Timestamp;
use crate::pg::array::array;
use crate::pg::lookup::{Key, Sees};
use crate::pg::queue_index::QueueIndex;
use crate::pg::spi::{Session, Statement};
use crate::pg::trigger::SlotRow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A queue that is not paused.
pub struct OpenQueue {
    pub queue_id: i64,
    /// 0: no limit.
    pub max_in_flight: i32,
}

static BY_NAME: Statement = Statement::fresh("SELECT name, queue_id FROM stepwise.queues WHERE name = ANY ($1)");

thread_local! {
    /// Ids of queues met. Queues are never renamed, but the row is read and compared on every use: the transaction that made
    /// it may have been rolled back.
    static IDS: RefCell<HashMap<String, i64>> = RefCell::default();
    static MARKS: RefCell<HashMap<Range, Mark>> = RefCell::default();
}

/// A queue and a priority.
pub type Range = (i64, i16);

/// The queues of these names (`None`: all) that are open.
pub fn open(spi: &Session, names: Option<&[String]>) -> Vec<OpenQueue> {
    let mut open = Vec::new();
    let mut read = |row: &SlotRow| {
        if !row.want::<bool>(column::PAUSED) {
            open.push(OpenQueue {
                queue_id: row.want(column::QUEUE_ID),
                max_in_flight: row.want(column::MAX_IN_FLIGHT),
            });
        }
    };
    let Some(names) = names else {
        QUEUES_BY_KEY.each(Sees::Now, std::iter::once(Key::Run(i64::MIN, i64::MAX)), |_, row| read(row));
        return open;
    };
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let known: Vec<(&str, i64)> = IDS
        .with_borrow(|ids| names.iter().filter_map(|&name| ids.get(name).map(|&queue_id| (name, queue_id))).collect());
    let mut found: Vec<&str> = Vec::with_capacity(known.len());
    let keys = known.iter().map(|&(_, queue_id)| Key::Run(queue_id, queue_id));
    QUEUES_BY_KEY.each(Sees::Now, keys, |place, row| {
        if row.text(column::NAME) == known[place].0 {
            found.push(known[place].0);
            read(row);
        }
    });
    names.retain(|name| !found.contains(name));
    if !names.is_empty() {
        let ids = look_up(spi, &names);
        let keys = ids.iter().map(|&queue_id| Key::Run(queue_id, queue_id));
        QUEUES_BY_KEY.each(Sees::Now, keys, |_, row| read(row));
    }
    open
}

fn look_up(spi: &Session, names: &[&str]) -> Vec<i64> {
    let rows = BY_NAME.run(spi, &[array(names)]);
    let found = rows.iter().map(|row| (row.want::<String>(1), row.want::<i64>(2)));
    IDS.with_borrow_mut(|ids| {
        let ids_found = found.map(|(name, queue_id)| {
            ids.insert(name, queue_id);
            queue_id
        });
        ids_found.collect()
    })
}

/// The queue of all steps, with what is committed by now.
pub fn index() -> QueueIndex {
    QueueIndex::open(STEPS_QUEUE.0, STEPS_QUEUE.1)
}

/// The highest priority of a queue, below this one if it is given, that seems to have something due.
pub fn next_due(index: &QueueIndex, queue_id: i64, below: Option<i16>, now: Timestamp) -> Option<Range> {
    let mut at_most = match below {
        Some(below) => below.checked_sub(1)?,
        None => i16::MAX,
    };
    loop {
        let (priority, earliest) = index.top(queue_id, at_most)?;
        if earliest <= now {
            return Some((queue_id, priority));
        }
        at_most = priority.checked_sub(1)?;
    }
}

/// Where to begin in a range, and until when.
struct Mark {
    from: Timestamp,
    until: Instant,
}

/// Entries passed over by one scan from which on a mark pays.
const MANY: usize = 100;
/// Part of the time that may go into scans from the very beginning, and the longest between two of them.
const SHARE: u32 = 20;
const LONGEST: Duration = Duration::from_secs(2);
const MOST_MARKS: usize = 1000;

/// From where on to read a range; `None`: from its beginning.
pub fn start_of(range: Range) -> Option<Timestamp> {
    MARKS.with_borrow(|marks| marks.get(&range).filter(|mark| Instant::now() < mark.until).map(|mark| mark.from))
}

/// Learns from a scan of a range: how many entries of rows that are gone it passed over, the time of its first row, and, if
/// it began at the very beginning, how long it took.
pub fn learn(range: Range, passed: usize, first: Option<Timestamp>, from_beginning: Option<Duration>) {
    MARKS.with_borrow_mut(|marks| {
        let pays = passed >= MANY;
        match (from_beginning, first) {
            (Some(took), Some(from)) if pays => {
                if marks.len() >= MOST_MARKS {
                    marks.clear();
                }
                marks.insert(range, Mark { from, until: Instant::now() + (took * SHARE).min(LONGEST) });
            }
            (Some(_), _) if !marks.is_empty() => drop(marks.remove(&range)),
            (None, Some(from)) if pays => {
                marks.entry(range).and_modify(|mark| mark.from = from);
            }
            _ => {}
        }
    });
}

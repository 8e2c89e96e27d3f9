//! The queue of claimable steps read straight from its index: which priorities it holds, and the rows of some ranges of
//! it, oldest first, each locked when it is reached, as `FOR UPDATE SKIP LOCKED` locks them. The caller answers for the
//! right to do so.
use super::catalog::relation;
use super::lookup::begin;
use super::row_lock::lock;
use super::trigger::SlotRow;
use crate::engine::time::Timestamp;
use pgrx::pg_sys::{self, Datum, ScanDirection, ScanKeyData};
use std::ffi::CStr;

/// An open index on (queue bigint, priority smallint descending, time timestamptz), with its table.
pub struct QueueIndex {
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
}

/// A part of one queue and priority.
#[derive(Clone, Copy)]
pub struct Range {
    pub queue_id: i64,
    pub priority: i16,
    /// Both included.
    pub from: Timestamp,
    pub to: Timestamp,
}

fn condition(column: i16, strategy: u32, function: u32, value: Datum) -> ScanKeyData {
    let mut condition = ScanKeyData::default();
    // SAFETY: initializes the condition; the function compares what the strategy and the value say.
    unsafe { pg_sys::ScanKeyInit(&mut condition, column, strategy as _, pg_sys::Oid::from(function), value) };
    condition
}

impl QueueIndex {
    /// The index on the columns named above, with what is committed by now; the table's lock stays until the transaction
    /// ends.
    pub fn open(table: &'static CStr, index: &'static CStr) -> QueueIndex {
        let lock = pg_sys::RowShareLock as i32;
        // SAFETY: closed when dropped, or with the transaction where an error passes.
        unsafe {
            QueueIndex {
                heap: pg_sys::table_open(relation(table), lock),
                index: pg_sys::index_open(relation(index), lock),
                snapshot: pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot()),
            }
        }
    }

    /// The highest priority not above `below` that has entries, and the earliest time among them, of the index alone: the
    /// rows may be gone.
    pub fn top(&self, queue_id: i64, below: i16) -> Option<(i16, Timestamp)> {
        let mut keys = [
            condition(1, pg_sys::BTEqualStrategyNumber, pg_sys::F_INT8EQ, Datum::from(queue_id)),
            condition(2, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_INT2LE, Datum::from(below)),
        ];
        let (mut values, mut nulls) = ([Datum::null(); 3], [false; 3]);
        // SAFETY: conditions and columns are those of the index. Its own entry is read before the scan ends.
        unsafe {
            let scan = begin(self.heap, self.index, self.snapshot, 2);
            (*scan).xs_want_itup = true;
            pg_sys::index_rescan(scan, keys.as_mut_ptr(), 2, std::ptr::null_mut(), 0);
            let found = !pg_sys::index_getnext_tid(scan, ScanDirection::ForwardScanDirection).is_null();
            if found {
                let (entry, columns) = ((*scan).xs_itup, (*scan).xs_itupdesc);
                pg_sys::index_deform_tuple(entry, columns, values.as_mut_ptr(), nulls.as_mut_ptr());
            }
            pg_sys::index_endscan(scan);
            found.then(|| (values[1].value() as i16, Timestamp(values[2].value() as i64)))
        }
    }

    /// Begins to read ranges.
    pub fn read(&self, ranges: &[Range]) -> Reading<'_> {
        // SAFETY: slots and scans are released when dropped, or with the transaction where an error passes.
        unsafe {
            let locked = pg_sys::table_slot_create(self.heap, std::ptr::null_mut());
            let ranges = ranges.iter().map(|range| {
                let slot = pg_sys::table_slot_create(self.heap, std::ptr::null_mut());
                let scan = begin(self.heap, self.index, self.snapshot, 4);
                let mut keys = [
                    condition(1, pg_sys::BTEqualStrategyNumber, pg_sys::F_INT8EQ, Datum::from(range.queue_id)),
                    condition(2, pg_sys::BTEqualStrategyNumber, pg_sys::F_INT2EQ, Datum::from(range.priority)),
                    condition(
                        3,
                        pg_sys::BTGreaterEqualStrategyNumber,
                        pg_sys::F_TIMESTAMPTZ_GE,
                        Datum::from(range.from.0),
                    ),
                    condition(3, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_TIMESTAMPTZ_LE, Datum::from(range.to.0)),
                ];
                pg_sys::index_rescan(scan, keys.as_mut_ptr(), 4, std::ptr::null_mut(), 0);
                RangeReading { scan, slot, head: Head::Unknown, passed: 0, first: None }
            });
            let ranges = ranges.collect();
            Reading { index: self, locked, ranges }
        }
    }
}

impl Drop for QueueIndex {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened by `open`.
            unsafe {
                pg_sys::UnregisterSnapshot(self.snapshot);
                pg_sys::index_close(self.index, pg_sys::NoLock as i32);
                pg_sys::table_close(self.heap, pg_sys::NoLock as i32);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Head {
    /// The next row is to be looked for.
    Unknown,
    /// The slot holds it.
    Row,
    None,
}

struct RangeReading {
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    head: Head,
    passed: usize,
    first: Option<Timestamp>,
}

impl RangeReading {
    /// Finds the next row, if it is not known.
    fn look(&mut self, time: impl Fn(&SlotRow) -> Option<Timestamp>) {
        while self.head == Head::Unknown {
            pg_sys::check_for_interrupts!();
            // SAFETY: an open scan and a slot for its rows.
            unsafe {
                if pg_sys::index_getnext_tid(self.scan, ScanDirection::ForwardScanDirection).is_null() {
                    self.head = Head::None;
                } else if pg_sys::index_fetch_heap(self.scan, self.slot) {
                    self.head = Head::Row;
                    self.first = self.first.or_else(|| time(&SlotRow::of(self.slot)));
                } else {
                    self.passed += 1;
                }
            }
        }
    }
}

/// Ranges being read.
pub struct Reading<'a> {
    index: &'a QueueIndex,
    locked: *mut pg_sys::TupleTableSlot,
    ranges: Vec<RangeReading>,
}

impl Reading<'_> {
    /// Locks the oldest row left that is `wanted`, asked before and after, and that nobody else has locked. `None`: there
    /// is none. `time` reads the index's time from a row.
    pub fn lock_next<R>(
        &mut self,
        time: impl Fn(&SlotRow) -> Option<Timestamp> + Copy,
        wanted: impl Fn(&SlotRow) -> bool,
        read: impl Fn(&SlotRow) -> R,
    ) -> Option<R> {
        loop {
            self.ranges.iter_mut().for_each(|range| range.look(time));
            let mut heads = self.ranges.iter_mut().filter(|range| range.head == Head::Row);
            let first = heads.next()?;
            // One range, as in most claims, needs no comparison.
            let oldest = match heads.next() {
                None => first,
                Some(second) => {
                    [first, second].into_iter().chain(heads).min_by_key(|it| time(&SlotRow::of(it.slot)))?
                }
            };
            oldest.head = Head::Unknown;
            // SAFETY: the slot holds a row of the table as the snapshot shows it.
            let is_ours = wanted(&SlotRow::of(oldest.slot))
                && unsafe { lock(self.index.heap, self.index.snapshot, oldest.slot, self.locked) }
                && wanted(&SlotRow::of(self.locked));
            if is_ours {
                return Some(read(&SlotRow::of(self.locked)));
            }
        }
    }

    /// Of the range at `place`: how many entries were passed whose rows are not visible, and the time of its first row.
    pub fn passed(&self, place: usize) -> (usize, Option<Timestamp>) {
        (self.ranges[place].passed, self.ranges[place].first)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `read`.
            unsafe {
                for range in &self.ranges {
                    pg_sys::index_endscan(range.scan);
                    pg_sys::ExecDropSingleTupleTableSlot(range.slot);
                }
                pg_sys::ExecDropSingleTupleTableSlot(self.locked);
            }
        }
    }
}

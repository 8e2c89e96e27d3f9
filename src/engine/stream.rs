//! How far the stream of events may be read: up to where no event can come any more.
//!
//! An event id is drawn from a sequence, by a transaction that has its own id already, and becomes visible at the commit;
//! so ids become visible out of order. In: what a reader sees of the sequence and of the transactions. Out: looking.

/// A moment as a reader sees it. The fields are looked at in this order, or the rule does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The last event id that anybody has drawn.
    pub last_event: i64,
    /// The transaction id that will be assigned next. Who has drawn an id up to `last_event` has a smaller one.
    pub next_xid: i64,
    /// Of the snapshot that events are read with: all smaller transaction ids have ended, and what they did is seen.
    pub oldest_xid: i64,
    /// A standby knows the transactions of the primary later than the events of others, and its sequences run ahead of
    /// what was drawn: only marks count there, which were made on the primary.
    pub on_standby: bool,
}

/// What earlier readers have found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// No event up to this one can come any more.
    pub safe_event: i64,
    /// The `next_xid` and the `last_event` of an earlier moment: once all transactions before the one have ended, no event
    /// up to the other can come any more.
    pub mark: Option<(i64, i64)>,
}

/// What is known at this moment, and what to leave for the next reader; `None`: nothing that helps.
pub fn look(known: Known, now: Moment) -> (i64, Option<Known>) {
    let mut safe = known.safe_event;
    // Made in another cluster, from which this database was restored. Its events are all here, but its transactions say
    // nothing: here it would be waited for in vain.
    let foreign = known.mark.is_some_and(|(xid, _)| xid > now.next_xid);
    let mut waits = false;
    if let Some((xid, event)) = known.mark.filter(|_| !foreign) {
        if xid <= now.oldest_xid {
            safe = safe.max(event);
        } else {
            waits = event > safe;
        }
    }
    if !now.on_standby && now.oldest_xid >= now.next_xid {
        // Nobody who could hold an id is left.
        return (safe.max(now.last_event), None);
    }
    if waits || now.on_standby || now.last_event <= safe {
        return (safe, None);
    }
    (safe, Some(Known { safe_event: safe, mark: Some((now.next_xid, now.last_event)) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(last_event: i64, next_xid: i64, oldest_xid: i64) -> Moment {
        Moment { last_event, next_xid, oldest_xid, on_standby: false }
    }

    #[test]
    fn with_nobody_at_work_all_is_safe_and_nothing_is_left() {
        assert_eq!(look(Known::default(), moment(9, 100, 100)), (9, None));
        // A transaction that began after the look at the next id has drawn a later event.
        assert_eq!(look(Known::default(), moment(9, 100, 103)), (9, None));
    }

    #[test]
    fn a_mark_is_left_and_counts_when_all_before_it_have_ended() {
        let left = Known { safe_event: 0, mark: Some((100, 9)) };
        assert_eq!(look(Known::default(), moment(9, 100, 99)), (0, Some(left)));
        // One of them is still at work: the mark stays, or it would be moved for ever.
        assert_eq!(look(left, moment(12, 105, 99)), (0, None));
        let next = Known { safe_event: 9, mark: Some((107, 15)) };
        assert_eq!(look(left, moment(15, 107, 100)), (9, Some(next)));
        assert_eq!(look(next, moment(15, 107, 101)), (9, None));
    }

    #[test]
    fn a_mark_of_another_cluster_is_not_waited_for() {
        let foreign = Known { safe_event: 5, mark: Some((1_000_000, 9)) };
        let left = Known { safe_event: 5, mark: Some((100, 12)) };
        assert_eq!(look(foreign, moment(12, 100, 99)), (5, Some(left)));
        assert_eq!(look(foreign, moment(12, 100, 100)), (12, None));
    }

    #[test]
    fn on_a_standby_only_marks_count() {
        let standby = |oldest_xid| Moment { on_standby: true, ..moment(40, 100, oldest_xid) };
        assert_eq!(look(Known::default(), standby(100)), (0, None));
        let left = Known { safe_event: 3, mark: Some((98, 9)) };
        assert_eq!(look(left, standby(97)), (3, None));
        assert_eq!(look(left, standby(98)), (9, None));
    }
}

//! How far the stream may be read, against a model of transactions: every event up to the safe one is seen by the reader's
//! snapshot, wherever in its looks the others go on, and whoever has left which mark.
use pg_stepwise_cluster_tests::engine::stream::{Known, Moment, look};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Copy)]
enum Action {
    Begin,
    /// The nth of those at work draws an event id.
    Draw(usize),
    /// The nth ends; whether it commits makes no difference.
    End(usize),
    /// The next look of a reader, of which there are two.
    Look {
        reader: usize,
        leaves: bool,
    },
    /// A reader with one snapshot for its whole transaction takes it.
    OldSnapshot,
    /// It looks, with that snapshot.
    LookBack,
}

#[derive(Debug, Clone, Default)]
struct Snapshot {
    next_xid: i64,
    running: BTreeSet<i64>,
}

#[derive(Debug)]
struct Cluster {
    next_xid: i64,
    last_event: i64,
    running: BTreeSet<i64>,
    drawn_by: BTreeMap<i64, i64>,
    known: Known,
}

impl Cluster {
    fn snapshot(&self) -> Snapshot {
        Snapshot { next_xid: self.next_xid, running: self.running.clone() }
    }

    fn nth(&self, n: usize) -> Option<i64> {
        self.running.iter().nth(n % self.running.len().max(1)).copied()
    }

    /// The last of the three looks.
    fn look(&mut self, last_event: i64, next_xid: i64, snapshot: &Snapshot, leaves: bool) -> i64 {
        let oldest_xid = snapshot.running.first().copied().unwrap_or(snapshot.next_xid);
        let (safe, left) = look(self.known, Moment { last_event, next_xid, oldest_xid, on_standby: false });
        assert!(safe <= self.last_event, "{safe} has not been drawn");
        for (event, xid) in self.drawn_by.range(..=safe) {
            assert!(*xid < snapshot.next_xid && !snapshot.running.contains(xid), "event {event} of {xid} is not seen");
        }
        if let Some(left) = left.filter(|_| leaves) {
            self.known = left;
        }
        safe
    }
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => Just(Action::Begin),
        6 => (0..8_usize).prop_map(Action::Draw),
        4 => (0..8_usize).prop_map(Action::End),
        9 => (0..2_usize, any::<bool>()).prop_map(|(reader, leaves)| Action::Look { reader, leaves }),
        1 => Just(Action::OldSnapshot),
        2 => Just(Action::LookBack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, ..ProptestConfig::default() })]

    #[test]
    fn what_is_safe_is_seen(actions in prop::collection::vec(action(), 1..120), first_xid in 3..1000_i64) {
        let mut cluster = Cluster {
            next_xid: first_xid,
            last_event: 0,
            running: BTreeSet::new(),
            drawn_by: BTreeMap::new(),
            known: Known::default(),
        };
        // What a reader has looked at so far: the last event, then the next transaction id.
        let mut looks: [Vec<i64>; 2] = [Vec::new(), Vec::new()];
        let mut old: Option<(Snapshot, Known)> = None;
        for action in actions {
            match action {
                Action::Begin => {
                    cluster.running.insert(cluster.next_xid);
                    cluster.next_xid += 1;
                }
                Action::Draw(n) => {
                    if let Some(xid) = cluster.nth(n) {
                        cluster.last_event += 1;
                        cluster.drawn_by.insert(cluster.last_event, xid);
                    }
                }
                Action::End(n) => {
                    if let Some(xid) = cluster.nth(n) {
                        cluster.running.remove(&xid);
                    }
                }
                Action::Look { reader, leaves } => match looks[reader].len() {
                    0 => looks[reader].push(cluster.last_event),
                    1 => looks[reader].push(cluster.next_xid),
                    _ => {
                        let snapshot = cluster.snapshot();
                        cluster.look(looks[reader][0], looks[reader][1], &snapshot, leaves);
                        looks[reader].clear();
                    }
                },
                Action::OldSnapshot => old = Some((cluster.snapshot(), cluster.known)),
                Action::LookBack => {
                    if let Some((snapshot, known)) = &old {
                        // It reads the subscription's row as it was then, and leaves nothing.
                        let now = std::mem::replace(&mut cluster.known, *known);
                        cluster.look(cluster.last_event, cluster.next_xid, snapshot, false);
                        cluster.known = now;
                    }
                }
            }
        }
        // With nobody left at work, nothing is held back.
        cluster.running.clear();
        let snapshot = cluster.snapshot();
        prop_assert_eq!(cluster.look(cluster.last_event, cluster.next_xid, &snapshot, true), cluster.last_event);
    }

    /// There is never a moment without anybody at work, but each ends: two reads after an event's transaction and those
    /// that were open with it, the event is safe.
    #[test]
    fn steady_work_holds_nobody_up(length in 1..6_i64, rounds in 20..60_i64) {
        let mut cluster = Cluster {
            next_xid: 3,
            last_event: 0,
            running: BTreeSet::new(),
            drawn_by: BTreeMap::new(),
            known: Known::default(),
        };
        for round in 0..rounds {
            cluster.running.insert(cluster.next_xid);
            cluster.last_event += 1;
            cluster.drawn_by.insert(cluster.last_event, cluster.next_xid);
            cluster.next_xid += 1;
            while cluster.running.len() as i64 > length {
                cluster.running.pop_first();
            }
            let (snapshot, last_event, next_xid) = (cluster.snapshot(), cluster.last_event, cluster.next_xid);
            let safe = cluster.look(last_event, next_xid, &snapshot, true);
            prop_assert!(round + 1 - safe <= 2 * length + 2, "round {}: safe is {}", round, safe);
        }
    }
}

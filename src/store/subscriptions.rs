//! Durable readers of the stream of events: their rows, their positions, and what they know about the end of the stream.
use super::access::{self, Restriction};
use super::error::StoreError;
use crate::engine::stream::{Known, Moment, look};
use crate::engine::subscription::{self, Filter};
use crate::engine::time::Timestamp;
use crate::pg::array::{array, array_of_optional};
use crate::pg::error::Outcome;
use crate::pg::jsonb::Jsonb;
use crate::pg::lookup::with_fresh_snapshot;
use crate::pg::snapshot;
use crate::pg::spi::{self, Row, Session, Statement};
use crate::pg::time;
use crate::pg::value::{optional, param};

/// `subscription_id, position, safe_event, mark_xid, mark_event` and what a statement adds.
macro_rules! select {
    ($more:literal) => {
        concat!(
            "SELECT subscription_id, position, safe_event, mark_xid, mark_event",
            $more,
            " FROM stepwise.subscriptions"
        )
    };
}

// A sequence is read as it stands, whatever the snapshot. Under the lock of its page, as this function does: while nextval
// writes WAL, the page shows a value 32 ahead of what was drawn, and a scan of the sequence reads it without that lock.
static LAST_EVENT: Statement = Statement::read(
    "SELECT coalesce(pg_catalog.pg_sequence_last_value('stepwise.transitions_event_id_seq'::pg_catalog.regclass), 0)",
);
static FIND: Statement = Statement::read(concat!(select!(", filter::text"), " WHERE name = $1"));
static CLAIM: Statement =
    Statement::write(concat!(select!(", filter::text"), " WHERE name = $1 FOR UPDATE SKIP LOCKED"));
static ALL: Statement =
    Statement::read(concat!(select!(", name, acked_at, created_at, filter::text"), " ORDER BY name"));
static LEAVE: Statement = Statement::write(include_str!("../../sql/query/leave_marks.sql"));
static INSERT: Statement = Statement::write(
    "INSERT INTO stepwise.subscriptions (created_at, position, safe_event, mark_xid, mark_event, name, filter) \
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) DO NOTHING RETURNING subscription_id",
);
static ACK: Statement = Statement::write(
    "UPDATE stepwise.subscriptions SET position = $2, acked_at = $3, safe_event = greatest(safe_event, $4), \
         mark_xid = $5, mark_event = $6 \
     WHERE name = $1 AND position < $2",
);
static DELETE: Statement = Statement::write("DELETE FROM stepwise.subscriptions WHERE name = $1");
static LEAST: Statement = Statement::write("SELECT min(position) FROM stepwise.subscriptions");

/// A row of `subscriptions`, as far as reading goes.
#[derive(Clone)]
pub struct Subscription {
    pub id: i64,
    pub position: i64,
    pub known: Known,
}

impl Subscription {
    fn of(row: &Row) -> Self {
        let known = Known { safe_event: row.want(3), mark: row.get::<i64>(4).zip(row.get::<i64>(5)) };
        Self { id: row.want(1), position: row.want(2), known }
    }
}

/// A subscription and how far it is behind.
pub struct Lag {
    pub name: String,
    pub position: i64,
    pub safe_event: i64,
    pub last_event: i64,
    /// Since when it has acknowledged nothing; none: it is not behind.
    pub behind_since: Option<Timestamp>,
}

/// Runs `body` at a moment of the stream, with a snapshot that goes with it. Everything in the order that
/// [`Moment`] asks for.
pub fn at_a_moment<R>(spi: &Session, body: impl FnOnce(Moment) -> R) -> R {
    // What is looked at during recovery counts as a standby's, also where that ends meanwhile.
    let on_standby = snapshot::on_standby();
    let last_event = LAST_EVENT.run(spi, &[]).first().map_or(0, |row| row.want(1));
    let next_xid = snapshot::next_xid();
    with_fresh_snapshot(|| {
        let oldest_xid = snapshot::oldest_xid(next_xid) as i64;
        body(Moment { last_event, next_xid: next_xid as i64, oldest_xid, on_standby })
    })
}

/// The subscription and its filter, as the active snapshot shows them.
pub fn find(spi: &Session, name: &str) -> Result<(Subscription, Filter), StoreError> {
    read(&FIND, spi, name).ok_or_else(|| StoreError::SubscriptionNotFound { name: name.to_owned() })
}

/// [`find`] and lock, as it is now; `None`: another transaction has.
pub fn claim(spi: &Session, name: &str) -> Result<Option<(Subscription, Filter)>, StoreError> {
    match read(&CLAIM, spi, name) {
        Some(claimed) => Ok(Some(claimed)),
        None => find(spi, name).map(|_| None),
    }
}

fn read(statement: &'static Statement, spi: &Session, name: &str) -> Option<(Subscription, Filter)> {
    let rows = statement.run(spi, &[param(name)]);
    let row = rows.first()?;
    // It was checked when it was stored.
    let filter = filter_of(&row, 6);
    is_in_reach(&filter).then(|| (Subscription::of(&row), filter))
}

fn filter_of(row: &Row, column: usize) -> Filter {
    row.get::<String>(column).and_then(|filter| Filter::parse(&filter).ok()).unwrap_or_default()
}

/// Whether the caller may use a subscription: all that it can give must be from the caller's namespaces. So what one reader
/// of it acknowledges, another may see too.
fn is_in_reach(filter: &Filter) -> bool {
    access::restriction().is_none_or(|only| filter.namespace_beyond(|name| only.has_namespace(name)).is_none())
}

/// The filter of a caller who is restricted: to its namespaces, or some of them.
fn narrow(filter: Option<Jsonb>, only: &Restriction) -> Outcome<Jsonb> {
    let text = Filter::narrowed(filter.map(Jsonb::to_text).as_deref(), &only.list())?;
    match Filter::parse(&text)?.namespace_beyond(|name| only.has_namespace(name)) {
        None => Ok(Jsonb::from_text(&text)),
        Some(namespace) => {
            let namespace = namespace.unwrap_or_default().to_owned();
            Err(StoreError::NamespaceForbidden { namespace, role: access::caller(), level: only.level() }.into())
        }
    }
}

/// Stores for each of these subscriptions what its position and what it knows should be by now: on the side, where that
/// can be done without waiting.
pub fn leave(spi: &Session, found: &[Subscription]) {
    if found.is_empty() || !snapshot::may_write_aside() {
        return;
    }
    let column = |value: fn(&Subscription) -> i64| array(&found.iter().map(value).collect::<Vec<_>>());
    let mark = |value: fn((i64, i64)) -> i64| {
        array_of_optional(&found.iter().map(|subscription| subscription.known.mark.map(value)).collect::<Vec<_>>())
    };
    LEAVE.run(
        spi,
        &[
            column(|subscription| subscription.id),
            column(|subscription| subscription.position),
            column(|subscription| subscription.known.safe_event),
            mark(|(xid, _)| xid),
            mark(|(_, event)| event),
        ],
    );
}

/// Leaves marks for readers on a standby, which cannot make any.
pub fn leave_marks(spi: &Session) {
    at_a_moment(spi, |now| {
        let found: Vec<Subscription> = ALL.run(spi, &[]).iter().map(|row| Subscription::of(&row)).collect();
        let changed = found.into_iter().filter_map(|subscription| {
            let (safe_event, left) = look(subscription.known, now);
            let idle = (safe_event > subscription.known.safe_event).then_some(Known { safe_event, mark: None });
            Some(Subscription { known: left.or(idle)?, ..subscription })
        });
        leave(spi, &changed.collect::<Vec<_>>());
    });
}

/// Makes a subscription; returns its position.
pub fn create(name: &str, filter: Option<Jsonb>, start: &str) -> Outcome<i64> {
    if let Some(filter) = filter {
        Filter::parse(&filter.to_text())?;
    }
    let filter = match access::restriction() {
        None => filter,
        Some(only) => Some(narrow(filter, &only)?),
    };
    spi::session(|spi| {
        at_a_moment(spi, |now| {
            let position = subscription::start(start, now.last_event)?;
            let (safe_event, left) = look(Known::default(), now);
            let mark = left.and_then(|left| left.mark);
            let row = [
                param(time::now()),
                param(position),
                param(safe_event),
                optional(mark.map(|(xid, _)| xid)),
                optional(mark.map(|(_, event)| event)),
                param(name),
                optional(filter),
            ];
            match INSERT.run(spi, &row).count {
                0 => Err(StoreError::SubscriptionExists { name: name.to_owned() }.into()),
                _ => Ok(position),
            }
        })
    })
}

pub fn drop(name: &str) -> Result<(), StoreError> {
    spi::session(|spi| {
        find(spi, name)?;
        match DELETE.run(spi, &[param(name)]).count {
            0 => Err(StoreError::SubscriptionNotFound { name: name.to_owned() }),
            _ => Ok(()),
        }
    })
}

/// Moves the position on; returns where it is then.
pub fn acknowledge(name: &str, position: i64) -> Result<i64, StoreError> {
    spi::session(|spi| {
        at_a_moment(spi, |now| {
            let (subscription, _) = find(spi, name)?;
            if position > now.last_event {
                return Err(StoreError::PositionAhead { position, last_event: now.last_event });
            }
            let (safe_event, left) = look(subscription.known, now);
            let mark = left.map_or(subscription.known.mark, |left| left.mark);
            let row = [
                param(name),
                param(position),
                param(time::now()),
                param(safe_event),
                optional(mark.map(|(xid, _)| xid)),
                optional(mark.map(|(_, event)| event)),
            ];
            if ACK.run(spi, &row).count > 0 {
                return Ok(position);
            }
            // Another reader has acknowledged more.
            with_fresh_snapshot(|| find(spi, name)).map(|(subscription, _)| subscription.position)
        })
    })
}

/// How far each subscription that the caller may use is behind, by name.
pub fn lags() -> Vec<Lag> {
    spi::session(|spi| {
        at_a_moment(spi, |now| {
            let lag = |row: Row| {
                let Subscription { position, known, .. } = Subscription::of(&row);
                let behind = position < now.last_event;
                Lag {
                    name: row.want(6),
                    position,
                    safe_event: look(known, now).0,
                    last_event: now.last_event,
                    behind_since: row.get::<Timestamp>(7).or_else(|| row.get(8)).filter(|_| behind),
                }
            };
            ALL.run(spi, &[]).iter().filter(|row| is_in_reach(&filter_of(row, 9))).map(lag).collect()
        })
    })
}

/// The event up to which every subscription has acknowledged.
pub fn acknowledged_by_all(spi: &Session) -> i64 {
    LEAST.run(spi, &[]).first().and_then(|row| row.get(1)).unwrap_or(i64::MAX)
}

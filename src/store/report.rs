//! What workers say about the steps they hold. Every statement is fenced by the receipt's token.
use super::access;
use super::columns::{STEPS_BY_KEY, steps as column};
use super::error::StoreError;
use super::scope::{self, Cause};
use crate::engine::receipt::{self, Receipt};
use crate::engine::state::StepState;
use crate::engine::time::{Span, Timestamp};
use crate::pg::array::array;
use crate::pg::jsonb::Jsonb;
use crate::pg::lookup::{Key as RowKey, Sees};
use crate::pg::per_row::{PerRow, cells, optional_cells, per_row};
use crate::pg::planted::{Bug, planted};
use crate::pg::spi::{self, Session, Statement};
use crate::pg::time;
use crate::pg::value::{Param, param};
use std::collections::HashSet;

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    /// The same report was accepted before; nothing changed.
    AlreadyDone,
    /// The step is no longer held with this receipt.
    Stale,
    NotFound,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Accepted => "accepted",
            Outcome::AlreadyDone => "already_done",
            Outcome::Stale => "stale",
            Outcome::NotFound => "not_found",
        }
    }
}

/// One report about one step.
pub struct Report {
    pub receipt: [u8; 16],
    pub verdict: Verdict,
}

pub enum Verdict {
    Complete { results: Option<Jsonb> },
    Fail { error: Option<Jsonb>, retryable: Option<bool>, retry_after_seconds: Option<i32> },
}

impl Verdict {
    fn state(&self) -> &'static str {
        match self {
            Verdict::Complete { .. } => "complete",
            Verdict::Fail { .. } => "error",
        }
    }
}

static REPORT: PerRow = per_row!(
    "task_id, step_id, claim_token, state, results, error, retryable, retry_after",
    "$1, $2, $3, $4, $5, $6, $7, $8",
    include_str!("../../sql/query/report_steps.sql")
);
static CLASSIFY: Statement = Statement::write(
    "SELECT i.ord, s.state, s.claim_token = i.claim_token \
     FROM unnest($1, $2, $3, $4) AS i (ord, task_id, step_id, claim_token) \
     JOIN stepwise.steps s ON s.task_id = i.task_id AND s.step_id = i.step_id",
);
static RELEASE: Statement = Statement::write(
    "UPDATE stepwise.steps SET state = 'pending', worker = NULL \
     WHERE task_id = $1 AND step_id = $2 AND state = 'in_progress' AND claim_token = $3",
);
static EXTEND: Statement = Statement::write(
    "UPDATE stepwise.steps s \
     SET visible_at = coalesce($4, $5 + (SELECT r.timeout FROM stepwise.template_steps r \
         WHERE r.template_id = s.template_id AND r.step_id = s.step_id)) \
     WHERE s.task_id = $1 AND s.step_id = $2 AND s.state = 'in_progress' AND s.claim_token = $3",
);

/// A receipt's parts, in the order in which rows are locked.
type Key = (i64, i32, i64);

fn key(receipt: &Receipt) -> Key {
    (receipt.task_id, receipt.step_id, receipt.token)
}

/// The receipts' parts; none of one that is no receipt, or of a task that is none for the caller.
fn decoded(receipts: impl Iterator<Item = [u8; 16]>) -> Vec<Option<Receipt>> {
    let restriction = access::restriction();
    let known = |receipt: &Receipt| {
        restriction.as_ref().is_none_or(|restriction| restriction.has_task(Sees::Now, receipt.task_id))
    };
    receipts.map(|bytes| receipt::decode(bytes).filter(known)).collect()
}

/// Stores reports; one outcome for each, in their order. A bad one does not disturb the others.
pub fn report(reports: &[Report]) -> Vec<Outcome> {
    if reports.is_empty() {
        return Vec::new();
    }
    let receipts = decoded(reports.iter().map(|report| report.receipt));
    // The first report about a step counts; rows are locked in the order of their keys.
    let mut order: Vec<usize> = (0..reports.len()).filter(|&i| receipts[i].is_some()).collect();
    order.sort_by_key(|&i| receipts[i].as_ref().map(key));
    order.dedup_by_key(|i| receipts[*i].as_ref().map(key));
    if planted(Bug::LocksUnsorted) {
        order.sort_unstable();
    }
    spi::session(|spi| {
        let accepted = store(spi, reports, &receipts, &order);
        let mut outcomes: Vec<Option<Outcome>> = vec![None; reports.len()];
        for &i in &order {
            outcomes[i] = receipts[i].filter(|receipt| accepted.contains(&key(receipt))).map(|_| Outcome::Accepted);
        }
        if outcomes.iter().any(Option::is_none) {
            classify(spi, reports, &receipts, &mut outcomes);
        }
        outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::NotFound)).collect()
    })
}

/// Runs the one statement; the keys whose reports were taken.
fn store(spi: &Session, reports: &[Report], receipts: &[Option<Receipt>], order: &[usize]) -> HashSet<Key> {
    let chosen: Vec<(&Report, &Receipt)> =
        order.iter().filter_map(|&i| Some((&reports[i], receipts[i].as_ref()?))).collect();
    if chosen.is_empty() {
        return HashSet::new();
    }
    let task_ids: Vec<i64> = chosen.iter().map(|(_, receipt)| receipt.task_id).collect();
    let step_ids: Vec<i32> = chosen.iter().map(|(_, receipt)| receipt.step_id).collect();
    let tokens: Vec<i64> = chosen.iter().map(|(_, receipt)| receipt.token).collect();
    #[cfg(feature = "planted_bugs")]
    if planted(Bug::TokenIgnored) {
        super::planted::fit_tokens(spi, &task_ids, &step_ids, &tokens);
    }
    let states: Vec<&str> = chosen.iter().map(|(report, _)| report.verdict.state()).collect();
    let verdicts = || chosen.iter().map(|(report, _)| &report.verdict);
    let results = verdicts().map(|verdict| match verdict {
        Verdict::Complete { results } => *results,
        Verdict::Fail { .. } => None,
    });
    let errors = verdicts().map(|verdict| match verdict {
        Verdict::Fail { error, .. } => *error,
        Verdict::Complete { .. } => None,
    });
    let retryable = verdicts().map(|verdict| match verdict {
        Verdict::Fail { retryable, .. } => *retryable,
        Verdict::Complete { .. } => None,
    });
    let retry_after = verdicts().map(|verdict| match verdict {
        Verdict::Fail { retry_after_seconds, .. } => *retry_after_seconds,
        Verdict::Complete { .. } => None,
    });
    let columns = [
        cells(&task_ids),
        cells(&step_ids),
        cells(&tokens),
        cells(&states),
        optional_cells(results),
        optional_cells(errors),
        optional_cells(retryable),
        optional_cells(retry_after),
    ];
    let rows = scope::writing(Cause::default(), || REPORT.run(spi, &columns, &[param(time::now())]));
    rows.iter().map(|row| (row.want(1), row.want(2), row.want(3))).collect()
}

/// Whether the step is in progress with this receipt now.
pub fn is_held(receipt_bytes: [u8; 16]) -> bool {
    let Some(receipt) = receipt::decode(receipt_bytes) else { return false };
    let mut held = false;
    let key = std::iter::once(RowKey::One(receipt.task_id, receipt.step_id));
    STEPS_BY_KEY.each(Sees::Now, key, |_, row| {
        held = row.text(column::STATE) == StepState::InProgress.as_str()
            && row.get(column::CLAIM_TOKEN) == Some(receipt.token);
    });
    held
}

/// Why a report was not accepted.
fn classify(spi: &Session, reports: &[Report], receipts: &[Option<Receipt>], outcomes: &mut [Option<Outcome>]) {
    let open: Vec<(i32, &Receipt)> = (0..reports.len())
        .filter(|&i| outcomes[i].is_none())
        .filter_map(|i| Some((i as i32, receipts[i].as_ref()?)))
        .collect();
    if open.is_empty() {
        return;
    }
    let ords: Vec<i32> = open.iter().map(|(ord, _)| *ord).collect();
    let task_ids: Vec<i64> = open.iter().map(|(_, receipt)| receipt.task_id).collect();
    let step_ids: Vec<i32> = open.iter().map(|(_, receipt)| receipt.step_id).collect();
    let tokens: Vec<i64> = open.iter().map(|(_, receipt)| receipt.token).collect();
    let rows = CLASSIFY.run(spi, &[array(&ords), array(&task_ids), array(&step_ids), array(&tokens)]);
    for row in rows.iter() {
        let ord = row.want::<i32>(1) as usize;
        let fits = row.get::<bool>(3).unwrap_or(false) && row.want::<String>(2) == reports[ord].verdict.state();
        outcomes[ord] =
            Some(if fits && !planted(Bug::RepeatForgotten) { Outcome::AlreadyDone } else { Outcome::Stale });
    }
}

/// Turns the outcome of a single report into its value, or its error.
pub fn demand(receipt_bytes: [u8; 16], outcome: Outcome) -> Result<Outcome, StoreError> {
    match (outcome, receipt::decode(receipt_bytes)) {
        (Outcome::Stale, Some(receipt)) => {
            Err(StoreError::Stale { task_id: receipt.task_id, step_id: receipt.step_id })
        }
        (Outcome::Accepted | Outcome::AlreadyDone, _) => Ok(outcome),
        _ => Err(StoreError::ReceiptNotFound { receipt: uuid_text(receipt_bytes) }),
    }
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Gives a step back: pending, claimable at once, the attempt not counted.
pub fn release(receipt_bytes: [u8; 16]) -> Outcome {
    held(receipt_bytes, |spi, key| scope::writing(Cause::default(), || RELEASE.run(spi, key).count))
}

/// Moves the end of a lease to `lease` from now; `None`: the step's timeout.
pub fn extend(receipt_bytes: [u8; 16], lease: Option<Span>) -> Outcome {
    let now = time::now();
    let until: Option<Timestamp> = lease.map(|lease| now.plus(lease));
    held(receipt_bytes, |spi, key| {
        let params = [key[0], key[1], key[2], crate::pg::value::optional(until), param(now)];
        scope::writing(Cause::default(), || EXTEND.run(spi, &params).count)
    })
}

fn held(receipt_bytes: [u8; 16], update: impl FnOnce(&Session, &[Param; 3]) -> usize) -> Outcome {
    let [Some(receipt)] = decoded(std::iter::once(receipt_bytes))[..] else { return Outcome::NotFound };
    spi::session(|spi| {
        let key = [param(receipt.task_id), param(receipt.step_id), param(receipt.token)];
        if update(spi, &key) > 0 {
            return Outcome::Accepted;
        }
        let rows = CLASSIFY
            .run(spi, &[array(&[0]), array(&[receipt.task_id]), array(&[receipt.step_id]), array(&[receipt.token])]);
        if rows.count > 0 { Outcome::Stale } else { Outcome::NotFound }
    })
}

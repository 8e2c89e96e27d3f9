//! What a failed SQL handler says about another attempt.
//!
//! In: the reading of its SQLSTATE. Out: catching the error, and what the template says about retries.

use super::time::{Span, parse_interval};

/// A handler raises this for "do not try again".
pub const DO_NOT_RETRY: &str = "SW001";
/// A handler raises this for "try again, but not before the interval in DETAIL".
pub const RETRY_AFTER: &str = "SW002";

/// What the failure asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    /// `None`: the template decides.
    pub retryable: Option<bool>,
    /// `None`: the template's backoff.
    pub retry_after: Option<Span>,
}

/// Reads the SQLSTATE of a failure and, for [`RETRY_AFTER`], its DETAIL.
///
/// Transient by its class: connections (08), rollbacks by concurrency (40), resources (53), a lock that was not to be had
/// (55P03), an operator or a timeout (57). What the data or the program cause comes again with every attempt: 0A, 22, 23,
/// 28, 42. Everything else, such as a plain RAISE (P0001), is left to the template.
pub fn advice(sqlstate: &str, detail: Option<&str>) -> Advice {
    let retryable = match (sqlstate, sqlstate.get(..2).unwrap_or("")) {
        (DO_NOT_RETRY, _) => Some(false),
        (RETRY_AFTER, _) => Some(true),
        ("55P03", _) | (_, "08" | "40" | "53" | "57") => Some(true),
        (_, "0A" | "22" | "23" | "28" | "42") => Some(false),
        _ => None,
    };
    let asked = detail.filter(|_| sqlstate == RETRY_AFTER).and_then(|text| parse_interval(text).ok());
    Advice { retryable, retry_after: asked.filter(|span| *span >= Span(0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_decide_and_a_handler_may_say_so_itself() {
        let retryable = |sqlstate| advice(sqlstate, None).retryable;
        for transient in ["08006", "40001", "40P01", "53200", "55P03", "57014"] {
            assert_eq!(retryable(transient), Some(true), "{transient}");
        }
        for lasting in ["22012", "23505", "42P01", "28000", "0A000", DO_NOT_RETRY] {
            assert_eq!(retryable(lasting), Some(false), "{lasting}");
        }
        for open in ["P0001", "XX000", "JQ007", "55000", "", "é"] {
            assert_eq!(retryable(open), None, "{open}");
        }
    }

    #[test]
    fn a_wait_is_read_from_the_detail_of_its_own_sqlstate_only() {
        assert_eq!(advice(RETRY_AFTER, Some("30 seconds")).retry_after, Some(Span::from_secs(30)));
        assert_eq!(advice(RETRY_AFTER, Some("30")).retry_after, Some(Span::from_secs(30)));
        assert_eq!(advice(RETRY_AFTER, Some("soon")).retry_after, None);
        assert_eq!(advice(RETRY_AFTER, Some("-5 s")).retry_after, None);
        assert_eq!(advice("40001", Some("30 seconds")).retry_after, None);
    }
}

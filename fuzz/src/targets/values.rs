//! Small texts and bytes that come from outside: receipts, traceparents, intervals, versions, names that are shown.

use crate::engine::receipt::{decode, encode};
use crate::engine::time::{Timestamp, parse_interval, rfc3339};
use crate::engine::traceparent;
use crate::engine::version::Version;
use crate::picture::legible::{columns, cut_to_columns, cut_to_ems, duration, shown, width_in_ems, xml};

pub fn run(data: &[u8]) {
    if let Some((bytes, receipt)) = data.first_chunk::<16>().and_then(|bytes| Some((bytes, decode(*bytes)?))) {
        assert_eq!(encode(receipt), *bytes);
        assert!(receipt.task_id >= 0 && receipt.step_id >= 0 && receipt.token >= 0);
    }
    if let Some(bytes) = data.first_chunk::<8>() {
        let at = Timestamp(i64::from_le_bytes(*bytes));
        assert!(!rfc3339(at).is_empty());
        assert!(!duration(at.since(Timestamp(0))).is_empty());
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(kept) = traceparent::parse(text) {
        assert_eq!(kept.len(), traceparent::LENGTH);
        assert_eq!(traceparent::parse(&kept).as_ref(), Ok(&kept));
    }
    if let Ok(span) = parse_interval(text) {
        assert!(!duration(span).is_empty());
    }
    if let Ok(version) = Version::parse(text) {
        assert_eq!(Version::parse(&version.to_string()), Ok(version));
    }
    let shown = shown(text);
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    assert!(!xml(&shown).contains(['<', '>', '"', '\'']));
    for most in [0, 1, 2, 3, 20] {
        assert!(columns(&cut_to_columns(&shown, most)) <= most.max(1));
        let _ = width_in_ems(&cut_to_ems(&shown, most as f64));
    }
}

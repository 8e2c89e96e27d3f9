//! Times, backoffs, receipts, versions, states and payloads, over their whole ranges.

use pg_stepwise_cluster_tests::engine::backoff::Backoff;
use pg_stepwise_cluster_tests::engine::event::{PAYLOAD_LIMIT, Payload, step_events, task_events};
use pg_stepwise_cluster_tests::engine::receipt::{MAX_STEP_ID, MAX_TOKEN, Receipt, decode, encode};
use pg_stepwise_cluster_tests::engine::state::{StepState, TaskState};
use pg_stepwise_cluster_tests::engine::time::{Span, Timestamp, parse_interval, rfc3339};
use pg_stepwise_cluster_tests::engine::traceparent;
use pg_stepwise_cluster_tests::engine::version::Version;
use proptest::prelude::*;

/// The tables of legal changes: a row per state, a column per state, in the order of `ALL`.
const STEP_TABLE: [&str; 7] = ["=x.xxxx", "x=xxxx.", "xx.=xx.", "..=....", "....=..", ".....=.", "......="];
const TASK_TABLE: [&str; 6] = ["=xxxxx", ".=xxxx", "xx.=xx", "..=...", "....=.", ".....="];

/// The rows of the tables above follow this order; the columns follow `ALL`.
const STEP_ROWS: [StepState; 7] = [
    StepState::Pending,
    StepState::InProgress,
    StepState::Error,
    StepState::Complete,
    StepState::Cancelled,
    StepState::ResolvedManually,
    StepState::Skipped,
];
const TASK_ROWS: [TaskState; 6] = [
    TaskState::Pending,
    TaskState::InProgress,
    TaskState::Error,
    TaskState::Complete,
    TaskState::Cancelled,
    TaskState::ResolvedManually,
];

#[test]
fn the_changes_of_state_are_those_of_the_tables() {
    for (from, row) in STEP_ROWS.iter().zip(STEP_TABLE) {
        for (to, mark) in StepState::ALL.iter().zip(row.chars()) {
            assert_eq!(from.may_become(*to), mark != '.', "step {from} → {to}");
        }
        assert_eq!(from.is_terminal(), !row.contains('x'));
    }
    for (from, row) in TASK_ROWS.iter().zip(TASK_TABLE) {
        for (to, mark) in TaskState::ALL.iter().zip(row.chars()) {
            assert_eq!(from.may_become(*to), mark != '.', "task {from} → {to}");
        }
        assert_eq!(from.is_terminal(), !row.contains('x'));
    }
    let of = |is: fn(StepState) -> bool| StepState::ALL.into_iter().filter(|state| is(*state)).collect::<Vec<_>>();
    assert_eq!(of(StepState::satisfies), [StepState::Complete, StepState::ResolvedManually]);
    assert_eq!(of(StepState::settles), [StepState::Complete, StepState::ResolvedManually, StepState::Skipped]);
}

#[test]
fn every_legal_change_but_a_release_is_announced() {
    for from in StepState::ALL {
        for to in StepState::ALL.into_iter().filter(|&to| to != from && from.may_become(to)) {
            let release = (from, to) == (StepState::InProgress, StepState::Pending);
            assert_eq!(step_events(from, to, None).is_empty(), release, "step {from} → {to}");
        }
        assert!(step_events(from, from, None).is_empty());
        assert_eq!(step_events(from, from, Some(true)), ["step.backoff"]);
    }
    for to in TaskState::ALL {
        assert_eq!(task_events(None, to).first(), Some(&"task.initialize_requested"));
        assert!(task_events(Some(to), to).is_empty());
        for from in TaskState::ALL.into_iter().filter(|&from| to != from && from.may_become(to)) {
            assert!(!task_events(Some(from), to).is_empty(), "task {from} → {to}");
        }
    }
}

fn backoff() -> impl Strategy<Value = Backoff> {
    (any::<i64>(), any::<i64>(), prop_oneof![Just(0.0), 0.0..=1.0, any::<f64>()])
        .prop_map(|(base, cap, jitter)| Backoff { base: Span(base), cap: Span(cap), jitter })
}

fn small_backoff() -> impl Strategy<Value = Backoff> {
    (1..10_000_000_i64, 1..100_000_000_i64, 0.0..=1.0).prop_map(|(base, cap, jitter)| Backoff {
        base: Span(base),
        cap: Span(cap),
        jitter,
    })
}

proptest! {
    #[test]
    fn a_backoff_is_never_negative_nor_above_its_cap(
        backoff in backoff(), attempts in any::<i32>(), task_id in any::<i64>(), step_id in any::<i32>(),
    ) {
        let delay = backoff.after(attempts, task_id, step_id);
        prop_assert!(Span(0) <= delay && delay <= backoff.cap.max(Span(0)));
    }

    #[test]
    fn a_backoff_never_shrinks_with_the_attempts(
        backoff in prop_oneof![backoff(), small_backoff()], attempts in prop_oneof![0..70, 0..i32::MAX], task_id in any::<i64>(),
    ) {
        prop_assert!(backoff.after(attempts, task_id, 1) <= backoff.after(attempts + 1, task_id, 1));
    }

    #[test]
    fn a_backoff_is_the_formula(backoff in small_backoff(), attempts in 0..40, task_id in any::<i64>(), step_id in 1..99) {
        let least = backoff.base.0 as f64 * 2_f64.powi(attempts);
        let delay = backoff.after(attempts, task_id, step_id).0 as f64;
        prop_assert!(delay >= least.min(backoff.cap.0 as f64));
        prop_assert!(delay <= (least * (1.0 + backoff.jitter)).min(backoff.cap.0 as f64));
        let plain = Backoff { jitter: 0.0, ..backoff }.after(attempts, task_id, step_id);
        prop_assert_eq!(plain.0 as f64, least.min(backoff.cap.0 as f64));
    }

    #[test]
    fn a_receipt_comes_back_as_it_was(task_id in 0..=i64::MAX, step_id in 0..=MAX_STEP_ID, token in 0..=MAX_TOKEN) {
        let receipt = Receipt { task_id, step_id, token };
        let bytes = encode(receipt);
        prop_assert_eq!((bytes[6] >> 4, bytes[8] >> 6), (8, 2));
        prop_assert_eq!(decode(bytes), Some(receipt));
    }

    #[test]
    fn any_uuid_of_version_8_is_the_receipt_of_one_claim(mut bytes in any::<[u8; 16]>()) {
        let is_receipt = bytes[6] >> 4 == 8 && bytes[8] >> 6 == 2;
        prop_assert_eq!(decode(bytes).is_some(), is_receipt);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        prop_assert_eq!(decode(bytes).map(encode), Some(bytes));
    }

    #[test]
    fn receipts_sort_by_task_then_step(one in 0..=i64::MAX, other in 0..=i64::MAX, step in 0..9, step2 in 0..9) {
        let bytes = |task_id, step_id| encode(Receipt { task_id, step_id, token: MAX_TOKEN / 3 });
        prop_assert_eq!((one, step).cmp(&(other, step2)), bytes(one, step).cmp(&bytes(other, step2)));
    }

    #[test]
    fn a_payload_always_fits_and_is_json(
        event in ".{0,300}", step in prop::option::of(text()), template in text(), from in prop::option::of(".{0,9}"),
        ids in any::<(i64, i64, Option<i32>, Option<i32>)>(), at in any::<i64>(), trace in prop::option::of(text()),
    ) {
        let payload = Payload {
            event: &event, event_id: ids.0, task_id: ids.1, step_id: ids.2, step: step.as_deref(), template: &template,
            from: from.as_deref(), to: &event, attempt: ids.3, at: rfc3339(Timestamp(at)),
            traceparent: trace.as_deref(),
        };
        let json = payload.to_json();
        prop_assert!(json.len() < PAYLOAD_LIMIT, "{} bytes", json.len());
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&read["task_id"], ids.1);
        prop_assert_eq!(read.get("step").is_some(), step.is_some());
    }

    #[test]
    fn names_of_255_characters_are_never_cut(name in prop_oneof!["[\u{1}-\u{1f}]{255}", "\u{1f600}{255}", ".{255}"]) {
        let template = format!("{name}/{name}@999999999.999999999.999999999");
        let payload = Payload {
            event: "step.max_retries_reached", event_id: i64::MIN, task_id: i64::MIN, step_id: Some(i32::MIN),
            step: Some(&name), template: &template, from: Some("resolved_manually"), to: "resolved_manually",
            attempt: Some(i32::MIN), at: rfc3339(Timestamp(i64::MAX - 1)),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        };
        let json = payload.to_json();
        prop_assert!(json.len() < PAYLOAD_LIMIT);
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(read["step"].as_str(), Some(name.as_str()));
        prop_assert_eq!(read["template"].as_str(), Some(template.as_str()));
    }

    #[test]
    fn time_never_overflows(at in timestamp(), other in timestamp(), span in any::<i64>()) {
        let moved = at.plus(Span(span));
        prop_assert!(at.is_finite() || moved == at);
        prop_assert_eq!(moved >= at, span >= 0 || moved == at);
        prop_assert_eq!(at.since(other) > Span(0), at > other);
        prop_assert!(!rfc3339(at).is_empty());
    }

    #[test]
    fn an_interval_is_read_back(seconds in -1_000_000_000..1_000_000_000_i64, micros in 0..1_000_000_i64) {
        let sign = if seconds < 0 { -1 } else { 1 };
        let text = format!("{seconds}.{micros:06} seconds");
        prop_assert_eq!(parse_interval(&text), Ok(Span(seconds * 1_000_000 + sign * micros)));
        let whole = Span::from_secs(seconds);
        prop_assert_eq!(parse_interval(&seconds.to_string()), Ok(whole));
        prop_assert_eq!(parse_interval(&format!("{seconds}s")), Ok(whole));
    }

    #[test]
    fn no_text_breaks_an_interval_or_a_version(text in prop_oneof![".*", "-?[0-9]{1,40}[.,]?[0-9]{0,20} ?(s|m|h|d|w|days|ago|:00:00)?"]) {
        let _ = parse_interval(&text);
        if let Ok(version) = Version::parse(&text) {
            prop_assert_eq!(Version::parse(&version.to_string()), Ok(version));
        }
    }

    #[test]
    fn a_traceparent_is_kept_in_one_form(
        version in prop_oneof!["00", "[0-9a-f]{2}"], ids in "[0-9a-f]{32}-[0-9a-f]{16}", flags in "[0-9a-f]{2}",
        more in prop_oneof![Just(String::new()), ".{0,9}"],
    ) {
        let text = format!("{version}-{ids}-{flags}{more}");
        match traceparent::parse(&text) {
            Ok(kept) => {
                prop_assert_eq!(kept.len(), traceparent::LENGTH);
                prop_assert_eq!(&kept[..52], format!("00-{ids}"));
                prop_assert_eq!(traceparent::parse(&kept), Ok(kept.clone()));
                prop_assert!(version != "00" || kept == text);
            }
            Err(_) => prop_assert!(version == "ff" || !(more.is_empty() || (version != "00" && more.starts_with('-')))),
        }
    }

    #[test]
    fn no_text_breaks_a_traceparent(text in prop_oneof![".{0,80}", "[0-9a-f-]{50,60}", "00-.{52}"]) {
        if let Ok(kept) = traceparent::parse(&text) {
            prop_assert_eq!(kept.len(), traceparent::LENGTH);
        }
    }

    #[test]
    fn versions_compare_by_number(one in any::<[u16; 3]>(), other in any::<[u16; 3]>()) {
        let version = |n: [u16; 3]| Version::parse(&format!("{}.{}.{}", n[0], n[1], n[2])).unwrap();
        prop_assert_eq!(version(one).cmp(&version(other)), one.cmp(&other));
        prop_assert_eq!(version(one).numbers(), one.map(i32::from));
    }
}

/// Every `timestamptz` that Postgres can hold.
fn timestamp() -> impl Strategy<Value = Timestamp> {
    let finite = (-211_813_488_000_000_000..9_223_371_331_200_000_000_i64).prop_map(Timestamp);
    prop_oneof![8 => finite, 1 => Just(Timestamp::INFINITY), 1 => Just(Timestamp::NEG_INFINITY)]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".{0,600}", "[\u{1}-\u{1f}]{500,3000}", "\u{1f600}{500,3000}"]
}

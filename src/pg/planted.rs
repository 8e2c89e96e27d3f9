//! Bugs on purpose, which the model checker has to find (`docs/model-checker.md`). In a build with the feature `planted_bugs`
//! the setting `stepwise.planted_bug` names one of them. Any other build has none, and asking costs nothing.

/// A bug, by what it does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted_bugs"), allow(dead_code))]
pub enum Bug {
    /// Reports are accepted whatever their receipts' tokens.
    TokenIgnored,
    /// The rows of a batch are locked in the order of its reports.
    LocksUnsorted,
    /// A task's counters are read before its row is locked.
    CountersReadEarly,
    /// One parent more than has settled is counted off its children.
    ParentsCountedTwice,
    /// Times are those of the transaction's start.
    TransactionClock,
    /// A task with cancelled steps does not end.
    EndMissed,
    /// Backoffs are twice as long as they should be.
    BackoffDoubled,
    /// A place under a limit is not given back.
    PlaceKept,
    /// Steps are handed out, and leases ended, half an hour early.
    ClaimedEarly,
    /// A release counts the attempt.
    ReleaseCounted,
    /// The same report again is called stale.
    RepeatForgotten,
    /// Skips are missing in the history.
    SkipUnrecorded,
    /// The lowest priority goes first.
    PriorityReversed,
    /// The descendants of cancelled and skipped steps are left as they are.
    DescendantsLeft,
    /// Tasks are purged whatever their age.
    PurgedYoung,
    /// A backend remembers that a task has begun, also when that was rolled back.
    BeginRemembered,
    /// A claim hands out steps of tasks that are out of time.
    DeadlineIgnored,
}

#[cfg(all(feature = "planted_bugs", not(debug_assertions)))]
compile_error!("planted_bugs is for tests: build with the profile dev");

#[cfg(not(feature = "planted_bugs"))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted_bugs")]
mod chosen {
    use super::Bug;
    use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
    use std::cell::RefCell;
    use std::collections::HashSet;
    use std::ffi::CString;

    static BUG: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

    thread_local! {
        static BEGUN: RefCell<HashSet<i64>> = RefCell::default();
    }

    pub fn planted(bug: Bug) -> bool {
        BUG.get().is_some_and(|name| name.to_bytes() == format!("{bug:?}").as_bytes())
    }

    /// Whether this backend has asked for the task before.
    pub fn remembered(task_id: i64) -> bool {
        !BEGUN.with_borrow_mut(|begun| begun.insert(task_id))
    }

    pub fn register() {
        GucRegistry::define_string_guc(
            c"stepwise.planted_bug",
            c"A bug on purpose, for the model checker to find.",
            c"Only in builds with the feature planted_bugs.",
            &BUG,
            GucContext::Suset,
            GucFlags::default(),
        );
    }
}
#[cfg(feature = "planted_bugs")]
pub use chosen::{planted, register, remembered};

//! The settings `stepwise.*`.
use crate::engine::time::{Span, parse_interval};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use pgrx::pg_guard;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_void};

/// How much is announced by NOTIFY; each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, PostgresGucEnum)]
pub enum NotifyLevel {
    #[name = c"off"]
    Off,
    #[name = c"ready"]
    Ready,
    #[name = c"task"]
    Task,
    #[name = c"step"]
    Step,
}

static NOTIFY: GucSetting<NotifyLevel> = GucSetting::<NotifyLevel>::new(NotifyLevel::Step);
static CLOCK_OFFSET: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"0"));

static DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static MAX_HANDLERS: GucSetting<i32> = GucSetting::<i32>::new(4);
static TESTING: GucSetting<bool> = GucSetting::<bool>::new(false);

thread_local! {
    /// `stepwise.clock_offset`, parsed when it was set.
    static OFFSET: Cell<Span> = const { Cell::new(Span(0)) };
}

pub fn notify_level() -> NotifyLevel {
    NOTIFY.get()
}

/// Whether failures that tests inject count in this session.
pub fn testing() -> bool {
    TESTING.get()
}

/// The databases that have a coordinator, as the setting lists them.
pub fn databases() -> String {
    DATABASES.get().map(|names| names.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The most processes of a database that run SQL handlers.
pub fn max_handlers() -> usize {
    MAX_HANDLERS.get().max(0) as usize
}

fn set(name: &CStr, value: &CStr, action: pg_sys::GucAction::Type) {
    let (context, source) = (pg_sys::GucContext::PGC_USERSET, pg_sys::GucSource::PGC_S_SESSION);
    // SAFETY: C strings, copied by the server.
    unsafe { pg_sys::set_config_option(name.as_ptr(), value.as_ptr(), context, source, action, true, 0, false) };
}

/// Takes a setting of the session back to what it began with.
pub fn reset_session(name: &CStr) {
    let (context, source) = (pg_sys::GucContext::PGC_USERSET, pg_sys::GucSource::PGC_S_SESSION);
    let action = pg_sys::GucAction::GUC_ACTION_SET;
    // SAFETY: a C string; no value asks for the one to reset to.
    unsafe { pg_sys::set_config_option(name.as_ptr(), std::ptr::null(), context, source, action, true, 0, false) };
}

/// Sets any setting until the end of the transaction.
pub fn set_local(name: &CStr, value: &CStr) {
    set(name, value, pg_sys::GucAction::GUC_ACTION_LOCAL);
}

pub fn clock_offset() -> Span {
    OFFSET.get()
}

pub fn register() {
    #[cfg(feature = "planted_bugs")]
    super::planted::register();
    GucRegistry::define_enum_guc(
        c"stepwise.notify",
        c"Which events pg_stepwise announces by NOTIFY: off, ready, task or step (each includes those before it).",
        c"NOTIFY takes a cluster-wide lock at commit; a busy site lowers this and reads the history instead.",
        &NOTIFY,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"stepwise.databases",
        c"The databases, separated by commas, for which pg_stepwise runs a coordinator.",
        c"Counts where pg_stepwise is in shared_preload_libraries.",
        &DATABASES,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"stepwise.max_handlers",
        c"The most processes of a database that run SQL handlers; 0 for none.",
        c"Each is one of max_worker_processes.",
        &MAX_HANDLERS,
        0,
        super::board::MAX_RUNNERS as i32,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"stepwise.testing",
        c"Whether failures injected by stepwise.inject_failure happen to what this session claims.",
        c"For tests.",
        &TESTING,
        GucContext::Suset,
        GucFlags::default(),
    );
    // SAFETY: both hooks are guarded and touch only their arguments and a thread-local.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"stepwise.clock_offset",
            c"An interval added to the clock of pg_stepwise, for tests (\"90 minutes\", \"-2.5 seconds\").",
            c"Every rule that compares a time uses stepwise.now(), which is clock_timestamp() plus this.",
            &CLOCK_OFFSET,
            GucContext::Suset,
            GucFlags::default(),
            Some(check_clock_offset),
            Some(assign_clock_offset),
            None,
        );
    }
}

/// An empty setting and a bare number of seconds are accepted too.
fn parse_offset(text: &CStr) -> Option<Span> {
    let text = text.to_str().ok()?.trim();
    if text.is_empty() || text == "0" { Some(Span(0)) } else { parse_interval(text).ok() }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_clock_offset(
    new: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes a pointer to the proposed value, NULL or a C string.
    let valid = unsafe { (*new).is_null() || parse_offset(CStr::from_ptr(*new)).is_some() };
    if !valid {
        // SAFETY: guc.c reads this string in the error report that follows, before the context it lives in is reset.
        unsafe {
            pg_sys::GUC_check_errdetail_string =
                pg_sys::pstrdup(c"It must be an interval such as \"90 minutes\" or \"-2.5 seconds\".".as_ptr())
        };
    }
    valid
}

#[pg_guard]
unsafe extern "C-unwind" fn assign_clock_offset(new: *const c_char, _extra: *mut c_void) {
    // SAFETY: NULL or the C string that the check hook accepted.
    let span = unsafe { if new.is_null() { None } else { parse_offset(CStr::from_ptr(new)) } };
    OFFSET.set(span.unwrap_or_default());
}

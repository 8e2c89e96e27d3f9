//! Background processes: how they are started, what ends them, and transactions in them.
use crate::pg::error::sqlstate;
use crate::pg::guc;
use pgrx::PgTryBuilder;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags};
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use std::ffi::{CString, c_int};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// Whether the library is being loaded by shared_preload_libraries.
pub fn is_server_starting() -> bool {
    // SAFETY: a flag of the postmaster.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Registers the launcher, while the server starts. It starts when recovery has ended: never on a standby, and at once
/// when that is promoted.
pub fn register_launcher(function: &str) {
    BackgroundWorkerBuilder::new("pg_stepwise launcher")
        .set_type("pg_stepwise launcher")
        .set_library("pg_stepwise")
        .set_function(function)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(5)))
        .load();
}

/// A process that was started, as its starter knows it.
pub struct Started(pgrx::bgworkers::DynamicBackgroundWorker);

impl Started {
    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        matches!(self.0.pid(), Err(pgrx::bgworkers::BackgroundWorkerStatus::Stopped))
    }

    pub fn terminate(self) {
        self.0.terminate();
    }
}

/// Starts a process; `None`: max_worker_processes are running. The starter is woken when it starts and ends.
pub fn start(kind: &str, name: &str, function: &str, database: Oid, extra: &str) -> Option<Started> {
    // SAFETY: set once at the start of the process.
    let my_pid = unsafe { pg_sys::MyProcPid };
    let builder = BackgroundWorkerBuilder::new(name)
        .set_type(kind)
        .set_library("pg_stepwise")
        .set_function(function)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(None)
        .set_argument(database.into_datum())
        .set_extra(extra)
        .set_notify_pid(my_pid);
    builder.load_dynamic().ok().map(Started)
}

/// What the starter has passed on.
pub fn extra() -> &'static str {
    BackgroundWorker::get_extra()
}

/// Begins a process without a database: it can look up databases, no more.
pub fn begin_without_database() {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    BackgroundWorker::connect_worker_to_spi(None, None);
}

/// Begins a process of a database as the owner of the cluster. SIGTERM ends it between two waits.
pub fn begin(database: Oid) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(database), None);
}

/// Begins a process of a database as a role, which it cannot leave. SIGTERM and a cancel interrupt what it does.
pub fn begin_as(database: Oid, role: Oid) {
    // SAFETY: the handlers are the server's own, for processes that run statements. From 17 on a role that may not log in
    // can be that of a process.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        {
            pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(die));
            pg_sys::pqsignal(pg_sys::SIGHUP as i32, Some(SignalHandlerForConfigReload));
        }
        #[cfg(feature = "pg18")]
        {
            pg_sys::pqsignal_be(pg_sys::SIGTERM as i32, Some(die));
            pg_sys::pqsignal_be(pg_sys::SIGHUP as i32, Some(SignalHandlerForConfigReload));
        }
        pg_sys::BackgroundWorkerUnblockSignals();
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        let flags = pg_sys::BGWORKER_BYPASS_ROLELOGINCHECK;
        #[cfg(not(any(feature = "pg17", feature = "pg18")))]
        let flags = 0;
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, role, flags);
    }
}

/// Whether this process has been asked to end.
pub fn must_end() -> bool {
    BackgroundWorker::sigterm_received()
}

/// Reads the configuration anew where that was asked for.
pub fn reload() {
    if BackgroundWorker::sighup_received() {
        // SAFETY: between two transactions, as every process does it.
        unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
    }
}

/// The same for a process that was begun with [`begin_as`].
pub fn reload_as() {
    // SAFETY: a flag of this process that its signal handler sets.
    unsafe {
        if (&raw const pg_sys::ConfigReloadPending).read_volatile() != 0 {
            (&raw mut pg_sys::ConfigReloadPending).write_volatile(0);
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// An error that ended a transaction.
pub struct Aborted {
    pub sqlstate: String,
    pub message: String,
}

/// Runs `body` in a transaction of its own. An error aborts it and is returned; the process goes on.
pub fn transaction<R>(body: impl FnOnce() -> R) -> Result<R, Aborted> {
    PgTryBuilder::new(AssertUnwindSafe(|| Ok(BackgroundWorker::transaction(AssertUnwindSafe(body)))))
        .catch_others(|error| {
            use pg_sys::panic::CaughtError;
            let (sqlstate, message) = match &error {
                CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
                    (sqlstate(report.sql_error_code() as i32), report.message().to_owned())
                }
                CaughtError::RustPanic { ereport, .. } => {
                    (sqlstate(ereport.sql_error_code() as i32), ereport.message().to_owned())
                }
            };
            // SAFETY: the error has been taken; aborting is all that is left of the transaction. A cancel that arrives
            // late is not meant for the next one.
            unsafe {
                pg_sys::InterruptHoldoffCount += 1;
                timeout_off();
                pg_sys::AbortCurrentTransaction();
                (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
                pg_sys::InterruptHoldoffCount -= 1;
            }
            pgrx::log!("pg_stepwise: {sqlstate} {message}");
            Err(Aborted { sqlstate, message })
        })
        .execute()
}

unsafe extern "C-unwind" {
    fn die(signal: c_int);
    fn SignalHandlerForConfigReload(signal: c_int);
    fn enable_timeout_after(id: c_int, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
}

/// `STATEMENT_TIMEOUT` of the server's list of timeouts, in which new ones are appended.
const STATEMENT_TIMEOUT: c_int = 3;

/// Cancels what this process does when so many milliseconds are over; the setting says the same.
pub fn timeout_on(millis: i32) {
    guc::set_local(c"statement_timeout", &CString::new(millis.to_string()).unwrap_or_default());
    // SAFETY: the timeout was registered when the process connected to its database.
    unsafe { enable_timeout_after(STATEMENT_TIMEOUT, millis) };
}

/// Ends the timeout.
pub fn timeout_off() {
    // SAFETY: as above; it may be off.
    unsafe { disable_timeout(STATEMENT_TIMEOUT, false) };
}

/// Says in pg_stat_activity what this process does; `None`: it waits.
pub fn report_activity(activity: Option<&str>) {
    let text = activity.and_then(|text| CString::new(text).ok());
    // SAFETY: the text is copied.
    unsafe {
        match text {
            Some(text) => pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr()),
            None => pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null()),
        }
    }
}

/// Puts back what a handler may have changed in its session: settings, roles, temporary tables, advisory locks.
pub fn reset_session() {
    // SAFETY: what DISCARD ALL calls, as far as it can be done within a transaction.
    unsafe {
        guc::reset_session(c"session_authorization");
        guc::reset_session(c"role");
        pg_sys::ResetAllOptions();
        pg_sys::ResetTempTableNamespace();
        // Session-level advisory locks.
        pg_sys::LockReleaseAll(pg_sys::USER_LOCKMETHOD as _, true);
    }
}

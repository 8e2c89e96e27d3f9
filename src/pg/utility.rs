//! DROP DATABASE: it fails while anybody is connected, so the database's own processes leave first.
use super::{board, catalog, time};
use crate::engine::time::Span;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;
use std::sync::OnceLock;

/// How long they stay away; where the database is still there then, they come back.
const STAY_AWAY: Span = Span::from_secs(10);

static PREVIOUS: OnceLock<pg_sys::ProcessUtility_hook_type> = OnceLock::new();

unsafe extern "C-unwind" {
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        query: *const std::ffi::c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// Hooks into utility statements, while the server starts.
pub fn watch_drop_database() {
    // SAFETY: the postmaster, before any other process; the hook that was there is called by ours.
    unsafe {
        let _ = PREVIOUS.set(pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(on_utility);
    }
}

/// Every utility statement of the server comes here. What the statement itself raises passes as it is: this frame has no
/// guard, which would turn an error into less than it is, and owns nothing that would have to be dropped.
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const std::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the arguments are passed on as they came. A DropdbStmt is what its tag says.
    unsafe {
        let node = (*statement).utilityStmt;
        if !node.is_null() && (*node).type_ == pg_sys::NodeTag::T_DropdbStmt {
            before_drop(node.cast::<pg_sys::DropdbStmt>());
        }
        let next = PREVIOUS.get().copied().flatten().unwrap_or(standard_ProcessUtility);
        next(statement, query, read_only_tree, context, params, environment, destination, completion);
    }
}

/// The statement itself waits some seconds for others to leave, and refuses whoever may not drop.
#[pg_guard]
unsafe extern "C-unwind" fn before_drop(statement: *mut pg_sys::DropdbStmt) {
    // SAFETY: a DropdbStmt, whose name is a C string.
    let name = unsafe { CStr::from_ptr((*statement).dbname) }.to_string_lossy();
    if let Some(database) = catalog::database(&name).filter(|oid| may_drop(*oid)) {
        board::suspend(database.to_u32(), time::now().plus(STAY_AWAY));
    }
}

/// Whether the caller owns the database.
fn may_drop(database: pg_sys::Oid) -> bool {
    // SAFETY: look-ups in the system caches, within a transaction.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_database_ownercheck(database, pg_sys::GetUserId());
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, pg_sys::GetUserId());
    }
}

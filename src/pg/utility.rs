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

#[pg_guard]
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
            let drop = &*node.cast::<pg_sys::DropdbStmt>();
            let name = CStr::from_ptr(drop.dbname).to_string_lossy();
            // The statement itself waits some seconds for others to leave, and refuses whoever may not drop.
            if let Some(database) = catalog::database(&name).filter(|oid| may_drop(*oid)) {
                board::suspend(database.to_u32(), time::now().plus(STAY_AWAY));
            }
        }
        let next = PREVIOUS.get().copied().flatten().unwrap_or(standard_ProcessUtility);
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            next(statement, query, read_only_tree, context, params, environment, destination, completion)
        });
    }
}

/// Whether the caller owns the database.
fn may_drop(database: pg_sys::Oid) -> bool {
    // SAFETY: look-ups in the system caches, within a transaction.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        return pg_sys::pg_database_ownercheck(database, pg_sys::GetUserId());
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        return pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, pg_sys::GetUserId());
    }
}

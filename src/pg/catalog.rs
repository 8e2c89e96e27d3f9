//! Who owns the extension's tables, who calls, and which incarnation of the extension is installed.
use super::role;
use pgrx::pg_guard;
use pgrx::pg_sys::{self, Oid};
use std::cell::{Cell, RefCell};
use std::ffi::CStr;

thread_local! {
    /// Relations of schema `stepwise` that have been looked up: a call asks for some dozens of times, and a look-up by name is
    /// two in the system caches. Emptied by whatever PostgreSQL says about one of them.
    static RELATIONS: RefCell<Vec<(&'static CStr, Oid)>> = const { RefCell::new(Vec::new()) };
    static IS_WATCHING: Cell<bool> = const { Cell::new(false) };
}

/// The oid of `stepwise.template_steps`: another one after DROP and CREATE EXTENSION, so what a backend remembers
/// about templates is valid only together with it.
pub fn incarnation() -> Oid {
    relation(c"template_steps")
}

/// The table, index or sequence of this name in schema `stepwise`.
pub(super) fn relation(name: &'static CStr) -> Oid {
    let known = RELATIONS.with_borrow(|relations| relations.iter().find(|known| known.0 == name).map(|known| known.1));
    known.unwrap_or_else(|| {
        // SAFETY: a callback that lives as long as the library, registered once; two look-ups in the system caches.
        let oid = unsafe {
            if !IS_WATCHING.replace(true) {
                pg_sys::CacheRegisterRelcacheCallback(Some(forget), pg_sys::Datum::null());
            }
            pg_sys::get_relname_relid(name.as_ptr(), pg_sys::get_namespace_oid(c"stepwise".as_ptr(), true))
        };
        if oid != Oid::INVALID {
            RELATIONS.with_borrow_mut(|relations| relations.push((name, oid)));
        }
        oid
    })
}

/// Something has changed about a relation, or (no oid) about any of them.
#[pg_guard]
unsafe extern "C-unwind" fn forget(_argument: pg_sys::Datum, relation: Oid) {
    RELATIONS.with_borrow_mut(|relations| {
        if relation == Oid::INVALID || relations.iter().any(|known| known.1 == relation) {
            relations.clear();
        }
    });
}

/// The oid of a database, if there is one of this name.
pub fn database(name: &str) -> Option<Oid> {
    databases().into_iter().find(|(known, _)| known == name).map(|(_, oid)| oid)
}

/// Every database of the cluster. Read without an index: a process without a database may have none yet.
pub fn databases() -> Vec<(String, Oid)> {
    let mut found = Vec::new();
    // SAFETY: a scan of a shared catalog, within a transaction; a row's fixed part begins as its struct says.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan =
            pg_sys::systable_beginscan(relation, Oid::INVALID, false, std::ptr::null_mut(), 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            found.push((CStr::from_ptr(row.datname.data.as_ptr()).to_string_lossy().into_owned(), row.oid));
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    found
}

/// Refuses (25006) what a hot standby cannot do.
pub fn refuse_on_standby(command: &CStr) {
    // SAFETY: a C string for the message.
    unsafe { pg_sys::PreventCommandDuringRecovery(command.as_ptr()) };
}

/// Refuses (25006) what a read-only transaction cannot do.
pub fn refuse_read_only(command: &CStr) {
    // SAFETY: a C string for the message.
    unsafe { pg_sys::PreventCommandIfReadOnly(command.as_ptr()) };
}

/// The role that acts, for the history: SET ROLE or the session's user, whatever SECURITY DEFINER function is between. No
/// right hangs on it.
pub fn actor() -> String {
    // SAFETY: reads a variable.
    role::name(unsafe { pg_sys::GetOuterUserId() })
}

/// Runs `body` with the rights of the owner of `table` and a safe search_path, as Postgres' own foreign-key triggers
/// do. For what the triggers must read and write on behalf of a role that may only update; no user code runs inside.
pub fn as_owner_of<R>(table: Oid, body: impl FnOnce() -> R) -> R {
    // SAFETY: the relation is opened and closed around the read of its owner; user id and settings are put back below,
    // and by Postgres itself where an error passes.
    unsafe {
        let relation = pg_sys::relation_open(table, pg_sys::AccessShareLock as i32);
        let owner = (*(*relation).rd_rel).relowner;
        pg_sys::relation_close(relation, pg_sys::NoLock as i32);
        let (mut user, mut context) = (Oid::INVALID, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::SetUserIdAndSecContext(owner, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
        pg_sys::set_config_option(
            c"search_path".as_ptr(),
            c"pg_catalog, pg_temp".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        let result = body();
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(user, context);
        result
    }
}

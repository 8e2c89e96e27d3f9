//! Roles: who calls, whose rights they have, and when what was looked up about that may have changed.
use super::catalog::relation;
use pgrx::pg_guard;
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::{Cell, OnceCell};
use std::ffi::{CStr, CString, c_int};

thread_local! {
    static GENERATION: Cell<u64> = const { Cell::new(1) };
    static WATCHED: Cell<[Oid; 4]> = const { Cell::new([Oid::INVALID; 4]) };
    static REGISTERED: OnceCell<()> = const { OnceCell::new() };
}

/// Tables of the extension, by name, whose change counts.
const WATCHED_TABLES: [&CStr; 4] = [c"access", c"namespaces", c"tasks", c"template_steps"];

#[pg_guard]
unsafe extern "C-unwind" fn role_changed(_arg: Datum, _cache: c_int, _hash: u32) {
    GENERATION.set(GENERATION.get() + 1);
}

#[pg_guard]
unsafe extern "C-unwind" fn table_changed(_arg: Datum, table: Oid) {
    if table == Oid::INVALID || WATCHED.get().contains(&table) {
        GENERATION.set(GENERATION.get() + 1);
    }
}

/// Takes what other sessions have committed into account, as the next lock would.
#[inline]
pub fn catch_up() {
    // SAFETY: what every lock of a relation does first.
    unsafe { pg_sys::AcceptInvalidationMessages() };
}

/// A number that is another one after roles, memberships, the rights on the schema or a watched table have changed: what
/// was looked up under it counts as long as it stays. Other sessions' changes arrive with the next lock or [`catch_up`].
#[inline]
pub fn generation() -> u64 {
    REGISTERED.with(|registered| {
        registered.get_or_init(|| {
            // SAFETY: once for each backend; the functions touch thread-locals only.
            unsafe {
                use pg_sys::SysCacheIdentifier::{AUTHMEMROLEMEM, AUTHOID, NAMESPACEOID};
                for cache in [AUTHOID, AUTHMEMROLEMEM, NAMESPACEOID] {
                    pg_sys::CacheRegisterSyscacheCallback(cache as c_int, Some(role_changed), Datum::null());
                }
                pg_sys::CacheRegisterRelcacheCallback(Some(table_changed), Datum::null());
            }
        });
    });
    GENERATION.get()
}

/// Watches the tables from now on; before what they say is read.
pub fn watch() -> u64 {
    WATCHED.set(WATCHED_TABLES.map(relation));
    generation()
}

/// Tells every backend, at the commit, that rows of a watched table have changed.
pub fn tell_backends(table: Oid) {
    // SAFETY: queues a message; the table exists.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table) };
}

/// The same for a table by its name.
pub fn tell_backends_of(table: &'static CStr) {
    tell_backends(relation(table));
}

/// The role whose rights count now.
#[inline]
pub fn current() -> Oid {
    // SAFETY: reads a variable.
    unsafe { pg_sys::GetUserId() }
}

/// A role's name.
pub fn name(role: Oid) -> String {
    // SAFETY: the name is a C string in the current memory context; NULL where the role is gone.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() { String::from("unknown") } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// Whether no policy of a table holds for the role: a superuser, one with BYPASSRLS, or one with the owner's rights.
pub fn is_free(role: Oid) -> bool {
    // SAFETY: look-ups in caches; the relation is opened and closed around the read of its owner.
    unsafe {
        if pg_sys::has_bypassrls_privilege(role) {
            return true;
        }
        let table = pg_sys::relation_open(relation(c"access"), pg_sys::AccessShareLock as i32);
        let owner = (*(*table).rd_rel).relowner;
        pg_sys::relation_close(table, pg_sys::AccessShareLock as i32);
        pg_sys::has_privs_of_role(role, owner)
    }
}

/// Whether policies keep roles to namespaces. The first grant of a namespace makes them, and they stay.
pub fn is_separated() -> bool {
    // SAFETY: the relation is opened and closed around the read of a flag.
    unsafe {
        let table = pg_sys::table_open(relation(c"tasks"), pg_sys::AccessShareLock as i32);
        let separated = (*(*table).rd_rel).relrowsecurity;
        pg_sys::table_close(table, pg_sys::AccessShareLock as i32);
        separated
    }
}

/// The roles that the rights on schema `stepwise` name. One that was dropped is not among them, nor a new one of its name.
pub fn named_by_schema() -> Vec<Oid> {
    // SAFETY: the tuple is released after the list, which is detoasted into the current memory context, has been read.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"stepwise".as_ptr(), true);
        let cache = pg_sys::SysCacheIdentifier::NAMESPACEOID as c_int;
        let tuple = pg_sys::SearchSysCache1(cache, Datum::from(schema));
        if tuple.is_null() {
            return Vec::new();
        }
        let mut null = false;
        let column = pg_sys::Anum_pg_namespace_nspacl as i16;
        let list = pg_sys::SysCacheGetAttr(cache, tuple, column, &mut null);
        let mut named = Vec::new();
        if !null {
            let list = pg_sys::pg_detoast_datum(list.cast_mut_ptr());
            let mut roles: *mut Oid = std::ptr::null_mut();
            let count = pg_sys::aclmembers(list.cast(), &mut roles);
            if count > 0 {
                named.extend_from_slice(std::slice::from_raw_parts(roles, count as usize));
            }
        }
        pg_sys::ReleaseSysCache(tuple);
        named
    }
}

/// The role of this name, if the first has its rights.
pub fn inherited(role: Oid, name: &str) -> Option<Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: look-ups in caches.
    unsafe {
        let other = pg_sys::get_role_oid(name.as_ptr(), true);
        (other != Oid::INVALID && pg_sys::has_privs_of_role(role, other)).then_some(other)
    }
}

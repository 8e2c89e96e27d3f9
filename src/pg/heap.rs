//! Rows appended to a table without a statement: formed, put into the heap and into the indexes, as Postgres does for
//! its own catalogs. For an append-only table that belongs to the engine alone: no trigger, constraint or default is
//! evaluated, so [`append`] declines where the table has any of which that would matter.
use super::catalog::relation;
use super::value::Param;
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::CStr;

unsafe extern "C-unwind" {
    fn nextval_internal(relid: Oid, check_permissions: bool) -> i64;
}

/// `count` values of a sequence.
pub fn draw(sequence: &'static CStr, count: usize) -> Vec<i64> {
    let sequence = relation(sequence);
    // SAFETY: the guard turns an ERROR into a Rust panic that pgrx re-raises. The caller runs as the owner.
    let draw = || unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| nextval_internal(sequence, false)) };
    (0..count).map(|_| draw()).collect()
}

/// The current transaction's id as xid8; assigned if it had none.
pub fn transaction_id() -> u64 {
    // SAFETY: reads or assigns the id of the current transaction.
    unsafe { pg_sys::GetTopFullTransactionId().value }
}

/// Rows longer than this may have to be toasted, which the insertion of many at once cannot do.
const SHORT: u32 = 1900;
/// Rows inserted at once.
const CHUNK: usize = 1000;

/// Appends rows, each with a value for every column of the table in order. `false`, and nothing done: the table has an
/// INSERT trigger, a partial or an expression index, or is no plain table; a statement must do it.
pub fn append<const COLUMNS: usize>(table: &'static CStr, rows: &[[Param; COLUMNS]]) -> bool {
    // SAFETY: the relation and its indexes are open while they are used; the lock stays until the transaction ends, as
    // after an INSERT. Tuples are formed from as many values as the table has columns, of their types: a test compares
    // them with the catalog.
    unsafe {
        let heap = pg_sys::table_open(relation(table), pg_sys::RowExclusiveLock as i32);
        let indexes = pg_sys::CatalogOpenIndexes(heap);
        let plain = is_plain(heap, indexes, COLUMNS);
        if plain {
            for chunk in rows.chunks(CHUNK) {
                let mut tuples: Vec<pg_sys::HeapTuple> = chunk.iter().map(|row| form(heap, row)).collect();
                insert(heap, indexes, &mut tuples);
            }
        }
        pg_sys::CatalogCloseIndexes(indexes);
        pg_sys::table_close(heap, pg_sys::NoLock as i32);
        plain
    }
}

unsafe fn is_plain(heap: pg_sys::Relation, indexes: pg_sys::CatalogIndexState, columns: usize) -> bool {
    // SAFETY: an open relation and its opened indexes.
    unsafe {
        let class = &*(*heap).rd_rel;
        let triggers = (*heap).trigdesc;
        let inserts = !triggers.is_null()
            && ((*triggers).trig_insert_before_row
                || (*triggers).trig_insert_after_row
                || (*triggers).trig_insert_before_statement
                || (*triggers).trig_insert_after_statement);
        let indexes = &*indexes;
        let simple = |index: usize| {
            let info = &**indexes.ri_IndexRelationInfo.add(index);
            info.ii_Expressions.is_null() && info.ii_Predicate.is_null() && info.ii_ReadyForInserts
        };
        class.relkind == pg_sys::RELKIND_RELATION as std::ffi::c_char
            && class.relchecks == 0
            && class.relnatts as usize == columns
            && !inserts
            && (0..indexes.ri_NumIndices as usize).all(simple)
    }
}

unsafe fn form<const COLUMNS: usize>(heap: pg_sys::Relation, row: &[Param; COLUMNS]) -> pg_sys::HeapTuple {
    let mut values = row.map(|param| if param.null { Datum::null() } else { param.datum });
    let mut nulls = row.map(|param| param.null);
    // SAFETY: as many values and flags as the relation has columns.
    unsafe { pg_sys::heap_form_tuple((*heap).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr()) }
}

unsafe fn insert(heap: pg_sys::Relation, indexes: pg_sys::CatalogIndexState, tuples: &mut [pg_sys::HeapTuple]) {
    // SAFETY: tuples of this relation. A slot only points to its tuple, and is dropped before it.
    unsafe {
        if tuples.len() == 1 || tuples.iter().any(|tuple| (**tuple).t_len > SHORT) {
            for tuple in tuples.iter() {
                pg_sys::CatalogTupleInsertWithInfo(heap, *tuple, indexes);
            }
        } else {
            // Of a description of their own, which no slot has to hold on to.
            let description = pg_sys::CreateTupleDescCopy((*heap).rd_att);
            let slot = |tuple: &pg_sys::HeapTuple| {
                let slot = pg_sys::MakeSingleTupleTableSlot(description, &pg_sys::TTSOpsHeapTuple);
                pg_sys::ExecStoreHeapTuple(*tuple, slot, false);
                slot
            };
            let mut slots: Vec<*mut pg_sys::TupleTableSlot> = tuples.iter().map(slot).collect();
            pg_sys::CatalogTuplesMultiInsertWithInfo(heap, slots.as_mut_ptr(), slots.len() as i32, indexes);
            slots.into_iter().for_each(|slot| pg_sys::ExecDropSingleTupleTableSlot(slot));
            pg_sys::FreeTupleDesc(description);
        }
        tuples.iter().for_each(|tuple| pg_sys::heap_freetuple(*tuple));
    }
}

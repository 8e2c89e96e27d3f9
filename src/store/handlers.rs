//! SQL handlers: functions that the database itself runs.
use super::access;
use super::error::StoreError;
use crate::engine::template::Template;
use crate::pg::array::array;
use crate::pg::spi::{Session, Statement};
use crate::pg::value::param;
use std::collections::{BTreeSet, HashMap};

// With the rights of the role that registers, not of the owner as whom the statement runs.
static FIND: Statement = Statement::fresh(
    "SELECT i.handler, cardinality(i.parts) = 2, quote_ident(i.parts[1]) || '.' || quote_ident(i.parts[2]), p.oid IS NOT NULL, \
         coalesce(p.prorettype = 'jsonb'::regtype AND NOT p.proretset AND p.prokind = 'f', false), \
         coalesce(has_function_privilege($2, p.oid, 'EXECUTE') AND has_schema_privilege($2, n.oid, 'USAGE'), false) \
     FROM (SELECT h, parse_ident(h) FROM unnest($1) AS h) AS i (handler, parts) \
     LEFT JOIN pg_namespace n ON n.nspname = i.parts[1] \
     LEFT JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = i.parts[2] \
         AND p.pronargs = 1 AND p.proargtypes[0] = 'stepwise.step_context'::regtype",
);

/// Looks up the SQL handlers of a template; their names as they are kept, quoted where need be.
pub fn check(spi: &Session, template: &Template) -> Result<HashMap<String, String>, StoreError> {
    let handlers: BTreeSet<&str> =
        template.steps.iter().filter(|step| step.in_database).map(|step| step.handler.as_str()).collect();
    if handlers.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = FIND.run(spi, &[array(&handlers.into_iter().collect::<Vec<_>>()), param(access::caller())]);
    let mut known = HashMap::new();
    for row in rows.iter() {
        let handler: String = row.want(1);
        if !row.want::<bool>(2) {
            return Err(StoreError::HandlerUnqualified { handler });
        }
        if !row.want::<bool>(4) {
            return Err(StoreError::HandlerNotFound { handler });
        }
        if !row.want::<bool>(5) {
            return Err(StoreError::HandlerSignature { handler });
        }
        if !row.want::<bool>(6) {
            return Err(StoreError::HandlerForbidden { handler, role: access::caller() });
        }
        known.insert(handler, row.want(3));
    }
    Ok(known)
}

//! All that the extension stores, as one value: a call that was refused, cut off or taken back has not changed it.
use super::database::one;
use postgres::Client;

/// Every row of every table of the extension. Sequences are no part of it: what they have drawn stays drawn.
#[track_caller]
pub fn contents(client: &mut Client) -> String {
    let tables = "SELECT string_agg(format('SELECT %L || t::text AS line FROM stepwise.%I t', relname, relname), ' UNION ALL ') \
        FROM pg_class WHERE relnamespace = 'stepwise'::regnamespace AND relkind = 'r'";
    let tables: String = one(client, tables, &[]);
    one(client, &format!("SELECT md5(string_agg(line, chr(10) ORDER BY line)) FROM ({tables}) AS lines"), &[])
}

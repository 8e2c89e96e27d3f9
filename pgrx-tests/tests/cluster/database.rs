//! One database of a server, and short ways to ask it something.
use super::server::Server;
use postgres::types::{FromSqlOwned, ToSql};
use postgres::{Client, Config, NoTls};
use std::path::PathBuf;

/// Says where to connect; a value of its own, so that threads can have it.
#[derive(Clone)]
pub struct Database {
    pub name: String,
    pub socket: PathBuf,
    config: Config,
}

impl Database {
    pub fn new(server: &Server, name: &str) -> Database {
        Database { name: name.to_owned(), socket: server.socket(), config: server.connection(name) }
    }

    pub fn connect(&self) -> Client {
        self.config.connect(NoTls).expect("the database takes connections")
    }

    /// `None` where the server is not there.
    pub fn try_connect(&self) -> Option<Client> {
        self.config.connect(NoTls).ok()
    }
}

/// The one value that a query returns.
#[track_caller]
pub fn one<T: FromSqlOwned>(client: &mut Client, sql: &str, params: &[&(dyn ToSql + Sync)]) -> T {
    match client.query_one(sql, params) {
        Ok(row) => row.get(0),
        Err(error) => panic!("{sql}: {error:?}"),
    }
}

/// `count(*)` of what stands after FROM.
#[track_caller]
pub fn count(client: &mut Client, from: &str) -> i64 {
    one(client, &format!("SELECT count(*) FROM {from}"), &[])
}

/// The SQLSTATE that a statement is refused with.
#[track_caller]
pub fn refusal(client: &mut Client, sql: &str, params: &[&(dyn ToSql + Sync)]) -> String {
    match client.query(sql, params) {
        Ok(_) => panic!("{sql}: not refused"),
        Err(error) => error.code().map(|state| state.code().to_owned()).unwrap_or_else(|| panic!("{sql}: {error:?}")),
    }
}

/// The contents of every table of the extension, and where its sequences stand.
pub fn contents(client: &mut Client) -> Vec<(String, String)> {
    of_relations(client, "rS")
}

/// The contents of every table of the extension. What sequences have drawn stays drawn after a rollback.
pub fn rows(client: &mut Client) -> Vec<(String, String)> {
    of_relations(client, "r")
}

fn of_relations(client: &mut Client, kinds: &str) -> Vec<(String, String)> {
    let relations = "SELECT c.relname::text, c.relkind = 'S' FROM pg_class c \
        WHERE c.relnamespace = 'stepwise'::regnamespace AND position(c.relkind IN $1) > 0 ORDER BY c.relname";
    let relations: Vec<(String, bool)> =
        client.query(relations, &[&kinds]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    relations
        .into_iter()
        .map(|(name, is_sequence)| {
            let rows = if is_sequence {
                format!("SELECT (last_value, is_called)::text FROM stepwise.{name}")
            } else {
                format!("SELECT coalesce(string_agg(r::text, chr(10) ORDER BY r::text), '') FROM stepwise.{name} r")
            };
            let rows = one(client, &rows, &[]);
            (name, rows)
        })
        .collect()
}

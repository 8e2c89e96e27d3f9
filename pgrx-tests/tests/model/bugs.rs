//! Proves the checker: of an extension that is built with bugs on purpose (`src/pg/planted.rs`) it must find each one, and
//! none where none is chosen. `make mutants` builds it so and prints the table.
use crate::cluster::{Database, Server};
use crate::settings::Settings;
use crate::{sequential, sessions};
use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

/// By which part, after how many commands or calls, and what it said.
type Caught = (&'static str, String, String);

/// The bugs, by the source that has them: none is forgotten.
fn bugs() -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/pg/planted.rs");
    let source = fs::read_to_string(source).expect("the source is there");
    let variants = source.split("pub enum Bug {").nth(1).and_then(|rest| rest.split('}').next()).expect("an enum");
    let names = variants.lines().filter_map(|line| line.trim().strip_suffix(','));
    names.filter(|name| name.chars().all(char::is_alphanumeric)).map(str::to_owned).collect()
}

fn with_bug(server: &Server, bug: &str) -> Database {
    let database = server.database(&format!("bug_{}", bug.to_lowercase()));
    let name = &database.name;
    let sql = format!("LOAD 'pg_stepwise'; ALTER DATABASE {name} SET stepwise.planted_bug = '{bug}'");
    database.connect().batch_execute(&sql).expect("the extension is built with the feature planted_bugs");
    database
}

/// What each part finds; a refusal or an answer that nobody expects ends it too.
fn caught(database: &Database, settings: &Settings) -> Option<Caught> {
    let first_line = |what: &str| what.lines().next().unwrap_or("").chars().take(70).collect::<String>();
    match catch_unwind(AssertUnwindSafe(|| sequential::check(database, settings))) {
        Ok(Ok(_)) => {}
        Ok(Err(found)) => return Some(("one session", found.operations.to_string(), first_line(found.what()))),
        Err(_) => return Some(("one session", "?".into(), "an unexpected panic".into())),
    }
    match catch_unwind(AssertUnwindSafe(|| sessions::check(database, settings))) {
        Ok(Ok(_)) => None,
        Ok(Err(found)) => Some(("several sessions", found.operations.to_string(), first_line(&found.what))),
        Err(_) => Some(("several sessions", "?".into(), "an unexpected panic".into())),
    }
}

#[test]
fn every_planted_bug_is_found() {
    let settings = Settings { shorten: false, ..Settings::from_environment() };
    let server = Server::start_with(&["fsync=off", "deadlock_timeout=10ms", "log_lock_waits=on", "max_connections=60"]);
    println!("| Bug | Found by | After | Told as |\n|---|---|---|---|");
    let mut wrong = Vec::new();
    match caught(&with_bug(&server, "None"), &settings) {
        None => println!("| none | nothing | | |"),
        Some(found) => wrong.push(format!("without a bug: {found:?}{}", crate::deadlocks(&server))),
    }
    // What has slipped through in one session is given more time.
    let settings = Settings { time: settings.time.max(Duration::from_secs(60)), ..settings };
    let wanted = env::var("PG_STEPWISE_MODEL_BUG").unwrap_or_default();
    for bug in bugs().into_iter().filter(|bug| wanted.is_empty() || *bug == wanted) {
        match caught(&with_bug(&server, &bug), &settings) {
            Some((part, after, what)) => println!("| `{bug}` | {part} | {after} | {} |", what.replace('|', "/")),
            None => {
                println!("| `{bug}` | **nothing** | | |");
                wrong.push(format!("{bug} was not found"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

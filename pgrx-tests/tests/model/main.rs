//! The model checker: a random driver of every command, and a plain model of the rules that knows what must come of it.
//! `docs/model-checker.md` tells how to run it and how to read what it prints.
#[cfg(feature = "planted_bugs")]
mod bugs;
#[path = "../cluster/mod.rs"]
mod cluster;
mod command;
mod observe;
mod replay;
mod rules;
mod sequential;
mod session;
mod sessions;
mod settings;
mod shape;
mod walk;

use cluster::Server;
use settings::Settings;

#[test]
fn one_session_does_what_the_model_does() {
    let settings = Settings::from_environment();
    let server = Server::start_with(&["fsync=off"]);
    let database = server.database("model");
    match sequential::check(&database, &settings) {
        Ok(done) => {
            println!("{done}");
            done.assert_all_was_met();
        }
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn what_several_sessions_do_is_what_the_rules_allow() {
    let settings = Settings::from_environment();
    let server = Server::start_with(&["fsync=off", "deadlock_timeout=10ms", "log_lock_waits=on", "max_connections=60"]);
    let database = server.database("model");
    match sessions::check(&database, &settings) {
        Ok(done) => {
            println!("{done}");
            // A run that was told how many commands to make may be as short as it likes.
            if settings.operations == usize::MAX {
                done.assert_all_was_met(&settings);
            }
        }
        Err(failure) => panic!("{failure}{}", deadlocks(&server)),
    }
}

/// Who met whom, as only the server's log tells.
fn deadlocks(server: &Server) -> String {
    let log = server.log();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.iter().rposition(|line| line.contains("deadlock detected"));
    last.map_or(String::new(), |last| {
        format!("\nthe last deadlock:\n{}", lines[last.saturating_sub(40)..(last + 6).min(lines.len())].join("\n"))
    })
}

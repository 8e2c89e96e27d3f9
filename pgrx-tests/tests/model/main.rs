//! The model checker: a random driver of every command, and a plain model of the rules that knows what must come of it.
//! `docs/model-checker.md` tells how to run it and how to read what it prints.
#[path = "../cluster/mod.rs"]
mod cluster;
mod command;
mod observe;
mod rules;
mod sequential;
mod session;
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
        Ok(done) => println!("{done}"),
        Err(failure) => panic!("{failure}"),
    }
}

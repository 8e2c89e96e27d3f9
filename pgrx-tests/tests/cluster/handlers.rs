//! SQL handlers for tests, in schema `app`, and a look at the background processes.
use super::{Server, one, wait};
use postgres::Client;

/// `app.enter` writes what it does to `app.entries`, then fails as often as the task's context says for its step, sleeps
/// as long as the step's config says, and returns who ran it.
pub const PREPARE: &str = "
    CREATE SCHEMA app;
    GRANT USAGE ON SCHEMA app TO PUBLIC;
    CREATE TABLE app.entries (task_id bigint, step text, attempt integer, UNIQUE (task_id, step));
    GRANT INSERT, SELECT ON app.entries TO PUBLIC;
    CREATE FUNCTION app.enter(given stepwise.step_context) RETURNS jsonb LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO app.entries VALUES (given.task_id, given.step_name, given.attempt);
        IF given.attempt <= coalesce((given.context ->> given.step_name)::integer, 0) THEN
            RAISE 'attempt % fails', given.attempt;
        END IF;
        PERFORM pg_sleep(coalesce((given.config ->> 'sleep')::double precision, 0));
        RETURN jsonb_build_object('user', current_user, 'session', session_user);
    END
    $$;";

/// A process of this kind (`launcher`, `coordinator`, `runner`) of the database that the client is connected to, if there
/// is one.
pub fn process(client: &mut Client, kind: &str) -> Option<i32> {
    let sql = "SELECT min(pid) FROM pg_stat_activity WHERE backend_type = 'pg_stepwise ' || $1 \
        AND (datname = current_database() OR $1 = 'launcher')";
    one(client, sql, &[&kind])
}

pub fn wait_for_process(client: &mut Client, kind: &str) -> i32 {
    wait::until(&format!("a {kind} runs"), || process(client, kind))
}

/// Waits until every task has ended.
pub fn wait_for_tasks(client: &mut Client) {
    wait::until("every task ends", || {
        let open = "SELECT count(*) FROM stepwise.tasks WHERE finished_at IS NULL";
        (one::<i64>(client, open, &[]) == 0).then_some(())
    });
}

/// A server that runs coordinators for these databases.
pub fn server(databases: &str) -> Server {
    let databases = format!("stepwise.databases={databases}");
    let settings = ["shared_preload_libraries=pg_stepwise", &databases, "stepwise.max_handlers=2"];
    Server::start_with(&[&settings[..], &["max_worker_processes=16"]].concat())
}

//! pg_stepwise: a workflow engine inside PostgreSQL. This file is the table of contents; `docs/architecture.md` tells
//! how the parts fit together.
//!
//! client → `api` (SQL functions), `drive` (handlers in the database) and `triggers` (the state machine) → `engine` (the
//! rules, pure) and `store` (the SQL) → the tables of schema `stepwise` → `events` (NOTIFY). `picture` draws what the store
//! has read, `pg` is the glue. Arrows never point back up.
#![deny(unsafe_code)]

use pgrx::prelude::*;

mod api;
mod drive;
#[allow(dead_code)] // what only the tests of the engine use
mod engine;
mod events;
mod pg;
#[cfg(any(test, feature = "pg_test"))]
mod pg_tests;
mod picture;
mod store;
mod triggers;

pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/schema/000_bootstrap.sql", name = "bootstrap", bootstrap);
extension_sql_file!("../sql/schema/010_tables.sql", name = "tables", requires = ["bootstrap"]);
extension_sql_file!(
    "../sql/schema/020_constraints_indexes.sql",
    name = "constraints_indexes",
    requires = ["tables", api::sound::is_sound_step, api::sound::is_sound_task]
);
extension_sql_file!(
    "../sql/schema/030_triggers.sql",
    name = "triggers",
    requires = [
        "constraints_indexes",
        triggers::kept_rows::keep_rows,
        triggers::remembered_rows::tell_backends,
        triggers::steps_before::steps_before_update,
        triggers::steps_after::steps_after_update,
        triggers::tasks_before::tasks_before_update,
        triggers::tasks_after::tasks_after_update
    ]
);
extension_sql_file!("../sql/schema/035_limits.sql", name = "limits", requires = ["triggers"]);
extension_sql_file!("../sql/schema/040_views.sql", name = "views", requires = ["tables"]);
extension_sql_file!("../sql/schema/045_audit.sql", name = "audit", requires = ["constraints_indexes"]);
extension_sql_file!("../sql/schema/046_fallback.sql", name = "fallback", requires = ["audit"]);
extension_sql_file!("../sql/schema/047_verify.sql", name = "verify", requires = ["fallback"]);
extension_sql_file!("../sql/schema/048_handlers.sql", name = "handlers", requires = ["tables"]);
extension_sql_file!("../sql/schema/070_metrics_live.sql", name = "metrics_live", requires = ["fallback"]);
extension_sql_file!("../sql/schema/071_metrics_history.sql", name = "metrics_history", requires = ["metrics_live"]);
extension_sql_file!(
    "../sql/schema/072_metrics_analytics.sql",
    name = "metrics_analytics",
    requires = ["metrics_history"]
);
extension_sql_file!("../sql/schema/073_prometheus.sql", name = "prometheus", requires = ["metrics_history"]);
extension_sql_file!(
    "../sql/schema/050_access.sql",
    name = "access",
    requires = ["views", "verify", "limits", "handlers", "metrics_analytics", "prometheus"]
);
extension_sql_file!("../sql/schema/900_finalize.sql", name = "finalize", finalize);

#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::guc::register();
    if pg::process::is_server_starting() {
        pg::board::request();
        pg::utility::watch_drop_database();
        drive::background::register();
    }
}

/// What `cargo pgrx test` asks of a crate.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        Vec::new()
    }
}

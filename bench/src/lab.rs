//! The server under measurement: connections, and what it can tell.
use crate::Result;
use postgres::{Client, Config, NoTls};
use std::error::Error;
use std::time::Duration;

/// A setting of a session.
pub type Setting = (&'static str, &'static str);

pub struct Lab {
    /// For everything that is not measured.
    pub control: Client,
    config: Config,
    /// Whether pg_walinspect can tell record bytes from page images (PostgreSQL 15 or newer, with contrib).
    pub walinspect: bool,
    /// Whether pg_stat_statements is loaded.
    pub statements: bool,
}

fn env(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

impl Lab {
    pub fn open() -> Result<Lab> {
        let mut config = Config::new();
        config
            .host(&env("PGHOST", "/var/run/postgresql"))
            .port(env("PGPORT", "5432").parse()?)
            .user(&env("PGUSER", "postgres"))
            .dbname(&env("PGDATABASE", "bench"))
            .application_name("pg_stepwise-bench")
            .connect_timeout(Duration::from_secs(10));
        let mut control = config.connect(NoTls)?;
        control.batch_execute("SET client_min_messages = warning; DROP SCHEMA IF EXISTS floor CASCADE")?;
        control.batch_execute(include_str!("../floor/schema.sql"))?;
        let available = |control: &mut Client, name: &str, condition: &str| -> Result<bool> {
            let sql = format!("SELECT 1 FROM pg_available_extensions WHERE name = '{name}' AND {condition}");
            let found = control.query_opt(&sql, &[])?.is_some();
            if found {
                control.batch_execute(&format!("CREATE EXTENSION IF NOT EXISTS {name} SCHEMA public"))?;
            }
            Ok(found)
        };
        let walinspect = available(&mut control, "pg_walinspect", "true")?;
        let loaded = "current_setting('shared_preload_libraries') LIKE '%pg_stat_statements%'";
        let statements = available(&mut control, "pg_stat_statements", loaded)?;
        Ok(Lab { control, config, walinspect, statements })
    }

    /// A connection of its own, with settings.
    pub fn connect(&self, settings: &[Setting]) -> Result<Client> {
        let mut client = self.config.connect(NoTls)?;
        for (name, value) in settings {
            client.execute("SELECT set_config($1, $2, false)", &[name, value])?;
        }
        Ok(client)
    }

    /// Where the two sets of hot tables have come apart.
    pub fn differences(&mut self) -> Result<Vec<String>> {
        let rows = self.control.query(include_str!("../floor/differences.sql"), &[])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// An error with its causes, which the driver's own message leaves out.
pub fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

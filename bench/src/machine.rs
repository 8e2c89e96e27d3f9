//! Where and on what a run was made.
use crate::Result;
use crate::lab::Lab;
use crate::options::Options;
use serde_json::{Value, json};
use std::process::Command;

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The commit, with "+" where the tree has further changes.
fn commit() -> Option<String> {
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"])?;
    let clean = output("git", &["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if clean { commit } else { format!("{commit}+") })
}

const SETTINGS: &[&str] = &[
    "shared_buffers",
    "fsync",
    "full_page_writes",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
    "wal_compression",
    "data_checksums",
    "shared_preload_libraries",
];

pub fn describe(lab: &mut Lab, options: &Options) -> Result<Value> {
    let row = lab.control.query_one(
        "SELECT current_setting('server_version'), to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), \
             (SELECT extversion FROM pg_extension WHERE extname = 'pg_stepwise')",
        &[],
    )?;
    let mut settings = serde_json::Map::new();
    for name in SETTINGS {
        let value: Option<String> = lab.control.query_one("SELECT current_setting($1, true)", &[name])?.get(0);
        settings.insert((*name).to_owned(), json!(value));
    }
    Ok(json!({
        "postgresql": row.get::<_, String>(0),
        "date": row.get::<_, String>(1),
        "pg_stepwise": row.get::<_, Option<String>>(2),
        "commit": commit(),
        "cpu": cpu(),
        "cores": std::thread::available_parallelism().map(usize::from).unwrap_or(0),
        "settings": settings,
        "options": format!("{options:?}"),
        "floor_differs_in": lab.differences()?,
    }))
}

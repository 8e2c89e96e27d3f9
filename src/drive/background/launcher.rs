//! One per server: keeps a coordinator running for each database of `stepwise.databases`.
use crate::engine::time::Timestamp;
use crate::pg::process::{self, Started};
use crate::pg::{board, catalog, guc, time, wait};
use pgrx::pg_sys::Oid;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A coordinator that has ended is started anew after so long; a database that is missing is looked for as often.
const RESTART_AFTER: Duration = Duration::from_secs(1);
const LOOK_FOR_MISSING: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Launcher {
    running: HashMap<Oid, Started>,
    ended: HashMap<Oid, Instant>,
    missing_told: Vec<String>,
}

pub fn main() {
    process::begin_without_database();
    let mut launcher = Launcher::default();
    while !process::must_end() {
        process::reload();
        let again = match process::transaction(databases) {
            Ok(wanted) => launcher.keep_up(wanted),
            Err(_) => Some(RESTART_AFTER),
        };
        wait::latch(again);
    }
    for (_, coordinator) in launcher.running.drain() {
        coordinator.terminate();
    }
}

/// The databases of the setting, by name, with their oids where they exist.
fn databases() -> Vec<(String, Option<Oid>)> {
    let names = guc::databases();
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    let known: HashMap<String, Oid> = catalog::databases().into_iter().collect();
    names.map(|name| (name.to_owned(), known.get(name).copied())).collect()
}

impl Launcher {
    /// Starts and stops coordinators; when to look again if nothing wakes it.
    fn keep_up(&mut self, wanted: Vec<(String, Option<Oid>)>) -> Option<Duration> {
        let mut again: Option<Duration> = None;
        let mut sooner = |than: Duration| again = Some(again.map_or(than, |again| again.min(than)));
        let ended: Vec<Oid> = self.running.iter().filter(|(_, one)| one.has_ended()).map(|(oid, _)| *oid).collect();
        for oid in ended {
            self.running.remove(&oid);
            self.ended.insert(oid, Instant::now());
        }
        let unwanted: Vec<Oid> =
            self.running.keys().copied().filter(|oid| !wanted.iter().any(|(_, one)| *one == Some(*oid))).collect();
        for oid in unwanted {
            if let Some(coordinator) = self.running.remove(&oid) {
                coordinator.terminate();
            }
        }
        for (name, oid) in wanted {
            let Some(oid) = oid else {
                if !self.missing_told.contains(&name) {
                    pgrx::log!("pg_stepwise: database \"{name}\" of stepwise.databases does not exist");
                    self.missing_told.push(name);
                }
                sooner(LOOK_FOR_MISSING);
                continue;
            };
            self.missing_told.retain(|told| *told != name);
            if self.running.contains_key(&oid) {
                continue;
            }
            if let Some(rest) = self.rests(oid) {
                sooner(rest);
                continue;
            }
            let (kind, title) = ("pg_stepwise coordinator", format!("pg_stepwise coordinator for {name}"));
            match process::start(kind, &title, "stepwise_coordinator_main", oid, "") {
                Some(coordinator) => drop(self.running.insert(oid, coordinator)),
                None => {
                    pgrx::warning!("pg_stepwise: no coordinator for \"{name}\": max_worker_processes are running");
                    sooner(LOOK_FOR_MISSING);
                }
            }
        }
        again
    }

    /// How long the database's coordinator is not to be started yet.
    fn rests(&self, oid: Oid) -> Option<Duration> {
        let after_end = self.ended.get(&oid).and_then(|ended| RESTART_AFTER.checked_sub(ended.elapsed()));
        let now: Timestamp = time::now();
        let suspended = board::suspended_until(oid.to_u32()).filter(|until| *until > now);
        let suspended = suspended.map(|until| Duration::from_micros(until.since(now).0.max(0) as u64));
        after_end.into_iter().chain(suspended).max()
    }
}

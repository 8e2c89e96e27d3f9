//! How long and from which seed, as the environment says.
use crate::cluster::one;
use postgres::Client;
use std::env;
use std::time::{Duration, Instant};

#[derive(Clone)]
pub struct Settings {
    /// Of the first walk and the first round. 0: one that belongs to the server's major version, so that a test of all of
    /// them walks on.
    pub seed: u64,
    /// Commands in all; the time ends it earlier.
    pub operations: usize,
    pub time: Duration,
    pub sessions: usize,
    /// One isolation level only.
    pub isolation: Option<String>,
    /// Whether a failure is told by its shortest walk.
    pub shorten: bool,
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, and not {text}")))
}

impl Settings {
    pub fn from_environment() -> Settings {
        Settings {
            seed: number("PG_STEPWISE_MODEL_SEED").unwrap_or(0),
            operations: number("PG_STEPWISE_MODEL_OPS").map_or(usize::MAX, |operations| operations as usize),
            time: Duration::from_secs(number("PG_STEPWISE_MODEL_SECONDS").unwrap_or(12)),
            sessions: number("PG_STEPWISE_MODEL_SESSIONS").unwrap_or(4) as usize,
            isolation: env::var("PG_STEPWISE_MODEL_ISOLATION").ok().filter(|text| !text.is_empty()),
            shorten: true,
        }
    }
}

impl Settings {
    pub fn first_seed(&self, client: &mut Client) -> u64 {
        let version = "SELECT current_setting('server_version_num')::integer / 10000";
        if self.seed > 0 { self.seed } else { one::<i32>(client, version, &[]) as u64 * 1_000_000 }
    }
}

/// Prints a line now and then.
pub struct Progress {
    started: Instant,
    next: Instant,
}

const EVERY: Duration = Duration::from_secs(10);

impl Progress {
    pub fn new() -> Progress {
        Progress { started: Instant::now(), next: Instant::now() + EVERY }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        if Instant::now() >= self.next {
            self.next = Instant::now() + EVERY;
            eprintln!("{:>5} s  {}", self.elapsed().as_secs(), line());
        }
    }
}

//! The time that a backend has spent on a processor: unlike the clock, it hardly notices what else the machine does.
use crate::Result;
use postgres::Client;

pub struct Cpu(i32);

impl Cpu {
    pub fn of(client: &mut Client) -> Result<Cpu> {
        Ok(Cpu(client.query_one("SELECT pg_backend_pid()", &[])?.get(0)))
    }

    /// Microseconds since the backend began; `None` where the server is not on this machine, or this is not Linux.
    pub fn micros(&self) -> Option<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.0)).ok()?;
        text.split(' ').next()?.parse::<f64>().ok().map(|nanos| nanos / 1000.0)
    }

    /// Memory that the backend has to itself.
    pub fn kept_bytes(&self) -> Option<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.0)).ok()?;
        let line = text.lines().find(|line| line.starts_with("Private_Dirty:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kilobytes| kilobytes * 1024.0)
    }
}

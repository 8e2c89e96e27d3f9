//! One per database: sleeps until the earliest time at which something is due, or until a commit makes something due
//! earlier; then ticks, and sees to it that somebody runs the SQL handlers that are ready. Between two wake-ups it runs no
//! statement.
use super::super::inline::as_engine;
use crate::engine::time::Timestamp;
use crate::pg::board::Runner;
use crate::pg::jsonb::Jsonb;
use crate::pg::process::{self, Started};
use crate::pg::spi::{self, Statement};
use crate::pg::value::param;
use crate::pg::{board, catalog, guc, time, wait};
use crate::store::claim::{self, Request};
use crate::store::claimable::Source;
use crate::store::ranges::{open_queue, over_ranges};
use crate::store::report::{self, Report, Verdict};
use crate::store::tick;
use pgrx::pg_sys::Oid;
use std::collections::HashMap;
use std::time::{Duration, Instant};

static DUE_ROLES: Statement =
    Statement::fresh(over_ranges!(open_queue!(), include_str!("../../../sql/query/due_roles.sql")));

/// After an error it tries again.
const AFTER_ERROR: Duration = Duration::from_secs(5);
/// No process could be started: one may have ended then.
const AFTER_NO_ROOM: Duration = Duration::from_secs(1);

/// A role with steps to run.
struct Due {
    role: String,
    /// `None`: the role is gone, or no process can be it.
    oid: Option<Oid>,
    steps: usize,
}

pub fn main(database: Oid) {
    process::begin(database);
    if !board::coordinate(database.to_u32()) {
        pgrx::log!("pg_stepwise: this database has a coordinator");
        return;
    }
    let mut team = Team::default();
    while !process::must_end() {
        process::reload();
        team.take_leave();
        // Whatever is committed from here on wakes it: it will look again.
        board::stay_awake(database.to_u32());
        process::report_activity(Some("tick"));
        let looked = process::transaction(look);
        process::report_activity(None);
        let pause = match looked {
            Ok((next_at, due)) => {
                let room = team.provide(database, due);
                if !board::may_sleep_until(database.to_u32(), next_at) {
                    continue;
                }
                let until = next_at.map(|at| Duration::from_micros(at.since(time::now()).0.max(0) as u64));
                if room { until } else { Some(until.map_or(AFTER_NO_ROOM, |until| until.min(AFTER_NO_ROOM))) }
            }
            Err(_) => Some(AFTER_ERROR),
        };
        wait::latch(pause);
    }
    for (_, runner, _) in team.started {
        runner.terminate();
    }
}

/// Ticks; when something will be due next, and whose steps can be run now.
fn look() -> (Option<Timestamp>, Vec<Due>) {
    // Without the extension there is nothing to do; whoever creates a task later wakes this process.
    if catalog::incarnation() == Oid::INVALID {
        return (None, Vec::new());
    }
    // A session that holds a task for long must not hold up everybody else's: this is tried again.
    guc::set_local(c"lock_timeout", c"1s");
    as_engine(|| {
        let next_at = tick::tick().next_at;
        let due: Vec<Due> = spi::session(|spi| {
            let rows = DUE_ROLES.run(spi, &[param(time::now())]);
            rows.iter()
                .map(|row| Due {
                    role: row.want(1),
                    oid: row.get::<Oid>(2).filter(|_| row.want(3)),
                    steps: row.want::<i32>(4) as usize,
                })
                .collect()
        });
        for due in due.iter().filter(|due| due.oid.is_none()) {
            give_up(&due.role);
        }
        (next_at, due)
    })
}

/// Fails steps that nobody can run, for good: an operator may reset them when the role can.
fn give_up(role: &str) {
    let source = Source::InDatabase { queues: None, role: Some(role) };
    let request = Request { worker: "coordinator", source, max_steps: 1000, lease: None, grace: Default::default() };
    let message = format!("role \"{role}\" does not exist, or may not connect to this database or log in");
    let error = serde_json::json!({ "sqlstate": "28000", "message": message }).to_string();
    let reports: Vec<Report> = claim::claim(&request)
        .steps
        .iter()
        .map(|step| {
            let error = Some(Jsonb::from_text(&error));
            let verdict = Verdict::Fail { error, retryable: Some(false), retry_after_seconds: None };
            Report { receipt: step.receipt, verdict }
        })
        .collect();
    report::report(&reports);
}

/// The runners of this database.
#[derive(Default)]
struct Team {
    /// Those that this coordinator has started: as which role, and when.
    started: Vec<(u32, Started, Instant)>,
    /// Roles whose runners ended as soon as they were started, and when: nothing is gained by trying again at once.
    failed: HashMap<u32, Instant>,
}

impl Team {
    fn take_leave(&mut self) {
        let failed = &mut self.failed;
        self.started.retain(|(role, runner, since)| {
            let ended = runner.has_ended();
            if ended && since.elapsed() < AFTER_NO_ROOM {
                failed.insert(*role, Instant::now());
            }
            !ended
        });
        failed.retain(|_, at| at.elapsed() < AFTER_NO_ROOM);
    }

    /// Wakes or starts runners for these roles; whether there was room for all.
    fn provide(&mut self, database: Oid, due: Vec<Due>) -> bool {
        let most = guc::max_handlers();
        let mut room = true;
        for Due { role, oid, steps } in due {
            let Some(oid) = oid else { continue };
            let role_id = oid.to_u32();
            if self.failed.contains_key(&role_id) {
                room = false;
                continue;
            }
            let runners = board::runners();
            let here = runners.iter().filter(|runner| runner.database == database.to_u32());
            let (mine, others): (Vec<&Runner>, Vec<&Runner>) = here.partition(|runner| runner.role == role_id);
            mine.iter().filter(|runner| runner.idle).take(steps).for_each(|runner| board::wake(runner.pid));
            // Whoever is busy takes none of these. One that was started a moment ago may not be on the board yet.
            let idle = mine.iter().filter(|runner| runner.idle).count();
            let started = self.started.iter().filter(|(role, ..)| *role == role_id).count();
            let for_role = idle + started.saturating_sub(mine.len());
            let count = self.started.len().max(mine.len() + others.len());
            let wanted = steps.min(most).saturating_sub(for_role);
            let free = most.saturating_sub(count);
            for _ in 0..wanted.min(free) {
                let title = format!("pg_stepwise handlers of {role}");
                let extra = role_id.to_string();
                match process::start("pg_stepwise runner", &title, "stepwise_runner_main", database, &extra) {
                    Some(runner) => self.started.push((role_id, runner, Instant::now())),
                    None => room = false,
                }
            }
            if wanted > free && for_role == 0 && mine.is_empty() && most > 0 {
                room = false;
                // Whoever waits for work of another role makes room.
                if let Some(idle) = others.iter().find(|runner| runner.idle) {
                    board::terminate(idle.pid);
                }
            }
        }
        room
    }
}

//! Walks of one session, and what is told of one that goes astray: its commands, shortened to those that matter.
use crate::cluster::Database;
use crate::observe;
use crate::rules::State;
use crate::session::Session;
use crate::settings::{Progress, Settings};
use crate::walk::{End, Plan, Walk};
use std::collections::BTreeMap;
use std::time::Duration;

const LENGTH: usize = 100;
/// A walk is begun so often on a machine that is too busy for it.
const MOST_TRIES: usize = 10;

struct Checker {
    session: Session,
    seen: BTreeMap<String, usize>,
}

/// A walk that failed: what differs, how many commands ran, and the script.
struct Failure {
    what: String,
    operations: usize,
    script: String,
}

impl Checker {
    fn run(&mut self, plan: &Plan) -> Result<usize, Failure> {
        for _ in 0..MOST_TRIES {
            let mut walk = Walk::new(&mut self.session, plan);
            let end = walk.run(&plan.commands);
            let (operations, script) = (walk.operations, walk.script());
            for (name, times) in std::mem::take(&mut walk.seen) {
                *self.seen.entry(name).or_default() += times;
            }
            walk.clean();
            match end {
                Ok(()) => return Ok(operations),
                Err(End::Differs(what)) => return Err(Failure { what, operations, script }),
                Err(End::TooSlow) => eprintln!("walk {} took too long, and is begun again", plan.seed),
            }
        }
        panic!("walk {} took too long {MOST_TRIES} times: this machine is too busy for the model checker", plan.seed);
    }

    /// Leaves out commands as long as the walk still fails: halves first, then smaller parts, down to single ones.
    fn shorten(&mut self, mut plan: Plan, mut failure: Failure) -> (Plan, Failure) {
        plan.commands.truncate(failure.operations);
        let mut part = plan.commands.len().div_ceil(2);
        while part > 0 {
            let mut place = 0;
            let mut shorter = false;
            while place < plan.commands.len() {
                let mut less = plan.clone();
                less.commands.drain(place..(place + part).min(plan.commands.len()));
                match self.run(&less) {
                    Err(still) => {
                        less.commands.truncate(still.operations);
                        (plan, failure, shorter) = (less, still, true);
                    }
                    Ok(_) => place += part,
                }
            }
            part = if part == 1 && shorter { 1 } else { part / 2 };
        }
        (plan, failure)
    }
}

/// What was done, or the shortest walk found that differs.
pub fn check(database: &Database, settings: &Settings) -> Result<Done, Found> {
    let mut session = Session::new(database.connect());
    observe::prepare(&mut session.client);
    let mut checker = Checker { session, seen: BTreeMap::new() };
    let mut progress = Progress::new();
    let mut done = Done::default();
    for seed in settings.first_seed(&mut checker.session.client).. {
        // A run of a minute makes enough of them, however busy the machine.
        let in_time = progress.elapsed() < settings.time || settings.time >= MINUTE && done.operations < ENOUGH;
        if done.operations >= settings.operations || !in_time {
            break;
        }
        let length = LENGTH.min(settings.operations - done.operations);
        let plan = Plan::random(seed, length);
        match checker.run(&plan) {
            Ok(operations) => done.operations += operations,
            Err(failure) => {
                let at = done.operations + failure.operations;
                if !settings.shorten {
                    return Err(Found { seed, operations: at, commands: failure.operations, failure });
                }
                eprintln!("walk {seed} differs, and is being shortened:\n{}", failure.what);
                let (plan, failure) = checker.shorten(plan, failure);
                return Err(Found { seed, operations: at, commands: plan.commands.len(), failure });
            }
        }
        done.walks += 1;
        progress.tell(|| format!("{done}"));
    }
    done.seen = checker.seen;
    Ok(done)
}

impl Found {
    pub fn what(&self) -> &str {
        &self.failure.what
    }
}

#[derive(Default)]
pub struct Done {
    pub walks: usize,
    pub operations: usize,
    /// How often each change of state and each answer was met.
    pub seen: BTreeMap<String, usize>,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "one session: {} commands in {} walks, compared after each", self.operations, self.walks)
    }
}

pub struct Found {
    pub seed: u64,
    /// Commands until it was found.
    pub operations: usize,
    commands: usize,
    failure: Failure,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, script) = (self.what(), &self.failure.script);
        write!(
            f,
            "the database and the model differ after {} commands of walk {}:\n{script}\n\n{what}\n\n\
             found after {} commands; to repeat it: make model SEED={}",
            self.commands, self.seed, self.operations, self.seed
        )
    }
}

/// What walks must have met, or they prove little: every legal change, and every kind of answer.
const ANSWERS: [&str; 6] = ["accepted", "already_done", "kept", "done", "55000", "P0002"];
/// Walks of fewer commands may miss some.
const ENOUGH: usize = 8_000;
const MINUTE: Duration = Duration::from_secs(60);

impl Done {
    pub fn assert_all_was_met(&self) {
        let missed = self.missed();
        assert!(self.operations < ENOUGH || missed.is_empty(), "the walks have not met: {missed:?}");
    }

    fn missed(&self) -> Vec<String> {
        let mut wanted: Vec<String> = ANSWERS.iter().map(|answer| format!("answered {answer}")).collect();
        for (from, to) in State::ALL.iter().flat_map(|from| State::ALL.map(|to| (*from, to))) {
            let change = format!("{} → {}", from.name(), to.name());
            // A reset finds nothing of its task running, so it is pending first.
            let task =
                from.task_may_become(to) && to != State::Skipped && (from, to) != (State::Error, State::InProgress);
            wanted.extend(from.step_may_become(to).then(|| format!("step {change}")));
            wanted.extend(task.then(|| format!("task {change}")));
        }
        wanted.into_iter().filter(|name| !self.seen.contains_key(name)).collect()
    }
}

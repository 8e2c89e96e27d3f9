//! What a walk is made of. A command names tasks, steps and receipts by numbers that find one of those that are there when
//! it runs, so a part of a walk is a walk too, and failures can be shortened.
use crate::cluster::random::Random;
use crate::rules::{State, Time};
use crate::shape::QUEUES;

/// Any number; taken modulo how many there are. `recent`: one of the last.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    pub number: u64,
    pub recent: bool,
}

#[derive(Clone, Debug)]
pub struct Report {
    pub receipt: Pick,
    /// Results or error.
    pub payload: bool,
    pub retryable: Option<bool>,
    pub retry_after: Option<Time>,
}

#[derive(Clone, Debug)]
pub struct ClaimArguments {
    pub worker: u64,
    pub queues: Option<Vec<&'static str>>,
    pub most: usize,
    pub lease: Option<Time>,
}

#[derive(Clone, Debug)]
pub enum Command {
    Create {
        shape: Pick,
        count: usize,
        keys: Vec<Option<u64>>,
        priority: i32,
        run_at: Option<Time>,
        bypass: bool,
        groups: Vec<u64>,
    },
    Claim(ClaimArguments),
    Complete(Report),
    Fail(Report),
    Release(Pick),
    Extend(Pick, Option<Time>),
    CompleteMany(Vec<Report>),
    FailMany(Vec<Report>),
    ReportAndClaim {
        completed: Vec<Report>,
        failed: Vec<Report>,
        claim: ClaimArguments,
    },
    Signal(Pick, Pick),
    Act {
        task: Pick,
        step: Pick,
        to: State,
        reason: bool,
    },
    CancelTask {
        task: Pick,
        reason: bool,
    },
    RetryTask(Pick),
    SetBackoff {
        task: Pick,
        step: Pick,
        backoff: Time,
    },
    ReleaseBackoff(Pick),
    UpdateStep {
        task: Pick,
        step: Pick,
        to: State,
    },
    UpdateTask {
        task: Pick,
        to: State,
    },
    Pause {
        queue: &'static str,
        paused: bool,
    },
    Limit {
        queue: &'static str,
        most: usize,
    },
    Advance(Time),
    Tick,
    Purge {
        older_than: Time,
        most: usize,
        failed_too: bool,
    },
    Begin(&'static str),
    Savepoint,
    RollbackTo,
    Commit,
    Rollback,
}
use Command::*;

pub const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

/// Only a task is resolved by hand, and by nothing else.
const TASK_BY_HAND: [State; 8] = [
    State::Pending,
    State::InProgress,
    State::Complete,
    State::Error,
    State::Cancelled,
    State::Resolved,
    State::Resolved,
    State::Resolved,
];

fn one_of<T: Clone>(random: &mut Random, values: &[T]) -> T {
    values[random.below(values.len() as u64) as usize].clone()
}

fn pick(random: &mut Random, recent: u64) -> Pick {
    Pick { number: random.next(), recent: random.percent(recent) }
}

fn report(random: &mut Random, recent: u64) -> Report {
    Report {
        receipt: pick(random, recent),
        payload: random.percent(60),
        retryable: one_of(random, &[None, None, None, Some(true), Some(false)]),
        retry_after: one_of(random, &[None, None, None, Some(0), Some(1), Some(4)]),
    }
}

fn reports(random: &mut Random, recent: u64) -> Vec<Report> {
    (0..1 + random.below(5)).map(|_| report(random, recent)).collect()
}

fn claim(random: &mut Random) -> ClaimArguments {
    let [north, south, west] = QUEUES;
    ClaimArguments {
        worker: random.below(3),
        queues: match random.below(8) {
            0 => Some(vec![north]),
            1 => Some(vec![south, west]),
            2 => Some(vec![west]),
            _ => None,
        },
        most: one_of(random, &[1, 1, 2, 3, 5, 20]),
        lease: one_of(random, &[None, None, Some(1), Some(3)]),
    }
}

impl Command {
    pub fn random(random: &mut Random, limits: bool, waits: bool) -> Command {
        let task = pick(random, 70);
        let step = pick(random, 60);
        let queue = one_of(random, &QUEUES);
        let reason = random.percent(50);
        match random.below(100) {
            0..=6 => Create {
                shape: pick(random, 0),
                count: one_of(random, &[1, 1, 1, 2, 3]),
                keys: (0..3).map(|_| random.percent(30).then(|| random.below(3))).collect(),
                priority: one_of(random, &[0, 0, 2, -1]),
                run_at: random.percent(20).then(|| 1 + random.below(4) as Time),
                bypass: random.percent(30),
                groups: (0..3).map(|_| random.below(3)).collect(),
            },
            7..=24 => Claim(claim(random)),
            25..=35 => Complete(report(random, 90)),
            36..=43 => Fail(report(random, 90)),
            44..=46 => Release(pick(random, 85)),
            47..=48 => Extend(pick(random, 85), one_of(random, &[None, Some(1), Some(9)])),
            49..=53 => CompleteMany(reports(random, 80)),
            54..=55 => FailMany(reports(random, 80)),
            56..=62 => ReportAndClaim {
                completed: reports(random, 85),
                failed: if random.percent(50) { reports(random, 85) } else { Vec::new() },
                claim: claim(random),
            },
            63..=65 if waits => Signal(task, step),
            66..=67 => Act { task, step, to: State::Pending, reason },
            68..=69 => Act { task, step, to: State::Resolved, reason },
            70 => Act { task, step, to: State::Cancelled, reason },
            71 if random.percent(40) => CancelTask { task, reason },
            72 => RetryTask(task),
            73..=74 => SetBackoff { task, step, backoff: one_of(random, &[0, 1, 5]) },
            75 => ReleaseBackoff(task),
            76..=78 => UpdateStep { task, step, to: one_of(random, &State::ALL) },
            79 if random.percent(80) => UpdateTask { task, to: one_of(random, &TASK_BY_HAND) },
            80 => Pause { queue, paused: random.percent(40) },
            81..=82 if limits => Limit { queue, most: one_of(random, &[0, 0, 1, 2, 3]) },
            81..=82 => UpdateTask { task, to: one_of(random, &TASK_BY_HAND) },
            83..=90 => Advance(one_of(random, &[1, 1, 1, 2, 3, 8, 40])),
            91..=92 => Tick,
            93 if random.percent(60) => Purge {
                older_than: one_of(random, &[0, 1, 6]),
                most: one_of(random, &[1, 1000]),
                failed_too: random.percent(40),
            },
            94..=95 => Begin(one_of(random, &LEVELS)),
            96 => Savepoint,
            97 => RollbackTo,
            98 => Commit,
            99 => Rollback,
            _ => Claim(claim(random)),
        }
    }
}

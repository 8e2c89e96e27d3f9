//! W1: tasks of ten steps, one worker, no-op steps.
use super::{Workload, in_turn};
use crate::Result;
use crate::drain;
use crate::lab::{Lab, Setting};
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;
use crate::statements;
use crate::worker::System;

pub const WORKLOAD: Workload =
    Workload { name: "w1", about: "ladder of ten steps, one worker, batches of 1, 10 and 100", run };

const ASYNC: Setting = ("synchronous_commit", "off");
const DURABLE: Setting = ("synchronous_commit", "on");
const QUIET: Setting = ("stepwise.notify", "off");
const LOUD: Setting = ("stepwise.notify", "step");
/// Plans made once and kept, all of nested loops over indexes: what a session can do for the floor that plain prepared
/// statements do not get. Left alone, Postgres decides by its estimates, and so by the size of the tables, whether to plan
/// a statement anew at every call or to keep one plan; the plan that it keeps for the claim hashes the whole table.
const PINNED_PLANS: [Setting; 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_memoize", "off"),
];
const PINNED_ASYNC: &[Setting] =
    &[ASYNC, PINNED_PLANS[0], PINNED_PLANS[1], PINNED_PLANS[2], PINNED_PLANS[3], PINNED_PLANS[4]];
const PINNED_DURABLE: &[Setting] =
    &[DURABLE, PINNED_PLANS[0], PINNED_PLANS[1], PINNED_PLANS[2], PINNED_PLANS[3], PINNED_PLANS[4]];

pub struct Contender {
    pub name: &'static str,
    pub system: System,
    pub settings: &'static [Setting],
}

pub const SEPARATE: &str = "claim_steps, complete_steps";
pub const COMBINED: &str = "report_and_claim";
/// As Postgres plans it.
pub const FLOOR: &str = "floor";
pub const PINNED: &str = "pinned floor";

pub const MAIN: &[Contender] = &[
    Contender { name: SEPARATE, system: System::Separate, settings: &[ASYNC, QUIET] },
    Contender { name: COMBINED, system: System::ReportAndClaim, settings: &[ASYNC, QUIET] },
    Contender { name: FLOOR, system: System::Floor, settings: &[ASYNC] },
    Contender { name: PINNED, system: System::Floor, settings: PINNED_ASYNC },
    Contender { name: "pinned, with parents' results", system: System::FloorFull, settings: PINNED_ASYNC },
];

const DURABLE_COMMITS: &[Contender] = &[
    Contender { name: "claim, complete; notify=step", system: System::Separate, settings: &[DURABLE, LOUD] },
    Contender { name: "claim, complete; notify=off", system: System::Separate, settings: &[DURABLE, QUIET] },
    Contender { name: "report_and_claim; notify=step", system: System::ReportAndClaim, settings: &[DURABLE, LOUD] },
    Contender { name: "report_and_claim; notify=off", system: System::ReportAndClaim, settings: &[DURABLE, QUIET] },
    Contender { name: FLOOR, system: System::Floor, settings: &[DURABLE] },
    Contender { name: PINNED, system: System::Floor, settings: PINNED_DURABLE },
];

/// What the rate should be, as a multiple of the floor's, by batch.
fn target(batch: usize) -> Option<f64> {
    match batch {
        1 => Some(2.5),
        10 => Some(1.3),
        100 => Some(1.0),
        _ => None,
    }
}

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    let wants = |commit: &str| options.commit.as_ref().is_none_or(|only| only == commit);
    for batch in options.batches_or(&[1, 10, 100]) {
        let tasks = options.tasks.unwrap_or(2000) / if batch == 1 { 4 } else { 1 };
        if wants("off") {
            report.add(asynchronous(lab, options, tasks, batch)?);
            bounds(report, batch);
        }
        if wants("on") {
            let tasks = if batch == 1 { tasks.div_ceil(5) } else { tasks };
            report.add(measure(lab, options, DURABLE_COMMITS, "synchronous_commit=on", tasks, batch)?);
        }
    }
    Ok(())
}

/// The main case, with its targets and with what a call takes.
fn asynchronous(lab: &mut Lab, options: &Options, tasks: usize, batch: usize) -> Result<Case> {
    let mut case = measure(lab, options, MAIN, "synchronous_commit=off, notify=off", tasks, batch)?;
    let wanted = MAIN.iter().filter(|contender| options.wants_contender(contender.name));
    for (contender, line) in wanted.zip(&mut case.lines) {
        let Contender { system, settings, .. } = contender;
        line.figures.extend(statements::per_call(lab, *system, settings, &Shape::ladder10(), tasks, batch)?);
        line.target = target(batch).filter(|_| system.schema() == "stepwise");
    }
    Ok(case)
}

fn measure(
    lab: &mut Lab,
    options: &Options,
    contenders: &'static [Contender],
    conditions: &str,
    tasks: usize,
    batch: usize,
) -> Result<Case> {
    let rounds = options.rounds_or(3);
    let contenders: Vec<&Contender> = contenders.iter().filter(|it| options.wants_contender(it.name)).collect();
    let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
    let samples = in_turn(rounds, &contenders, |contender| {
        drain::run(lab, contender.system, contender.settings, &Shape::ladder10(), tasks, batch)
    })?;
    let title = format!("ladder10, batch {batch}, {conditions}; {tasks} tasks, {rounds} rounds");
    Ok(Case::of("w1", title, "step", &names, &[FLOOR, PINNED], &samples))
}

fn bounds(report: &mut Report, batch: usize) {
    for name in [SEPARATE, COMBINED] {
        for figure in ["WAL B, no images", "WAL records"] {
            let ratio = report.figure(name, figure).zip(report.figure(FLOOR, figure)).map(|(ours, floor)| ours / floor);
            report.bound(format!("w1 batch {batch}, {name}: {figure} ÷ floor"), ratio, 1.2);
        }
        let share = |name| report.figure(name, "HOT share");
        let lost = share(FLOOR).zip(share(name)).map(|(floor, ours)| floor - ours);
        report.bound(format!("w1 batch {batch}, {name}: HOT share below the floor's"), lost, 0.05);
        let statements = report.figure(name, "stmts/call");
        report.bound(format!("w1 batch {batch}, {name}: statements in a call"), statements, 6.0);
    }
}

//! W14: ladder10 with SQL handlers that do nothing, run by `run_task` and `run_steps` in one session, beside the same
//! steps through a worker outside that claims and completes one at a time.
use super::{Workload, in_turn};
use crate::Result;
use crate::drain;
use crate::lab::{Lab, Setting};
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;
use crate::worker::System;

pub const WORKLOAD: Workload =
    Workload { name: "w14", about: "ladder10 with no-op SQL handlers: run_task and run_steps", run };

const ASYNC: Setting = ("synchronous_commit", "off");
const DURABLE: Setting = ("synchronous_commit", "on");
const QUIET: Setting = ("stepwise.notify", "off");
const OUTSIDE: &str = "worker outside, batch 1";
const CONTENDERS: [(&str, System); 4] = [
    ("run_task", System::RunTask),
    ("run_steps(1000)", System::RunSteps),
    (OUTSIDE, System::Separate),
    ("report_and_claim outside, batch 1", System::ReportAndClaim),
];

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    let rounds = options.rounds_or(3);
    let tasks = options.tasks.unwrap_or(500);
    lab.control.batch_execute(
        "CREATE SCHEMA IF NOT EXISTS app; CREATE OR REPLACE FUNCTION app.noop(given stepwise.step_context) RETURNS jsonb \
         LANGUAGE sql AS $$ SELECT '{\"ok\": true, \"value\": 42}'::jsonb $$",
    )?;
    for (commit, settings) in [("off", &[ASYNC, QUIET]), ("on", &[DURABLE, QUIET])] {
        let samples = in_turn(rounds, &CONTENDERS, |(_, system)| {
            drain::run(lab, *system, settings, &Shape::ladder10_in_database(), tasks, 1)
        })?;
        let title = format!(
            "ladder10, no-op SQL handlers, synchronous_commit={commit}, notify=off; {tasks} tasks, {rounds} rounds"
        );
        let names: Vec<&str> = CONTENDERS.iter().map(|(name, _)| *name).collect();
        report.add(Case::of("w14", title, "step", &names, &[OUTSIDE], &samples));
    }
    Ok(())
}

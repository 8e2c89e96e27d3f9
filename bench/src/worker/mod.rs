//! Workers that do nothing: they claim steps and report them complete at once.
mod floor;
mod inside;
mod stepwise;

use crate::Result;
use crate::lab::{Lab, Setting};
use postgres::Client;

/// What every step returns.
pub const RESULT: &str = r#"{"ok":true,"value":42}"#;
/// What every task is about.
pub const CONTEXT: &str = r#"{"order_id":123,"customer":"abc"}"#;

/// Whose worker, and how it talks to its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// claim_steps, then complete_steps: two transactions.
    Separate,
    /// report_and_claim: one transaction.
    ReportAndClaim,
    /// run_task: a transaction for each task.
    RunTask,
    /// run_steps: a transaction for a thousand steps.
    RunSteps,
    /// The floor's claim and complete: two transactions.
    Floor,
    /// The floor with a claim that returns the parents' results and the names too.
    FloorFull,
}

impl System {
    /// Where its tables are.
    pub fn schema(self) -> &'static str {
        match self {
            System::Separate | System::ReportAndClaim | System::RunTask | System::RunSteps => "stepwise",
            System::Floor | System::FloorFull => "floor",
        }
    }

    /// Calls in one turn of its worker.
    pub fn calls(self) -> usize {
        match self {
            System::ReportAndClaim | System::RunTask | System::RunSteps => 1,
            System::Separate | System::Floor | System::FloorFull => 2,
        }
    }

    /// `result`: what every step returns.
    pub fn worker(
        self,
        lab: &Lab,
        settings: &[Setting],
        batch: usize,
        result: &'static str,
    ) -> Result<Box<dyn Worker>> {
        let client = lab.connect(settings)?;
        Ok(match self {
            System::Separate => Box::new(stepwise::Separate::new(client, batch, result)?),
            System::ReportAndClaim => Box::new(stepwise::ReportAndClaim::new(client, batch, result)?),
            System::RunTask => Box::new(inside::RunTask::new(client)?),
            System::RunSteps => Box::new(inside::RunSteps::new(client)?),
            System::Floor => Box::new(floor::Floor::new(client, batch, result, include_str!("../../floor/claim.sql"))?),
            System::FloorFull => {
                Box::new(floor::Floor::new(client, batch, result, include_str!("../../floor/claim_full.sql"))?)
            }
        })
    }
}

pub trait Worker: Send {
    /// Claims up to a batch of steps and reports what it holds; returns how many it claimed. 0: nothing is left, and
    /// nothing is held.
    fn turn(&mut self) -> Result<usize>;

    fn client(&mut self) -> &mut Client;
}

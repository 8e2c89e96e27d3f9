//! Workers of the extension.
use super::Worker;
use crate::Result;
use crate::wire::{Json, Uuid};
use postgres::{Client, Row, Statement};

/// Of the columns of a claim, those that a worker goes by.
const COLUMNS: &str = "receipt, task_id, step_id, handler, attempt, context, dependencies";

fn receipts<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Result<Vec<Uuid>> {
    Ok(rows.into_iter().map(|row| row.try_get("receipt")).collect::<std::result::Result<_, _>>()?)
}

fn all_accepted<'a>(outcomes: impl IntoIterator<Item = &'a str>) -> Result<()> {
    match outcomes.into_iter().find(|outcome| *outcome != "accepted") {
        Some(outcome) => Err(format!("a report was not accepted but {outcome}").into()),
        None => Ok(()),
    }
}

pub struct Separate {
    client: Client,
    claim: Statement,
    complete: Statement,
    batch: i32,
    results: Vec<Json<'static>>,
}

impl Separate {
    pub fn new(mut client: Client, batch: usize, result: &'static str) -> Result<Self> {
        let claim =
            client.prepare(&format!("SELECT {COLUMNS} FROM stepwise.claim_steps('w1', max_steps => $1::integer)"))?;
        let complete = client.prepare("SELECT outcome FROM stepwise.complete_steps($1::uuid[], $2::jsonb[])")?;
        Ok(Self { client, claim, complete, batch: batch as i32, results: vec![Json(result); batch] })
    }
}

impl Worker for Separate {
    fn turn(&mut self) -> Result<usize> {
        let held = receipts(&self.client.query(&self.claim, &[&self.batch])?)?;
        if !held.is_empty() {
            let rows = self.client.query(&self.complete, &[&held, &&self.results[..held.len()]])?;
            all_accepted(rows.iter().map(|row| row.get(0)))?;
        }
        Ok(held.len())
    }

    fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}

pub struct ReportAndClaim {
    client: Client,
    call: Statement,
    batch: i32,
    held: Vec<Uuid>,
    results: Vec<Json<'static>>,
}

impl ReportAndClaim {
    pub fn new(mut client: Client, batch: usize, result: &'static str) -> Result<Self> {
        let call = client.prepare(&format!(
            "SELECT outcome, {COLUMNS} FROM stepwise.report_and_claim('w1', $1::uuid[], $2::jsonb[], \
                 max_steps => $3::integer)"
        ))?;
        Ok(Self { client, call, batch: batch as i32, held: Vec::new(), results: vec![Json(result); batch] })
    }
}

impl Worker for ReportAndClaim {
    fn turn(&mut self) -> Result<usize> {
        let rows = self.client.query(&self.call, &[&self.held, &&self.results[..self.held.len()], &self.batch])?;
        let (reported, claimed) = rows.split_at(self.held.len().min(rows.len()));
        all_accepted(reported.iter().map(|row| row.get(0)))?;
        self.held = receipts(claimed)?;
        Ok(self.held.len())
    }

    fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}

//! The worker of the floor.
use super::Worker;
use crate::Result;
use crate::wire::Json;
use postgres::{Client, Statement};

pub struct Floor {
    client: Client,
    claim: Statement,
    complete: Statement,
    batch: i64,
    results: Vec<Json<'static>>,
}

impl Floor {
    pub fn new(mut client: Client, batch: usize, result: &'static str, claim: &str) -> Result<Self> {
        let claim = client.prepare(claim)?;
        let complete = client.prepare(include_str!("../../floor/complete.sql"))?;
        Ok(Self { client, claim, complete, batch: batch as i64, results: vec![Json(result); batch] })
    }
}

impl Worker for Floor {
    fn turn(&mut self) -> Result<usize> {
        let rows = self.client.query(&self.claim, &[&1_i64, &self.batch, &"w1"])?;
        if rows.is_empty() {
            return Ok(0);
        }
        let task_ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        let step_ids: Vec<i32> = rows.iter().map(|row| row.get(1)).collect();
        let done = self.client.query_one(&self.complete, &[&task_ids, &step_ids, &&self.results[..rows.len()]])?;
        if done.get::<_, i64>(0) != rows.len() as i64 {
            return Err("the floor completed fewer steps than it claimed".into());
        }
        Ok(rows.len())
    }

    fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}

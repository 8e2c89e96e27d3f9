//! What a worker does: claim steps, run them, report. Here running a step is deciding how it ends.
use super::database::count;
use super::random::Random;
use super::wait;
use postgres::{Client, Error};

/// A step in a worker's hands.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub receipt: String,
    pub task_id: i64,
    pub step_id: i32,
    pub attempt: i32,
}

pub fn claim(client: &mut Client, worker: &str, max_steps: i32) -> Result<Vec<Claimed>, Error> {
    let sql = "SELECT receipt::text, task_id, step_id, attempt FROM stepwise.claim_steps($1, NULL, $2)";
    let rows = client.query(sql, &[&worker, &max_steps])?;
    Ok(rows
        .iter()
        .map(|row| Claimed { receipt: row.get(0), task_id: row.get(1), step_id: row.get(2), attempt: row.get(3) })
        .collect())
}

/// The outcome of a single completion.
pub fn complete(client: &mut Client, receipt: &str, results: &str) -> Result<String, Error> {
    let sql = "SELECT stepwise.complete_step($1::text::uuid, $2::text::jsonb)";
    client.query_one(sql, &[&receipt, &results]).map(|row| row.get(0))
}

/// How a worker hands in its reports.
#[derive(Clone, Copy, PartialEq)]
pub enum Manner {
    OneByOne,
    InBatches,
    /// Reports and the next claim in one call.
    Together,
    /// As an ORM does, by changing the rows.
    ByUpdate,
}

pub const MANNERS: [Manner; 4] = [Manner::OneByOne, Manner::InBatches, Manner::Together, Manner::ByUpdate];

/// A worker that fails some of its steps and gives others back.
pub struct Worker {
    pub client: Client,
    pub name: String,
    pub manner: Manner,
    pub random: Random,
    pub failures_percent: u64,
    pub releases_percent: u64,
}

impl Worker {
    /// Works until no task has anything left to do.
    pub fn run(&mut self) {
        let mut claimed = Vec::new();
        loop {
            if claimed.is_empty() {
                match self.wait_for_work() {
                    Some(steps) => claimed = steps,
                    None => return,
                }
            }
            let (returned, kept): (Vec<Claimed>, Vec<Claimed>) =
                claimed.into_iter().partition(|_| self.random.percent(self.releases_percent));
            self.release(&returned);
            let (failed, completed): (Vec<Claimed>, Vec<Claimed>) =
                kept.into_iter().partition(|_| self.random.percent(self.failures_percent));
            claimed = match self.manner {
                Manner::Together => self.report_and_claim(&completed, &failed),
                manner => {
                    match manner {
                        Manner::OneByOne => self.report_one_by_one(&completed, &failed),
                        Manner::InBatches => self.report_in_batches(&completed, &failed),
                        _ => self.update(&completed, &failed),
                    }
                    claim(&mut self.client, &self.name, 20).expect("a claim")
                }
            };
        }
    }

    /// `None` when no task is open. Until then others may hold the steps, or a backoff has to end.
    fn wait_for_work(&mut self) -> Option<Vec<Claimed>> {
        wait::until("open tasks have steps to claim", || {
            let claimed = claim(&mut self.client, &self.name, 20).expect("a claim");
            let open = "stepwise.tasks WHERE state IN ('pending', 'in_progress')";
            if !claimed.is_empty() {
                Some(Some(claimed))
            } else if count(&mut self.client, open) == 0 {
                Some(None)
            } else {
                None
            }
        })
    }

    fn release(&mut self, steps: &[Claimed]) {
        for step in steps {
            let sql = "SELECT stepwise.release_step($1::text::uuid)";
            let outcome: String = self.client.query_one(sql, &[&step.receipt]).expect("a release").get(0);
            assert_eq!(outcome, "accepted");
        }
    }

    fn report_one_by_one(&mut self, completed: &[Claimed], failed: &[Claimed]) {
        for step in completed {
            let outcome = complete(&mut self.client, &step.receipt, r#"{"by": "one"}"#).expect("a completion");
            assert_eq!(outcome, "accepted");
        }
        let fail = "SELECT stepwise.fail_step($1::text::uuid, '\"no\"')";
        for step in failed {
            let outcome: String = self.client.query_one(fail, &[&step.receipt]).expect("a failure").get(0);
            assert_eq!(outcome, "accepted");
        }
    }

    fn report_in_batches(&mut self, completed: &[Claimed], failed: &[Claimed]) {
        let complete = "SELECT outcome FROM stepwise.complete_steps($1::text[]::uuid[])";
        let fail = "SELECT outcome FROM stepwise.fail_steps($1::text[]::uuid[])";
        for (sql, steps) in [(complete, completed), (fail, failed)] {
            let rows = self.client.query(sql, &[&receipts(steps)]).expect("a batch");
            assert!(rows.iter().all(|row| row.get::<_, &str>(0) == "accepted"));
        }
    }

    fn report_and_claim(&mut self, completed: &[Claimed], failed: &[Claimed]) -> Vec<Claimed> {
        let sql = "SELECT receipt::text, task_id, step_id, attempt, outcome \
                   FROM stepwise.report_and_claim($1, completed => $2::text[]::uuid[], failed => $3::text[]::uuid[], \
                       max_steps => 20)";
        let rows = self.client.query(sql, &[&self.name, &receipts(completed), &receipts(failed)]).expect("a batch");
        let (claimed, reported): (Vec<_>, Vec<_>) =
            rows.iter().partition(|row| row.get::<_, &str>("outcome") == "claimed");
        assert!(reported.iter().all(|row| row.get::<_, &str>("outcome") == "accepted"));
        assert_eq!(reported.len(), completed.len() + failed.len());
        claimed
            .iter()
            .map(|row| Claimed { receipt: row.get(0), task_id: row.get(1), step_id: row.get(2), attempt: row.get(3) })
            .collect()
    }

    fn update(&mut self, completed: &[Claimed], failed: &[Claimed]) {
        let complete =
            "UPDATE stepwise.steps SET state = 'complete', results = '{}' WHERE task_id = $1 AND step_id = $2";
        let fail = "UPDATE stepwise.steps SET state = 'error', error = '{}' WHERE task_id = $1 AND step_id = $2";
        for (sql, steps) in [(complete, completed), (fail, failed)] {
            for step in steps {
                let rows = self.client.execute(sql, &[&step.task_id, &step.step_id]).expect("an update");
                assert_eq!(rows, 1);
            }
        }
    }
}

pub fn receipts(steps: &[Claimed]) -> Vec<&str> {
    steps.iter().map(|step| step.receipt.as_str()).collect()
}

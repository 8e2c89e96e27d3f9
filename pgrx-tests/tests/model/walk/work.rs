//! Claims, reports and ticks: the calls of workers.
use super::{End, Held, Step, Walk, duration, or_null, quoted};
use crate::command::{ClaimArguments, Report};
use crate::rules::work::{Claim, Claimed, Overdue, Receipt, Verdict};
use crate::rules::{Key, Model};
use crate::session::json_of;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const CLAIM_COLUMNS: &str = "json_agg(json_build_array(task_id, step_id, extract(epoch FROM lease_expires_at), \
    json_build_object('name', step_name, 'attempt', attempt, 'retry_limit', retry_limit, 'context', context, \
        'dependencies', dependencies)))";

impl Walk<'_> {
    fn claim_sql(arguments: &ClaimArguments) -> String {
        let queues = or_null(arguments.queues.as_ref().map(|queues| format!("'{{{}}}'", queues.join(","))));
        let lease = or_null(arguments.lease.map(duration));
        format!("queues => {queues}, max_steps => {}, lease => {lease}", arguments.most)
    }

    /// What a claim's row says was handed out, in the variable `name`.
    fn handed(&mut self, columns: &BTreeMap<String, Option<String>>, name: &str, first: usize) -> Vec<Claimed> {
        let receipts = columns.get(name).and_then(Option::clone).unwrap_or_default();
        let receipts = receipts.trim_matches(|c| c == '{' || c == '}').split(',').skip(first);
        let rows = json_of(columns, "claimed");
        let rows: Vec<Value> = rows.as_array().cloned().unwrap_or_default();
        let mut claimed = Vec::new();
        for (place, (row, text)) in rows.into_iter().zip(receipts).enumerate() {
            let (task, step) = (row[0].as_i64().expect("a task"), row[1].as_u64().expect("a step") as usize);
            let receipt = Receipt { text: text.to_owned(), task, step };
            let sql = format!("(:'{name}'::uuid[])[{}]", first + place + 1);
            self.receipts.push(Held { receipt: receipt.clone(), sql });
            let lease_ends = self.observer.unit_of(row[2].as_f64().expect("a time"));
            claimed.push(Claimed { receipt, lease_ends, rest: row[3].clone() });
        }
        claimed
    }

    pub(super) fn claim(&mut self, arguments: &ClaimArguments) -> Step {
        let name = self.name("c");
        let sql = format!(
            "SELECT array_agg(receipt) AS {name}, {CLAIM_COLUMNS} AS claimed \
             FROM (SELECT * FROM stepwise.claim_steps('w{}', {})) AS c \\gset",
            arguments.worker,
            Self::claim_sql(arguments)
        );
        let columns = self.sql(&sql).map_err(|refused| End::Differs(format!("refused: {refused:?}")))?;
        let claimed = self.handed(&columns, &name, 0);
        let seen = self.look();
        let met = self.observer.met(&seen);
        let visible = self.observer.visible.clone();
        self.claimed(arguments, &claimed, &met, &|key| visible.get(&key).copied().unwrap_or(0))?;
        self.compare(&seen)
    }

    fn claimed(
        &mut self,
        arguments: &ClaimArguments,
        claimed: &[Claimed],
        met: &[Overdue],
        visible: &dyn Fn(Key) -> i64,
    ) -> Step {
        let queues: Option<Vec<String>> =
            arguments.queues.as_ref().map(|queues| queues.iter().map(|queue| (*queue).to_owned()).collect());
        let (worker, queues) = (format!("w{}", arguments.worker), queues.as_deref());
        let (most, lease, overfull) = (arguments.most, arguments.lease, &self.observer.overfull);
        let claim = Claim { worker: &worker, queues, most, lease, claimed, met, visible, overfull };
        self.model.claim(&claim).map_err(End::Differs)
    }

    pub(super) fn tick(&mut self) -> Step {
        let answer = self
            .sql("SELECT json_build_array(expired_leases, failed_waits, ended_tasks) AS ended FROM stepwise.tick()");
        let columns = answer.map_err(|refused| End::Differs(format!("refused: {refused:?}")))?;
        let seen = self.look();
        let met = self.observer.met(&seen);
        let expected = json!(self.model.tick(&met).map_err(End::Differs)?);
        let said = json_of(&columns, "ended");
        if said != expected {
            return Err(End::Differs(format!("tick() says {said}, and not {expected}")));
        }
        self.compare(&seen)
    }

    fn verdict(&self, report: &Report, completes: bool) -> Verdict {
        let payload = |key: &str| report.payload.then(|| json!({ key: report.receipt.number % 10 }));
        if completes {
            Verdict::Complete(payload("result"))
        } else {
            Verdict::Fail { error: payload("error"), retryable: report.retryable, retry_after: report.retry_after }
        }
    }

    pub(super) fn report_one(&mut self, report: &Report, completes: bool) -> Step {
        let Some(held) = self.receipt(report.receipt) else { return Ok(()) };
        let verdict = self.verdict(report, completes);
        let sql = match &verdict {
            Verdict::Complete(results) => {
                let results = or_null(results.as_ref().map(quoted));
                format!("SELECT stepwise.complete_step({}, {results}) AS outcome", held.sql)
            }
            Verdict::Fail { error, retryable, retry_after } => {
                let (error, retryable) =
                    (or_null(error.as_ref().map(quoted)), or_null(retryable.map(|is| is.to_string())));
                let after = or_null(retry_after.map(duration));
                format!("SELECT stepwise.fail_step({}, {error}, {retryable}, {after}) AS outcome", held.sql)
            }
        };
        let answer = self.sql(&sql);
        let outcome = Model::single(self.model.report(&[(held.receipt, verdict)])[0]);
        self.answered(&answer, "outcome", outcome.map(Value::from))
    }

    /// The arguments of reports in a batch, by their names, and what the model is told.
    fn batch(&self, reports: &[Report], completes: bool) -> (Vec<String>, Vec<(Receipt, Verdict)>) {
        let mut told = Vec::new();
        let (mut receipts, mut payloads, mut retryables, mut afters) = (vec![], vec![], vec![], vec![]);
        for report in reports {
            let Some(held) = self.receipt(report.receipt) else { continue };
            let verdict = self.verdict(report, completes);
            receipts.push(held.sql);
            match &verdict {
                Verdict::Complete(results) => payloads.push(or_null(results.as_ref().map(quoted))),
                Verdict::Fail { error, retryable, retry_after } => {
                    payloads.push(or_null(error.as_ref().map(quoted)));
                    retryables.push(or_null(retryable.map(|is| is.to_string())));
                    afters.push(or_null(retry_after.map(duration)));
                }
            }
            told.push((held.receipt, verdict));
        }
        let array = |values: &[String], of: &str| format!("ARRAY[{}]::{of}[]", values.join(", "));
        let mut arguments = vec![array(&receipts, "uuid"), array(&payloads, "jsonb")];
        if !completes {
            arguments.extend([array(&retryables, "boolean"), array(&afters, "interval")]);
        }
        (arguments, told)
    }

    pub(super) fn report_many(&mut self, reports: &[Report], completes: bool) -> Step {
        let (arguments, told) = self.batch(reports, completes);
        if told.is_empty() {
            return Ok(());
        }
        let function = if completes { "complete_steps" } else { "fail_steps" };
        let answer = self
            .sql(&format!("SELECT json_agg(outcome) AS outcomes FROM stepwise.{function}({})", arguments.join(", ")));
        let expected = json!(self.model.report(&told));
        self.answered(&answer, "outcomes", Ok(expected))
    }

    pub(super) fn report_and_claim(
        &mut self,
        completed: &[Report],
        failed: &[Report],
        arguments: &ClaimArguments,
    ) -> Step {
        let ((done, mut told), (not_done, failures)) = (self.batch(completed, true), self.batch(failed, false));
        told.extend(failures);
        let name = self.name("c");
        let names = ["completed", "results", "failed", "errors", "retryable", "retry_after"];
        let reports: Vec<String> =
            names.iter().zip(done.iter().chain(&not_done)).map(|(name, value)| format!("{name} => {value}")).collect();
        let sql = format!(
            "SELECT array_agg(receipt) FILTER (WHERE outcome = 'claimed') AS {name}, \
             json_agg(outcome) FILTER (WHERE outcome <> 'claimed') AS outcomes, \
             {CLAIM_COLUMNS} FILTER (WHERE outcome = 'claimed') AS claimed \
             FROM (SELECT * FROM stepwise.report_and_claim('w{}', {}, {})) AS c \\gset",
            arguments.worker,
            reports.join(", "),
            Self::claim_sql(arguments)
        );
        let columns = self.sql(&sql).map_err(|refused| End::Differs(format!("refused: {refused:?}")))?;
        let outcomes = self.model.report(&told);
        let said = json_of(&columns, "outcomes");
        let expected = if told.is_empty() { Value::Null } else { json!(outcomes) };
        if said != expected {
            return Err(End::Differs(format!("the outcomes are {said}, and not {expected}")));
        }
        let claimed = self.handed(&columns, &name, 0);
        let seen = self.look();
        let met = self.observer.met(&seen);
        // Steps that the reports have made ready have no known place in the order: only priorities are compared then.
        let visible = self.observer.visible.clone();
        let exact = !outcomes.contains(&"accepted");
        let place = |key: Key| if exact { visible.get(&key).copied().unwrap_or(0) } else { 0 };
        self.claimed(arguments, &claimed, &met, &place)?;
        self.compare(&seen)
    }
}

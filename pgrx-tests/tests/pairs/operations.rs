//! The calls that meet each other.
use super::fixtures::Target;

pub struct Operation {
    pub name: &'static str,
    /// May also answer as if there were nothing for it: because it passes over what others have locked, or because it takes
    /// only what had ended when it began. What it does then.
    pub passes_over: Option<Rest>,
    sql: &'static str,
    /// For many steps at once, where the call has such a form.
    batch: Option<&'static str>,
}

#[derive(PartialEq)]
pub enum Rest {
    Nothing,
    /// It reports, and claims nothing.
    Report,
}

const fn single(name: &'static str, sql: &'static str) -> Operation {
    Operation { name, passes_over: None, sql, batch: None }
}

const fn passing(name: &'static str, sql: &'static str) -> Operation {
    Operation { name, passes_over: Some(Rest::Nothing), sql, batch: None }
}

const fn batched(name: &'static str, sql: &'static str, batch: &'static str) -> Operation {
    Operation { name, passes_over: None, sql, batch: Some(batch) }
}

/// `{me}` is the session's name, `{task}`, `{step}`, `{receipt}` and `{receipts}` are what its call is about.
pub const OPERATIONS: &[Operation] = &[
    passing(
        "claim",
        "SELECT string_agg(step_name || ' ' || attempt, ' ' ORDER BY task_id, step_id) \
            FROM stepwise.claim_steps('{me}', '{pair}', 10)",
    ),
    passing("tick", "SELECT nullif((expired_leases, failed_waits, ended_tasks)::text, '(0,0,0)') FROM stepwise.tick()"),
    batched(
        "complete",
        "SELECT stepwise.complete_step('{receipt}', '\"{me}\"')",
        "SELECT string_agg(outcome, ' ' ORDER BY receipt) FROM stepwise.complete_steps('{receipts}')",
    ),
    batched(
        "fail",
        "SELECT stepwise.fail_step('{receipt}', '\"{me}\"')",
        "SELECT string_agg(outcome, ' ' ORDER BY receipt) FROM stepwise.fail_steps('{receipts}')",
    ),
    batched(
        "fail for good",
        "SELECT stepwise.fail_step('{receipt}', '\"{me}\"', false)",
        "SELECT string_agg(outcome, ' ' ORDER BY receipt) FROM stepwise.fail_steps('{receipts}', \
            retryable => array_fill(false, ARRAY[cardinality('{receipts}'::uuid[])]))",
    ),
    single("release", "SELECT stepwise.release_step('{receipt}')"),
    single("extend", "SELECT stepwise.extend_lease('{receipt}')"),
    single("cancel_task", "SELECT stepwise.cancel_task({task}, actor => '{me}')"),
    single("cancel_step", "SELECT stepwise.cancel_step({task}, {step}, actor => '{me}')"),
    single("reset_step", "SELECT stepwise.reset_step({task}, {step}, actor => '{me}')"),
    single("resolve_step", "SELECT stepwise.resolve_step({task}, {step}, '\"{me}\"', actor => '{me}')"),
    single("retry_task", "SELECT stepwise.retry_task({task}, actor => '{me}')"),
    single("set_backoff", "SELECT stepwise.set_backoff({task}, {step}, '3h', actor => '{me}')"),
    single("signal_step", "SELECT stepwise.signal_step({task}, {step}, '\"{me}\"', actor => '{me}')"),
    single("release_backoff", "SELECT stepwise.release_backoff({task}, actor => '{me}')"),
    single(
        "update",
        "UPDATE stepwise.steps SET state = 'complete', results = '\"{me}\"' WHERE task_id = {task} AND step_id = {step} \
            RETURNING state",
    ),
    Operation {
        name: "report_and_claim",
        passes_over: Some(Rest::Report),
        sql: "SELECT string_agg(concat_ws(' ', outcome, step_name, attempt), ' ' ORDER BY outcome, task_id, step_id) \
            FROM stepwise.report_and_claim('{me}', '{{receipt}}', queues => '{queues}', max_steps => 10)",
        batch: Some(
            "SELECT string_agg(concat_ws(' ', outcome, step_name, attempt), ' ' ORDER BY outcome, task_id, step_id) \
            FROM stepwise.report_and_claim('{me}', '{receipts}', queues => '{queues}', max_steps => 10)",
        ),
    },
    passing(
        "purge",
        "SELECT nullif(stepwise.purge_tasks('0', states => '{complete,cancelled,resolved_manually,error}'), 0)",
    ),
];

/// A step that has or had a worker.
#[derive(Clone)]
pub struct Held {
    pub task_id: i64,
    pub step_id: i32,
    pub receipt: String,
}

impl Operation {
    /// `rests`: what it does where it passes over the rest.
    pub fn sql(&self, me: &str, target: Target, held: &[Held], rests: bool) -> String {
        let mut receipts: Vec<&str> = held.iter().map(|step| step.receipt.as_str()).collect();
        // A receipt for a step that nobody has claimed yet fits nothing.
        let unknown = "00000000-0000-4000-8000-000000000000";
        let (text, step, receipt) = match target {
            Target::Step(step) => {
                let receipt = held.iter().find(|held| held.step_id == step).map_or(unknown, |held| &held.receipt);
                (self.sql, step, receipt)
            }
            Target::All { backwards } => {
                if backwards {
                    receipts.reverse();
                }
                (self.batch.unwrap_or(self.sql), if backwards { 2 } else { 1 }, receipts[0])
            }
        };
        text.replace("{me}", me)
            .replace("{queues}", if rests { "{none}" } else { "{pair}" })
            .replace("{task}", &held[0].task_id.to_string())
            .replace("{step}", &step.to_string())
            .replace("{receipt}", receipt)
            .replace("{receipts}", &format!("{{{}}}", receipts.join(",")))
    }
}

//! The calls that meet each other.
use super::fixtures::Target;

pub struct Operation {
    pub name: &'static str,
    /// May also answer as if there were nothing for it: because it passes over what others have locked, or because it takes
    /// only what had ended when it began.
    pub passes_over: bool,
    sql: &'static str,
    /// For many steps at once, where the call has such a form.
    batch: Option<&'static str>,
}

const fn single(name: &'static str, sql: &'static str) -> Operation {
    Operation { name, passes_over: false, sql, batch: None }
}

const fn passing(name: &'static str, sql: &'static str) -> Operation {
    Operation { name, passes_over: true, sql, batch: None }
}

const fn batched(name: &'static str, sql: &'static str, batch: &'static str) -> Operation {
    Operation { name, passes_over: false, sql, batch: Some(batch) }
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
    pub fn sql(&self, me: &str, target: Target, held: &[Held]) -> String {
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
            .replace("{task}", &held[0].task_id.to_string())
            .replace("{step}", &step.to_string())
            .replace("{receipt}", receipt)
            .replace("{receipts}", &format!("{{{}}}", receipts.join(",")))
    }
}

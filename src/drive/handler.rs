//! One call of a SQL handler, in a subtransaction: what it wrote stays only if it returns.
use crate::engine::failure;
use crate::pg::jsonb::Jsonb;
use crate::pg::spi::{self, Statement};
use crate::pg::value::{optional, param};
use crate::store::claim::ClaimedStep;
use crate::store::report::{Report, Verdict};

// As the role that asked, with its search_path: nothing here may depend on either. call_handler catches what the handler
// raises where all of the error is still known.
static CALL: Statement = Statement::write(
    "SELECT results, error, code, detail FROM stepwise.call_handler($1, \
         ROW($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)::stepwise.step_context)",
);

/// Runs the handler of a claimed step; the report to make.
pub fn run(step: &ClaimedStep) -> Report {
    let template = &step.template;
    let known = template.step(step.step_id);
    let verdict = spi::session(|spi| {
        let rows = CALL.run(
            spi,
            &[
                param(known.map_or("", |known| known.handler.as_str())),
                param(step.task_id),
                param(step.step_id),
                param(step.attempt),
                param(known.map_or(0, |known| known.rule.retry_limit)),
                param(template.namespace.as_str()),
                param(template.name.as_str()),
                param(template.version.as_str()),
                param(known.map_or("", |known| known.name.as_str())),
                optional(step.context),
                optional(step.inputs),
                param(step.dependencies.unwrap_or_else(Jsonb::empty_object)),
                optional(known.and_then(|known| known.config.as_deref()).map(Jsonb::from_bytes)),
            ],
        );
        let row = rows.first();
        let sqlstate = row.as_ref().and_then(|row| row.get::<String>(3));
        match (row, sqlstate) {
            (Some(row), Some(sqlstate)) => {
                let advice = failure::advice(&sqlstate, row.get::<String>(4).as_deref());
                Verdict::Fail {
                    error: row.keep(2),
                    retryable: advice.retryable,
                    retry_after_seconds: advice.retry_after.map(crate::engine::time::Span::whole_seconds),
                }
            }
            (row, _) => Verdict::Complete { results: row.and_then(|row| row.keep(1)) },
        }
    });
    Report { receipt: step.receipt, verdict }
}

//! One call of a SQL handler, in a subtransaction: what it wrote stays only if it returns.
use crate::engine::failure;
use crate::engine::time::Span;
use crate::pg::attempt::{Failure, attempt};
use crate::pg::jsonb::Jsonb;
use crate::pg::spi;
use crate::pg::value::{optional, param};
use crate::store::claim::ClaimedStep;
use crate::store::report::{Report, Verdict};

/// Runs the handler of a claimed step; the report to make. As the role that asked, with its search_path: the name of the
/// handler is qualified, and nothing else here depends on either. `None`: `keep` did not want what the call has written,
/// which is gone.
pub fn run(step: &ClaimedStep, keep: impl Fn() -> bool) -> Option<Report> {
    let template = &step.template;
    let known = template.step(step.step_id);
    let handler = known.map_or("", |known| known.handler.as_str());
    let sql = format!(
        "SELECT {handler}(ROW($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)::stepwise.step_context)\
             ::pg_catalog.jsonb"
    );
    let verdict: Option<Verdict> = spi::session(|spi| {
        let context = [
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
            optional(step.traceparent.as_deref()),
        ];
        Some(match attempt(spi, sql, &context, keep)? {
            Ok(results) => Verdict::Complete { results },
            Err(failure) => {
                let advice = failure::advice(&failure.sqlstate, failure.detail.as_deref());
                Verdict::Fail {
                    error: Some(error(*failure).keep()),
                    retryable: advice.retryable,
                    retry_after_seconds: advice.retry_after.map(Span::whole_seconds),
                }
            }
        })
    });
    Some(Report { receipt: step.receipt, verdict: verdict? })
}

/// What history keeps of a failure: its fields, without those that it does not have.
fn error(failure: Failure) -> Jsonb {
    let fields = [
        ("sqlstate", Some(failure.sqlstate)),
        ("message", failure.message),
        ("detail", failure.detail),
        ("hint", failure.hint),
        ("schema", failure.schema),
        ("table", failure.table),
        ("column", failure.column),
        ("constraint", failure.constraint),
        ("datatype", failure.datatype),
        ("context", failure.context),
    ];
    let object: serde_json::Map<String, serde_json::Value> =
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect();
    Jsonb::from_text(&serde_json::Value::from(object).to_string())
}

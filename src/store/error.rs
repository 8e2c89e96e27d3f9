//! What the rows in the database refuse.
use crate::engine::refusal::Refusal;
use crate::pg::error::Explain;
use pgrx::PgSqlErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("template does not exist")]
    TemplateNotFound { namespace: Option<String>, name: String, version: Option<String> },
    #[error("namespace does not exist")]
    NamespaceNotFound { namespace: String },
    #[error("permission denied for namespace")]
    NamespaceForbidden { namespace: String, role: String, level: &'static str },
    #[error("queue does not exist")]
    QueueNotFound { queue: String },
    #[error("queue is used by other namespaces too")]
    QueueShared { queue: String },
    #[error("permission denied for queue")]
    QueueForbidden { queue: String, namespace: String, role: String },
    #[error("template name is ambiguous")]
    TemplateAmbiguous { name: String, namespaces: Vec<String> },
    #[error("template version is already registered with other content")]
    TemplateConflict { label: String },
    #[error("could not serialize the registration of a template with a concurrent one")]
    RegistrationRace { label: String },
    #[error("task does not exist")]
    TaskNotFound { task_id: i64 },
    #[error("step does not exist")]
    StepNotFound { task_id: i64, step: String },
    #[error("rows of stepwise.{table} are not changed or removed by hand")]
    KeptRow { table: String },
    #[error("SQL handler must be named with its schema")]
    HandlerUnqualified { handler: String },
    #[error("SQL handler does not exist")]
    HandlerNotFound { handler: String },
    #[error("SQL handler does not return jsonb")]
    HandlerSignature { handler: String },
    #[error("permission denied for SQL handler")]
    HandlerForbidden { handler: String, role: String },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("context is not what the template asks for")]
    ContextRefused { template: String, index: Option<usize>, violations: String },
    #[error("unknown step to bypass")]
    UnknownBypass { step: String, template: String },
    #[error("step is not skippable")]
    NotSkippable { step: String, template: String },
    #[error("task with this identity key exists but is not visible to this transaction")]
    IdentityNotVisible { key: String },
    #[error("subscription does not exist")]
    SubscriptionNotFound { name: String },
    #[error("subscription already exists")]
    SubscriptionExists { name: String },
    #[error("position lies beyond the last event")]
    PositionAhead { position: i64, last_event: i64 },
    #[error("receipt is stale")]
    Stale { task_id: i64, step_id: i32 },
    #[error("receipt matches no step")]
    ReceiptNotFound { receipt: String },
    #[error("column \"{column}\" of step cannot be changed by hand")]
    ProtectedColumn { column: &'static str, task_id: i64, step_id: i32 },
    #[error("column \"{column}\" of task cannot be changed by hand")]
    ProtectedTaskColumn { column: &'static str, task_id: i64 },
}

impl Explain for StoreError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::TemplateNotFound { .. }
            | Self::NamespaceNotFound { .. }
            | Self::QueueNotFound { .. }
            | Self::TaskNotFound { .. }
            | Self::StepNotFound { .. }
            | Self::SubscriptionNotFound { .. }
            | Self::ReceiptNotFound { .. } => PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            Self::SubscriptionExists { .. } => PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
            Self::TemplateAmbiguous { .. } | Self::PositionAhead { .. } => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::TemplateConflict { .. } => PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
            Self::RegistrationRace { .. } | Self::IdentityNotVisible { .. } => {
                PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE
            }
            Self::ContextRefused { .. } | Self::UnknownBypass { .. } | Self::NotSkippable { .. } => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::HandlerUnqualified { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::HandlerNotFound { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
            Self::HandlerSignature { .. } => PgSqlErrorCode::ERRCODE_INVALID_FUNCTION_DEFINITION,
            Self::HandlerForbidden { .. }
            | Self::NamespaceForbidden { .. }
            | Self::QueueShared { .. }
            | Self::QueueForbidden { .. } => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Self::Refused(_)
            | Self::KeptRow { .. }
            | Self::Stale { .. }
            | Self::ProtectedColumn { .. }
            | Self::ProtectedTaskColumn { .. } => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        }
    }

    fn detail(&self) -> Option<String> {
        Some(match self {
            Self::TemplateNotFound { namespace, name, version } => format!(
                "There is no template \"{name}\" in namespace {}, version {}.",
                namespace.as_ref().map_or("(any)".into(), |name| format!("\"{name}\"")),
                version.as_deref().unwrap_or("(latest)")
            ),
            Self::NamespaceNotFound { namespace } => format!("The namespace is \"{namespace}\"."),
            Self::NamespaceForbidden { namespace, role, .. } => {
                format!("The namespace is \"{namespace}\", the role \"{role}\".")
            }
            Self::QueueNotFound { queue } | Self::QueueShared { queue } => format!("The queue is \"{queue}\"."),
            Self::QueueForbidden { queue, role, .. } => format!("The queue is \"{queue}\", the role \"{role}\"."),
            Self::TemplateAmbiguous { name, namespaces } => {
                format!("Template \"{name}\" exists in these namespaces: {}.", namespaces.join(", "))
            }
            Self::TemplateConflict { label } | Self::RegistrationRace { label } => format!("The template is {label}."),
            Self::ContextRefused { index: None, violations, .. } => violations.clone(),
            Self::ContextRefused { index: Some(index), violations, .. } => {
                format!("In contexts[{}]:\n{violations}", index + 1)
            }
            Self::UnknownBypass { step, template } | Self::NotSkippable { step, template } => {
                format!("The step is \"{step}\" of template {template}.")
            }
            Self::HandlerUnqualified { handler } => format!("The handler is \"{handler}\"."),
            Self::HandlerNotFound { handler } | Self::HandlerSignature { handler } => {
                format!("The function is {handler}(stepwise.step_context).")
            }
            Self::HandlerForbidden { handler, role } => {
                format!("The function is {handler}(stepwise.step_context), the role \"{role}\".")
            }
            Self::TaskNotFound { task_id } => format!("The task is {task_id}."),
            Self::StepNotFound { task_id, step } => format!("The step is {step} of task {task_id}."),
            Self::Refused(refusal) => return refusal.detail(),
            Self::KeptRow { .. } => return None,
            Self::IdentityNotVisible { key } => format!("The key is \"{key}\"."),
            Self::Stale { task_id, step_id } => {
                format!("Step {step_id} of task {task_id} is no longer held with this receipt.")
            }
            Self::ReceiptNotFound { receipt } => format!("The receipt is {receipt}."),
            Self::SubscriptionNotFound { name } | Self::SubscriptionExists { name } => {
                format!("The subscription is \"{name}\".")
            }
            Self::PositionAhead { position, last_event } => {
                format!("The position is {position}, the last event {last_event}.")
            }
            Self::ProtectedColumn { task_id, step_id, .. } => format!("The row is step {step_id} of task {task_id}."),
            Self::ProtectedTaskColumn { task_id, .. } => format!("The row is task {task_id}."),
        })
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TemplateNotFound { .. } => "Register it with stepwise.register_template(definition).".into(),
            Self::NamespaceNotFound { .. } => "A namespace comes into being with its first template.".into(),
            Self::QueueNotFound { .. } => "A queue comes into being with the first template that names it.".into(),
            Self::NamespaceForbidden { namespace, role, level } => {
                format!("stepwise.grant_access('{role}', '{level}', '{{{namespace}}}') gives it.")
            }
            Self::QueueShared { .. } => "Ask somebody who may do so in all namespaces.".into(),
            Self::QueueForbidden { namespace, .. } => format!(
                "Use \"{namespace}\", a name that begins with \"{namespace}/\", or a queue that the namespace uses already."
            ),
            Self::TemplateAmbiguous { .. } => "Pass the namespace.".into(),
            Self::TemplateConflict { .. } => {
                "Templates never change: register the new content under a new version.".into()
            }
            Self::RegistrationRace { .. } | Self::IdentityNotVisible { .. } => "Retry the transaction.".into(),
            Self::TaskNotFound { .. } => {
                "Look for it in stepwise.tasks: finished tasks are gone once stepwise.purge_tasks has removed them.".into()
            }
            Self::HandlerUnqualified { .. } => "Write \"schema.function\".".into(),
            Self::HandlerNotFound { .. } | Self::HandlerSignature { .. } => {
                "A handler takes a stepwise.step_context and returns jsonb.".into()
            }
            Self::HandlerForbidden { .. } => {
                "Whoever registers the template needs EXECUTE on the function and USAGE on its schema.".into()
            }
            Self::StepNotFound { .. } => "Pass the name or the number of a step of the task.".into(),
            Self::Refused(refusal) => return refusal.hint(),
            Self::KeptRow { table } => match table.as_str() {
                "tasks" | "steps" | "transitions" => "stepwise.purge_tasks removes finished tasks whole.".into(),
                "templates" | "template_steps" => "Templates never change: register another version.".into(),
                _ => "Tasks and the memory of backends refer to them.".into(),
            },
            Self::ContextRefused { template, .. } => format!("See the context_schema of template {template}."),
            Self::UnknownBypass { .. } => "bypass_steps takes names of the template's steps.".into(),
            Self::NotSkippable { .. } => "Only steps defined with \"skippable\": true can be bypassed.".into(),
            Self::Stale { .. } => {
                "It was reported otherwise, claimed again after its lease, or decided by an operator: discard this work.".into()
            }
            Self::ReceiptNotFound { .. } => "Pass the receipt as claim_steps returned it.".into(),
            Self::SubscriptionNotFound { .. } => "Make it with stepwise.create_subscription(name).".into(),
            Self::SubscriptionExists { .. } => "Read it, or choose another name.".into(),
            Self::PositionAhead { .. } => "Pass the event_id of an event that read_events returned.".into(),
            Self::ProtectedColumn { .. } | Self::ProtectedTaskColumn { .. } => {
                "The engine keeps this column; change the state, or use the functions of the schema stepwise.".into()
            }
        })
    }
}

//! Column numbers of the hot tables as sql/schema/010_tables.sql declares them, for the triggers, which read rows
//! natively. A test compares them with the catalog. Later columns are appended, never inserted.

use crate::pg::lookup::Keyed;
use std::ffi::CStr;

/// `steps` by task and step. A reader may not read all of its columns.
pub const STEPS_BY_KEY: Keyed = Keyed { table: c"steps", column: Some(steps::STATE as i16) };
/// The queue of claimable steps: queue, priority, time.
pub const STEPS_QUEUE: (&CStr, &CStr) = (c"steps", c"steps_queue_idx");
pub const TASKS_BY_KEY: Keyed = Keyed { table: c"tasks", column: None };
pub const TEMPLATES_BY_KEY: Keyed = Keyed { table: c"templates", column: None };
pub const NAMESPACES_BY_KEY: Keyed = Keyed { table: c"namespaces", column: None };
pub const QUEUES_BY_KEY: Keyed = Keyed { table: c"queues", column: None };

macro_rules! columns {
    ($($constant:ident $name:literal $number:literal)*) => {
        $(pub const $constant: i32 = $number;)*
        #[cfg(any(test, feature = "pg_test"))]
        pub const ALL: &[(&str, i32)] = &[$(($name, $number)),*];
    };
}

pub mod steps {
    columns! {
        TASK_ID "task_id" 1
        TEMPLATE_ID "template_id" 2
        QUEUE_ID "queue_id" 3
        VISIBLE_AT "visible_at" 4
        CLAIM_TOKEN "claim_token" 5
        LAST_ATTEMPTED_AT "last_attempted_at" 6
        LAST_FAILURE_AT "last_failure_at" 7
        FINISHED_AT "finished_at" 8
        STEP_ID "step_id" 9
        REMAINING_PARENTS "remaining_parents" 10
        ATTEMPTS "attempts" 11
        BACKOFF_REQUEST_SECONDS "backoff_request_seconds" 12
        PRIORITY "priority" 13
        RETRYABLE "retryable" 14
        LIMITED "limited" 15
        STATE "state" 16
        WORKER "worker" 17
        INPUTS "inputs" 18
        RESULTS "results" 19
        ERROR "error" 20
        SIGNAL "signal" 21
    }
}

pub mod queues {
    columns! {
        QUEUE_ID "queue_id" 1
        MAX_IN_FLIGHT "max_in_flight" 3
        PAUSED "paused" 4
        NAME "name" 5
    }
}

pub mod templates {
    columns! {
        NAMESPACE_ID "namespace_id" 2
    }
}

pub mod namespaces {
    columns! {
        NAME "name" 3
        PRIVATE "private" 4
    }
}

pub mod access {
    columns! {
        ROLE "role" 1
        LEVEL "level" 2
        NAMESPACE "namespace" 3
    }
}

pub mod tasks {
    columns! {
        TASK_ID "task_id" 1
        TEMPLATE_ID "template_id" 2
        STARTED_AT "started_at" 4
        FINISHED_AT "finished_at" 5
        DEADLINE "deadline" 6
        LIVE_STEPS "live_steps" 7
        TOTAL_STEPS "total_steps" 8
        COMPLETED_STEPS "completed_steps" 9
        FAILED_STEPS "failed_steps" 10
        CANCELLED_STEPS "cancelled_steps" 11
        PRIORITY "priority" 12
        TIMED_OUT "timed_out" 13
        STATE "state" 14
        CREATED_BY "created_by" 15
        IDENTITY_KEY "identity_key" 17
        CONCURRENCY_KEY "concurrency_key" 18
        CONTEXT "context" 20
        TRACEPARENT "traceparent" 21
    }
}

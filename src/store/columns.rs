//! Column numbers of the hot tables as sql/schema/010_tables.sql declares them, for the triggers, which read rows
//! natively. A test compares them with the catalog. Later columns are appended, never inserted.

pub mod steps {
    pub const TASK_ID: i32 = 1;
    pub const TEMPLATE_ID: i32 = 2;
    pub const QUEUE_ID: i32 = 3;
    pub const VISIBLE_AT: i32 = 4;
    pub const CLAIM_TOKEN: i32 = 5;
    pub const LAST_ATTEMPTED_AT: i32 = 6;
    pub const LAST_FAILURE_AT: i32 = 7;
    pub const FINISHED_AT: i32 = 8;
    pub const STEP_ID: i32 = 9;
    pub const REMAINING_PARENTS: i32 = 10;
    pub const ATTEMPTS: i32 = 11;
    pub const BACKOFF_REQUEST_SECONDS: i32 = 12;
    pub const RETRYABLE: i32 = 14;
    pub const STATE: i32 = 15;
    pub const WORKER: i32 = 16;
    pub const ERROR: i32 = 19;
}

pub mod tasks {
    pub const TASK_ID: i32 = 1;
    pub const TEMPLATE_ID: i32 = 2;
    pub const STARTED_AT: i32 = 4;
    pub const FINISHED_AT: i32 = 5;
    pub const LIVE_STEPS: i32 = 6;
    pub const TOTAL_STEPS: i32 = 7;
    pub const COMPLETED_STEPS: i32 = 8;
    pub const FAILED_STEPS: i32 = 9;
    pub const CANCELLED_STEPS: i32 = 10;
    pub const STATE: i32 = 12;
}

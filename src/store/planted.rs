//! Statements that are wrong on purpose, see `pg::planted`.
use crate::pg::array::array;
use crate::pg::per_row::{PerRow, per_row};
use crate::pg::spi::{Session, Statement};

static FIT_TOKENS: Statement = Statement::write(
    "UPDATE stepwise.steps AS s SET claim_token = i.claim_token FROM unnest($1, $2, $3) AS i (task_id, step_id, claim_token) \
     WHERE s.task_id = i.task_id AND s.step_id = i.step_id AND s.state = 'in_progress'",
);

/// Makes the tokens of these reports fit, whatever they are.
pub fn fit_tokens(spi: &Session, task_ids: &[i64], step_ids: &[i32], tokens: &[i64]) {
    FIT_TOKENS.run(spi, &[array(task_ids), array(step_ids), array(tokens)]);
}

/// Adds to counters as they were before the row was locked.
pub static COUNT_EARLY: PerRow = per_row!(
    "task_id, live, completed, failed, cancelled, started",
    "$1, $2, $3, $4, $5, $6",
    "UPDATE stepwise.tasks AS t \
     SET live_steps = r.live_steps + i.live, completed_steps = r.completed_steps + i.completed, \
         failed_steps = r.failed_steps + i.failed, cancelled_steps = r.cancelled_steps + i.cancelled, \
         state = CASE WHEN i.started AND t.state = 'pending' THEN 'in_progress' ELSE t.state END \
     FROM i JOIN stepwise.tasks AS r ON r.task_id = i.task_id WHERE t.task_id = i.task_id"
);

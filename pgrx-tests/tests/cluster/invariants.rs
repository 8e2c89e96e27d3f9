//! What holds in every database at every moment, whatever its workers and its server went through: each a query that
//! returns the rows that are wrong.
use super::database::{count, one};
use postgres::Client;

/// Steps with what their template says about them.
const STEPS: &str = "(SELECT s.*, r.parents, r.retry_limit, r.retryable AS may_retry, t.state AS task_state \
    FROM stepwise.steps s JOIN stepwise.template_steps r USING (template_id, step_id) \
    JOIN stepwise.tasks t USING (task_id)) AS s";

/// Tasks with a recount of their steps.
const TASKS: &str = "(SELECT t.*, c.* FROM stepwise.tasks t CROSS JOIN LATERAL (SELECT \
        count(*) AS total, \
        count(s.visible_at) AS live, \
        count(*) FILTER (WHERE s.state IN ('complete', 'resolved_manually', 'skipped')) AS completed, \
        count(*) FILTER (WHERE s.state = 'error' AND s.visible_at IS NULL AND s.remaining_parents = 0) AS failed, \
        count(*) FILTER (WHERE s.state = 'cancelled') AS cancelled \
    FROM stepwise.steps s WHERE s.task_id = t.task_id) AS c) AS t";

/// History with the row before each.
const HISTORY: &str = "(SELECT h.*, lag(to_state) OVER one AS before, lead(event_id) OVER one IS NULL AS is_last \
    FROM stepwise.transitions h WINDOW one AS (PARTITION BY task_id, step_id ORDER BY event_id)) AS h";

/// What is checked, the relation, and what is wrong with a row of it.
const CHECKS: &[(&str, &str, &str)] = &[
    (
        "a step that was attempted has its parents settled",
        STEPS,
        "s.attempts > 0 AND EXISTS (SELECT FROM stepwise.steps p WHERE p.task_id = s.task_id \
            AND p.step_id = ANY (s.parents) AND p.state NOT IN ('complete', 'resolved_manually', 'skipped'))",
    ),
    (
        "a parent was settled before its child was claimed",
        STEPS,
        "EXISTS (SELECT FROM stepwise.transitions c JOIN stepwise.transitions p ON p.task_id = c.task_id \
            WHERE c.task_id = s.task_id AND c.step_id = s.step_id AND c.to_state = 'in_progress' \
            AND p.step_id = ANY (s.parents) AND p.to_state = 'complete' AND p.event_id > c.event_id)",
    ),
    (
        "remaining_parents counts the parents that are not settled",
        STEPS,
        "s.remaining_parents <> (SELECT count(*) FROM stepwise.steps p WHERE p.task_id = s.task_id \
            AND p.step_id = ANY (s.parents) AND p.state NOT IN ('complete', 'resolved_manually', 'skipped'))",
    ),
    (
        "a pending step is visible when it waits for no parent, and only then",
        STEPS,
        "s.state = 'pending' AND (s.visible_at IS NULL) <> (s.remaining_parents > 0)",
    ),
    (
        "a step at its end is invisible, a running one visible",
        STEPS,
        "(s.state IN ('complete', 'cancelled', 'resolved_manually', 'skipped') AND s.visible_at IS NOT NULL) \
            OR (s.state = 'in_progress' AND s.visible_at IS NULL)",
    ),
    (
        "a failed step is visible while it has an attempt left",
        STEPS,
        "s.state = 'error' AND (s.visible_at IS NOT NULL) \
            <> (s.attempts < s.retry_limit AND s.may_retry AND s.retryable IS NOT FALSE AND s.remaining_parents = 0)",
    ),
    (
        "a running step has a token, a pending one none",
        STEPS,
        "(s.state = 'in_progress' AND s.claim_token IS NULL) OR (s.state = 'pending' AND s.claim_token IS NOT NULL)",
    ),
    (
        "results belong to a step that is done",
        STEPS,
        "s.results IS NOT NULL AND s.state NOT IN ('complete', 'resolved_manually')",
    ),
    (
        "finished_at belongs to a step at its end",
        STEPS,
        "(s.finished_at IS NOT NULL) <> (s.state IN ('complete', 'cancelled', 'resolved_manually', 'skipped'))",
    ),
    (
        "a task's counters are the recount of its steps",
        TASKS,
        "(t.total_steps, t.live_steps, t.completed_steps, t.failed_steps, t.cancelled_steps) \
            IS DISTINCT FROM (t.total, t.live, t.completed, t.failed, t.cancelled)",
    ),
    (
        "a task ends when nothing of it can move, and only then",
        TASKS,
        "(t.state IN ('pending', 'in_progress')) <> (t.live > 0)",
    ),
    (
        "a task ends as its steps say",
        TASKS,
        "t.live = 0 AND t.state <> CASE WHEN t.failed > 0 THEN 'error' WHEN t.completed = t.total THEN 'complete' \
            WHEN t.timed_out THEN 'error' ELSE 'cancelled' END",
    ),
    ("finished_at belongs to a task at its end", TASKS, "(t.finished_at IS NOT NULL) <> (t.live = 0)"),
    (
        "a task has the steps of its template",
        TASKS,
        "t.total <> (SELECT count(*) FROM stepwise.template_steps r WHERE r.template_id = t.template_id) \
            OR EXISTS (SELECT FROM stepwise.steps s WHERE s.task_id = t.task_id AND s.template_id <> t.template_id)",
    ),
    (
        "each change starts where the one before it ended",
        HISTORY,
        "h.from_state IS DISTINCT FROM CASE WHEN h.before IS NOT NULL THEN h.before \
            WHEN h.step_id IS NOT NULL THEN 'pending' END",
    ),
    ("no change changes nothing", HISTORY, "h.from_state = h.to_state"),
    (
        "no end but an error is left again",
        HISTORY,
        "h.from_state IN ('complete', 'cancelled', 'resolved_manually', 'skipped')",
    ),
    (
        "a step's history ends at its state",
        STEPS,
        "s.state <> coalesce((SELECT h.to_state FROM stepwise.transitions h WHERE h.task_id = s.task_id \
            AND h.step_id = s.step_id ORDER BY h.event_id DESC LIMIT 1), 'pending')",
    ),
    (
        "a task's history ends at its state",
        TASKS,
        "t.state IS DISTINCT FROM (SELECT h.to_state FROM stepwise.transitions h WHERE h.task_id = t.task_id \
            AND h.step_id IS NULL ORDER BY h.event_id DESC LIMIT 1)",
    ),
    (
        "attempts are the claims less the releases",
        STEPS,
        "s.attempts > s.retry_limit OR s.attempts <> (SELECT \
            count(*) FILTER (WHERE h.to_state = 'in_progress') \
            - count(*) FILTER (WHERE h.from_state = 'in_progress' AND h.to_state = 'pending') \
            FROM stepwise.transitions h WHERE h.task_id = s.task_id AND h.step_id = s.step_id)",
    ),
    (
        "a step is completed once, a task ends once",
        "(SELECT task_id, step_id, count(*) AS ends FROM stepwise.transitions \
            WHERE to_state = 'complete' OR (step_id IS NULL AND to_state IN ('error', 'cancelled')) \
            GROUP BY task_id, step_id) AS h",
        "h.ends > 1",
    ),
    (
        "the history is that of steps that exist",
        "stepwise.transitions h",
        "h.step_id IS NOT NULL AND NOT EXISTS (SELECT FROM stepwise.steps s WHERE s.task_id = h.task_id \
            AND s.step_id = h.step_id)",
    ),
];

/// For databases in which no step was reset: a reset starts a step's attempts, and its task's end, anew.
#[track_caller]
pub fn assert_sound(client: &mut Client) {
    let wrong: Vec<String> = CHECKS
        .iter()
        .map(|(what, relation, wrong)| (what, count(client, &format!("{relation} WHERE {wrong}"))))
        .filter(|(_, rows)| *rows > 0)
        .map(|(what, rows)| format!("{rows} rows: {what}"))
        .collect();
    assert!(wrong.is_empty(), "not so:\n{}", wrong.join("\n"));
    // The extension's own check of itself.
    if one(client, "SELECT to_regprocedure('stepwise.verify(bigint)') IS NOT NULL", &[]) {
        assert_eq!(count(client, "stepwise.verify()"), 0);
    }
}

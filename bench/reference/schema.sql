-- The same tasks in a layout without counters: edges per task, and each step's state as its most recent transition.
DROP SCHEMA IF EXISTS reference CASCADE;
CREATE SCHEMA reference;

CREATE TABLE reference.steps AS
SELECT s.task_id, s.step_id, r.name, s.attempts, r.retry_limit, r.retryable, s.backoff_request_seconds,
       s.last_attempted_at
FROM stepwise.steps AS s JOIN stepwise.template_steps AS r USING (template_id, step_id);
ALTER TABLE reference.steps ADD PRIMARY KEY (task_id, step_id);

CREATE TABLE reference.edges AS
SELECT s.task_id, p.step_id AS from_step_id, s.step_id AS to_step_id
FROM stepwise.steps AS s JOIN stepwise.template_steps AS r USING (template_id, step_id)
CROSS JOIN LATERAL unnest(r.parents) AS p (step_id);
CREATE INDEX edges_to_idx ON reference.edges (task_id, to_step_id, from_step_id);

CREATE TABLE reference.transitions AS
SELECT id, task_id, step_id, to_state, sort_key, most_recent, created_at FROM stepwise.step_transitions;
ALTER TABLE reference.transitions ADD PRIMARY KEY (id);
CREATE UNIQUE INDEX transitions_most_recent_key ON reference.transitions (task_id, step_id) WHERE most_recent;
CREATE INDEX transitions_state_idx ON reference.transitions (task_id, step_id, to_state);

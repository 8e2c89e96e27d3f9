//! What can be asked about tasks and steps: what is due, what has a place, and what the readers must say.
use super::State::*;
use super::work::Receipt;
use super::{FOREVER, Key, Model, Task, Time};
use serde_json::{Map, Value, json};

impl Model {
    /// Steps whose time has come, held ones whose lease is over among them.
    pub fn due(&self) -> Vec<Key> {
        let of_task = |(&id, task): (&i64, &Task)| {
            let due = |step: &usize| task.step(*step).visible.is_some_and(|at| at <= self.now);
            (1..=task.steps.len()).filter(due).map(|step| (id, step)).collect::<Vec<Key>>()
        };
        self.tasks.iter().flat_map(of_task).collect()
    }

    pub fn priority(&self, (id, step): Key) -> i32 {
        self.tasks[&id].priority + self.tasks[&id].rule(step).priority
    }

    pub fn queue(&self, (id, step): Key) -> &String {
        &self.tasks[&id].rule(step).queue
    }

    pub fn is_overdue(&self, id: i64) -> bool {
        self.tasks[&id].is_open() && self.tasks[&id].deadline.is_some_and(|deadline| deadline <= self.now)
    }

    /// Whether a step that is due can be handed out, limits aside.
    pub fn is_usable(&self, (id, step): Key) -> bool {
        let task = &self.tasks[&id];
        !task.rule(step).waits && task.attempt_left(step) && !self.is_overdue(id)
    }

    pub fn is_held(&self, receipt: &Receipt) -> bool {
        self.tasks.get(&receipt.task).is_some_and(|task| {
            let step = task.step(receipt.step);
            step.state == InProgress && step.receipt.as_ref() == Some(&receipt.text)
        })
    }

    pub fn dependencies(&self, (id, step): Key) -> Value {
        let task = &self.tasks[&id];
        let of = |&parent: &usize| {
            (task.rule(parent).name.clone(), task.step(parent).results.clone().unwrap_or(Value::Null))
        };
        Value::Object(task.rule(step).parents.iter().map(of).collect::<Map<String, Value>>())
    }

    // Limits: how many steps are in progress under each, counted anew ------------------------------------------------

    pub fn is_limited(&self, key: Key) -> bool {
        let task = &self.tasks[&key.0];
        task.shape.max_parallel > 0 || task.shape.max_per_key > 0 || self.queues[self.queue(key)].limit > 0
    }

    /// The limits that a step is under: the most, and how many hold a place of it.
    fn limits(&self, key: Key) -> Vec<(usize, usize)> {
        let (task, queue) = (&self.tasks[&key.0], self.queue(key));
        let held = |same: &dyn Fn(i64, &Task, usize) -> bool| {
            let of_task = |(&id, other): (&i64, &Task)| {
                other.count(|step| {
                    other.step(step).state == InProgress && !other.rule(step).waits && same(id, other, step)
                })
            };
            self.tasks.iter().map(of_task).sum::<usize>()
        };
        let mut limits = Vec::new();
        if self.queues[queue].limit > 0 {
            limits.push((self.queues[queue].limit, held(&|_, other, step| &other.rule(step).queue == queue)));
        }
        if task.shape.max_parallel > 0 {
            limits.push((task.shape.max_parallel, held(&|id, _, _| id == key.0)));
        }
        let value = task.context.get("key").filter(|value| !value.is_null());
        if task.shape.max_per_key > 0 && value.is_some() {
            let same = |_, other: &Task, _| other.shape.name == task.shape.name && other.context.get("key") == value;
            limits.push((task.shape.max_per_key, held(&same)));
        }
        limits
    }

    pub fn has_room(&self, key: Key) -> bool {
        self.limits(key).iter().all(|(most, held)| held < most)
    }

    pub fn within_limits(&self, key: Key) -> bool {
        self.limits(key).iter().all(|(most, held)| held <= most)
    }

    // Readers -------------------------------------------------------------------------------------------------------

    /// The row of `get_step_readiness_status`, without what the step itself says.
    pub fn readiness(&self, key: Key) -> Value {
        let task = &self.tasks[&key.0];
        let (rule, step) = (task.rule(key.1), task.step(key.1));
        let for_good = task.failed_for_good(key.1);
        let next_retry_at = task.backoff_end(key.1).filter(|_| !for_good);
        let retry_eligible = task.attempt_left(key.1)
            && (step.attempts == 0 || step.retryable != Some(false))
            && next_retry_at.is_none_or(|at| at <= self.now)
            && !for_good;
        let parents = task.parents(key.1);
        let satisfied = parents.iter().all(|state| state.is_settled());
        let delayed = step.state == Pending && step.backoff.is_none() && step.visible.is_some_and(|at| at > self.now);
        let ready = [Pending, Error].contains(&step.state)
            && !rule.waits
            && satisfied
            && retry_eligible
            && !delayed
            && task.is_open()
            && !self.queues[&rule.queue].paused;
        json!({
            "dependencies_satisfied": satisfied, "retry_eligible": retry_eligible, "ready": ready,
            "last_failure_at": step.failed_at.filter(|_| step.state == Error), "next_retry_at": next_retry_at,
            "total_parents": parents.len(), "completed_parents": parents.iter().filter(|state| state.is_settled()).count(),
            "processed": step.state.is_settled(), "in_process": step.state == InProgress,
        })
    }

    pub fn ready_steps(&self, id: i64) -> Vec<usize> {
        (1..=self.tasks[&id].steps.len()).filter(|&step| self.readiness((id, step))["ready"] == true).collect()
    }

    /// The row of `get_task_execution_context`.
    pub fn context(&self, id: i64) -> Value {
        let task = &self.tasks[&id];
        let in_state = |state| task.count(|step| task.step(step).state == state);
        let (total, completed, failed) = (task.steps.len(), task.completed(), in_state(Error));
        let (ready, for_good) = (self.ready_steps(id).len(), task.failed());
        let (status, action) = if [Cancelled, Resolved].contains(&task.state) {
            (task.state.name(), "none")
        } else if ready > 0 {
            ("has_ready_steps", "execute_ready_steps")
        } else if in_state(InProgress) > 0 {
            ("processing", "wait_for_completion")
        } else if for_good > 0 || task.state == Error {
            ("blocked_by_failures", "handle_failures")
        } else if completed == total {
            ("all_complete", "finalize_task")
        } else {
            ("waiting_for_dependencies", "wait_for_dependencies")
        };
        let health = match (failed, ready, for_good) {
            (0, _, _) if task.state == Error => "blocked",
            (0, _, _) => "healthy",
            (_, 1.., _) | (_, 0, 0) => "recovering",
            _ => "blocked",
        };
        let percent = format!("{:.2}", (completed as f64 * 10_000.0 / total as f64).round() / 100.0);
        json!([
            task.state.name(),
            total,
            in_state(Pending),
            in_state(InProgress),
            completed,
            failed,
            ready,
            status,
            action,
            percent,
            health
        ])
    }

    /// `next_visible_at()`, where no queue is limited.
    pub fn next_visible_at(&self) -> Option<Time> {
        let of_task = |(&id, task): (&i64, &Task)| {
            let steps = (1..=task.steps.len()).filter(|&step| !self.queues[self.queue((id, step))].paused);
            steps.filter_map(|step| task.step(step).visible).filter(|&at| at < FOREVER).min()
        };
        self.tasks.iter().filter_map(of_task).min()
    }
}

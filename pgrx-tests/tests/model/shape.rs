//! Random templates: what the model knows of one, and its definition for `register_template`.
use crate::cluster::random::Random;
use crate::rules::{Time, UNIT_SECONDS};
use serde_json::{Value, json};

pub const QUEUES: [&str; 3] = ["north", "south", "west"];

#[derive(Clone, Debug)]
pub struct StepShape {
    pub name: String,
    /// Numbers of steps, from 1; all of them smaller than its own.
    pub parents: Vec<usize>,
    pub queue: String,
    pub priority: i32,
    pub retry_limit: i32,
    pub retryable: bool,
    pub skippable: bool,
    /// It waits for a signal.
    pub waits: bool,
    /// How long a claim holds; of a wait how long it waits, 0 is for ever.
    pub timeout: Time,
    pub delay: Time,
    pub base: Time,
    pub cap: Time,
}

#[derive(Clone, Debug)]
pub struct Shape {
    pub name: String,
    pub steps: Vec<StepShape>,
    pub timeout: Option<Time>,
    /// 0: no limit.
    pub max_parallel: usize,
    pub max_per_key: usize,
}

impl StepShape {
    pub fn lease(&self) -> Time {
        self.timeout
    }

    pub fn backoff_after(&self, attempts: i32) -> Time {
        (0..attempts).fold(self.base, |delay, _| (delay * 2).min(self.cap)).min(self.cap)
    }
}

/// What may occur in the templates and commands of a walk. Few kinds at once make failures short and walks deep.
#[derive(Clone, Copy, Debug)]
pub struct Temper {
    pub limits: bool,
    pub waits: bool,
    pub deadlines: bool,
    pub delays: bool,
    pub most_steps: u64,
}

impl Temper {
    pub fn random(random: &mut Random) -> Temper {
        Temper {
            limits: random.percent(35),
            waits: random.percent(40),
            deadlines: random.percent(30),
            delays: random.percent(30),
            most_steps: [2, 4, 7, 12][random.below(4) as usize],
        }
    }
}

fn one_of<T: Copy>(random: &mut Random, values: &[T]) -> T {
    values[random.below(values.len() as u64) as usize]
}

impl Shape {
    pub fn random(name: &str, temper: Temper, random: &mut Random) -> Shape {
        let count = 1 + random.below(temper.most_steps) as usize;
        let steps = (1..=count).map(|number| step(number, temper, random)).collect();
        let limited = temper.limits;
        Shape {
            name: name.to_owned(),
            steps,
            timeout: (temper.deadlines && random.percent(60)).then(|| 3 + random.below(30) as Time),
            max_parallel: if limited && random.percent(40) { 1 + random.below(2) as usize } else { 0 },
            max_per_key: if limited && random.percent(40) { 1 + random.below(3) as usize } else { 0 },
        }
    }

    pub fn definition(&self) -> Value {
        let steps: Vec<Value> = self.steps.iter().map(|step| self.step_definition(step)).collect();
        let mut definition = json!({"namespace": "model", "name": self.name, "version": "1.0.0", "steps": steps});
        if let Some(timeout) = self.timeout {
            definition["timeout"] = interval(timeout).into();
        }
        if self.max_parallel > 0 {
            definition["max_parallel_steps"] = self.max_parallel.into();
        }
        if self.max_per_key > 0 {
            definition["concurrency_key"] = "/key".into();
            definition["max_per_key"] = self.max_per_key.into();
        }
        definition
    }

    fn step_definition(&self, step: &StepShape) -> Value {
        let parents: Vec<&str> = step.parents.iter().map(|&parent| self.steps[parent - 1].name.as_str()).collect();
        let mut definition = json!({
            "name": step.name, "depends_on": parents, "queue": step.queue, "priority": step.priority,
            "skippable": step.skippable, "timeout": interval(step.timeout), "delay": interval(step.delay),
        });
        if step.waits {
            definition["kind"] = "wait".into();
        } else {
            definition["retry_limit"] = step.retry_limit.into();
            definition["retryable"] = step.retryable.into();
            definition["backoff"] = json!({"base": interval(step.base), "cap": interval(step.cap)});
        }
        definition
    }
}

fn step(number: usize, temper: Temper, random: &mut Random) -> StepShape {
    let mut parents = Vec::new();
    while number > 1 && parents.len() < 3 && random.percent(65) {
        // Near parents make chains, far ones shortcuts.
        let reach = if random.percent(70) { 3.min(number - 1) } else { number - 1 };
        let parent = number - 1 - random.below(reach as u64) as usize;
        if !parents.contains(&parent) {
            parents.push(parent);
        }
    }
    parents.sort_unstable();
    let waits = temper.waits && random.percent(25);
    StepShape {
        name: format!("s{number}"),
        parents,
        queue: one_of(random, &QUEUES).to_owned(),
        priority: one_of(random, &[0, 0, 0, 1, -1]),
        retry_limit: if waits { 1 } else { one_of(random, &[1, 2, 3, 3, 4, 0]) },
        retryable: !waits && random.percent(90),
        skippable: random.percent(20),
        waits,
        timeout: if waits { one_of(random, &[0, 5, 20]) } else { one_of(random, &[1, 2, 6]) },
        delay: if temper.delays && random.percent(30) { one_of(random, &[1, 3]) } else { 0 },
        base: one_of(random, &[1, 1, 2]),
        cap: one_of(random, &[1, 3, 30]),
    }
}

/// An interval of so many units of the model's time.
pub fn interval(time: Time) -> String {
    format!("{} minutes", time * (UNIT_SECONDS / 60))
}

//! The workers of `examples/workers` as processes of their own, and the orders that they work on. What runs them is
//! found in the environment, see [`Language::command`]; `.ci/setup --workers` installs it, `.ci/test` says where.
use super::database::{Database, count, one};
use super::wait;
use postgres::Client;
use serde_json::{Value, json};
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

const SCHEMA: &str = include_str!("../../../examples/workers/schema.sql");
const TEMPLATE: &str = include_str!("../../../examples/workers/template.json");

#[derive(Clone, Copy)]
pub enum Language {
    Python,
    Node,
    Ruby,
}

/// What is at a path that the environment names.
fn program(variable: &str) -> String {
    let hint = format!("{variable} is not set: run .ci/setup --workers, then the tests with .ci/test");
    let path = env::var(variable).unwrap_or_else(|_| panic!("{hint}"));
    let hint = format!("{variable}: there is no {path}: run .ci/setup --workers");
    assert!(Path::new(&path).exists(), "{hint}");
    path
}

/// A script with the Python that has the examples' packages. A test that is killed takes it along.
pub fn python(script: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=KILL").arg(program("PG_STEPWISE_PYTHON")).arg(script);
    command.env_clear().envs([("HOME", "/"), ("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8")]);
    command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
    command
}

impl Language {
    fn worker(self) -> &'static str {
        match self {
            Language::Python => "workers/python/worker.py",
            Language::Node => "workers/node/worker.js",
            Language::Ruby => "workers/ruby/worker.rb",
        }
    }

    /// Runs a file of `examples`.
    fn command(self, script: &str) -> Command {
        let variable = match self {
            Language::Python => "PG_STEPWISE_PYTHON",
            Language::Node => "PG_STEPWISE_NODE",
            Language::Ruby => "PG_STEPWISE_RUBY",
        };
        let mut command = Command::new("setpriv");
        // A test that is killed takes its workers with it.
        command.arg("--pdeathsig=KILL").arg(program(variable));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(script));
        command.env_clear().envs([("HOME", "/"), ("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8")]);
        if let Language::Node = self {
            command.env("NODE_PATH", program("PG_STEPWISE_NODE_PATH"));
        }
        command
    }
}

pub struct ExampleWorker {
    pub name: String,
    process: Child,
    log: PathBuf,
}

impl ExampleWorker {
    /// `options` as on its command line; its role is the one that `schema.sql` makes.
    pub fn start(language: Language, database: &Database, name: &str, options: &str) -> ExampleWorker {
        let arguments: Vec<&str> = ["--name", name].into_iter().chain(options.split_whitespace()).collect();
        let mut worker = ExampleWorker::script(language, language.worker(), database, "order_worker", &arguments);
        worker.name = name.to_owned();
        worker
    }

    /// Another program of `examples`, by its path there.
    pub fn script(
        language: Language,
        script: &str,
        database: &Database,
        role: &str,
        arguments: &[&str],
    ) -> ExampleWorker {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = env::temp_dir().join(format!("pgsw-{}-worker-{number}.log", std::process::id()));
        let mut command = language.command(script);
        command.args(arguments);
        command.env("PGHOST", &database.socket).env("PGUSER", role).env("PGDATABASE", &database.name);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("the log can be written"));
        let process = command.spawn().expect("setpriv starts");
        ExampleWorker { name: script.to_owned(), process, log }
    }

    /// The first answer of `ask`; fails at once, and not at the deadline, where the worker has ended by itself.
    pub fn until<T>(&mut self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        wait::until(what, || {
            let ended = self.process.try_wait().expect("the worker can be waited for");
            let name = &self.name;
            assert!(
                ended.is_none(),
                "{name} ended by itself ({ended:?}; a package missing? .ci/setup --workers): {what}"
            );
            ask()
        })
    }

    /// Until it has found nothing to do, and waits.
    pub fn until_idle(&mut self, client: &mut Client) {
        let idle = format!(
            "pg_stat_activity WHERE datname = current_database() AND application_name = '{}' AND state = 'idle' \
                AND query LIKE '%next_visible_at%'",
            self.name
        );
        self.until("the worker waits for steps", || (count(client, &idle) == 1).then_some(()));
    }

    /// Until a handler waits for a row that the test has locked; the process id of its backend.
    pub fn until_blocked(&mut self, client: &mut Client) -> i32 {
        let blocked = "SELECT max(pid) FROM pg_stat_activity WHERE datname = current_database() \
            AND application_name = $1 AND wait_event_type = 'Lock' AND query LIKE '%UPDATE shop.orders%'";
        let name = self.name.clone();
        self.until("a handler is at the locked row", || one(client, blocked, &[&name]))
    }

    pub fn terminate(&self) {
        let status = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.process.id())).status();
        assert!(status.expect("sh runs").success(), "{} cannot be told to stop", self.name);
    }

    pub fn kill(&mut self) {
        self.process.kill().expect("the worker can be killed");
        self.process.wait().expect("the worker has ended");
    }

    pub fn until_exit(&mut self) -> ExitStatus {
        wait::until("the worker exits", || self.process.try_wait().expect("the worker can be waited for"))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the worker has a log")
    }
}

impl Drop for ExampleWorker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the log of {}:\n{}", self.name, self.log());
        }
        let _ = fs::remove_file(&self.log);
    }
}

/// What a user makes before the first order; also a template `entry` of one step that leaves an entry.
pub fn prepare(client: &mut Client) {
    client.batch_execute(SCHEMA).expect("schema.sql runs");
    let entry = json!({"namespace": "shop", "name": "entry", "version": "1.0.0", "steps": [{"name": "enter"}]});
    for definition in [TEMPLATE, &entry.to_string()] {
        one::<i64>(client, "SELECT stepwise.register_template($1::text::jsonb)", &[&definition]);
    }
}

pub fn add_order(client: &mut Client, amount: i32) -> i64 {
    one(client, "INSERT INTO shop.orders (amount) VALUES ($1::integer) RETURNING order_id", &[&amount])
}

/// A task for an order; its id. `failures`: how many attempts of which step are to fail.
pub fn create_task(client: &mut Client, template: &str, order_id: i64, failures: Value) -> i64 {
    let context = json!({"order_id": order_id, "failures": failures});
    one(client, "SELECT stepwise.create_task($1, $2::text::jsonb)", &[&template, &context.to_string()])
}

/// Fails unless each step that leaves an entry has left one, if it is complete, and none otherwise.
#[track_caller]
pub fn assert_one_entry_per_step(client: &mut Client) {
    let wrong = "(SELECT s.task_id, r.name, s.state, count(e.entry_id) AS entries \
        FROM stepwise.steps s JOIN stepwise.template_steps r USING (template_id, step_id) \
        LEFT JOIN shop.entries e ON e.task_id = s.task_id AND e.step = r.name WHERE r.handler = 'enter' \
        GROUP BY s.task_id, r.name, s.state) AS s WHERE entries <> (state = 'complete')::integer";
    assert_eq!(count(client, wrong), 0, "steps without an entry, or with more than one");
    let counted =
        "shop.orders o WHERE steps_done <> (SELECT count(*) FROM shop.entries e WHERE e.order_id = o.order_id)";
    assert_eq!(count(client, counted), 0, "orders whose steps_done is wrong");
}

/// Claims of a task's steps, or of those of all tasks.
pub fn claims(client: &mut Client, task_id: Option<i64>) -> i64 {
    let sql = "SELECT count(*) FROM stepwise.transitions WHERE to_state = 'in_progress' AND step_id IS NOT NULL \
        AND task_id = coalesce($1, task_id)";
    one(client, sql, &[&task_id])
}

pub fn until_ended(worker: &mut ExampleWorker, client: &mut Client, tasks: &str) {
    let open = format!("stepwise.tasks WHERE state IN ('pending', 'in_progress') AND {tasks}");
    worker.until("the tasks end", || (count(client, &open) == 0).then_some(()));
}

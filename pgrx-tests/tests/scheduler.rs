//! A scheduler that knows nothing but `SELECT stepwise.tick()` ends leases and wakes workers, while nobody else calls
//! anything: pg_cron, where the server has it; elsewhere a connection that calls tick once a second.
mod cluster;

use cluster::{Server, count, invariants, one, templates, wait};
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const TICK: &str = "SELECT stepwise.tick()";
/// pg_cron before 1.5 runs what it has been told at the full minute, and notices it a little after that.
const PATIENCE: Duration = Duration::from_secs(150);

/// What calls tick; it ends with the value.
enum Scheduler {
    Cron,
    Loop { stop: Arc<AtomicBool>, thread: Option<JoinHandle<()>> },
}

impl Scheduler {
    fn has_cron(client: &mut Client) -> bool {
        count(client, "pg_available_extensions WHERE name = 'pg_cron'") == 1
    }

    /// Schedules tick in the database that the client is connected to.
    fn start(server: &Server, client: &mut Client, database: &str) -> Scheduler {
        if Scheduler::has_cron(client) {
            client.batch_execute("CREATE EXTENSION pg_cron").unwrap();
            client.execute("SELECT cron.schedule('stepwise tick', '* * * * *', $1)", &[&TICK]).unwrap();
            return Scheduler::Cron;
        }
        let (stop, mut caller) = (Arc::new(AtomicBool::new(false)), server.connect(database));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                caller.batch_execute(TICK).expect("tick may be called at any time");
                thread::sleep(Duration::from_secs(1));
            }
        });
        Scheduler::Loop { stop, thread: Some(thread) }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        if let Scheduler::Loop { stop, thread } = self {
            stop.store(true, Ordering::Relaxed);
            let ended = thread.take().map(JoinHandle::join);
            assert!(ended.is_none_or(|ended| ended.is_ok()) || thread::panicking());
        }
    }
}

/// A server whose scheduler works in the database `scheduled`.
fn server() -> Server {
    let plain = Server::start();
    if !Scheduler::has_cron(&mut plain.connect("postgres")) {
        return plain;
    }
    drop(plain);
    Server::start_with(&[
        "shared_preload_libraries=pg_cron",
        "cron.database_name=scheduled",
        // Else it connects over TCP.
        "cron.use_background_workers=on",
        "max_worker_processes=16",
    ])
}

#[test]
fn a_scheduler_that_calls_tick_ends_leases_and_wakes_workers() {
    let server = server();
    let mut client = server.database("scheduled").connect();
    let definition = json!({"namespace": "n", "name": "t", "steps": [{"name": "lost", "retry_limit": 2, "backoff": {"base": "1s"}}]});
    templates::register(&mut client, &definition);
    client.batch_execute("SELECT stepwise.create_task('t')").unwrap();
    assert_eq!(count(&mut client, "stepwise.claim_steps('dies', lease => '1 second')"), 1);
    client.batch_execute("LISTEN stepwise_ready").unwrap();
    let _scheduler = Scheduler::start(&server, &mut client, "scheduled");
    // From here on this session only listens.
    let own: i32 = one(&mut client, "SELECT pg_backend_pid()", &[]);
    let end = Instant::now() + PATIENCE;
    let woken = loop {
        assert!(Instant::now() < end, "nobody announced the step");
        let mut notifications = client.notifications();
        let next = notifications.timeout_iter(Duration::from_secs(1)).find(|one| Ok(one.process_id() != own)).unwrap();
        if let Some(woken) = next {
            break woken;
        }
    };
    assert_eq!((woken.channel(), woken.payload()), ("stepwise_ready", "n"));
    let expired = "stepwise.transitions WHERE to_state = 'error' AND metadata ->> 'reason' = 'lease_expired'";
    assert_eq!(count(&mut client, expired), 1);
    let attempt = wait::until("the step is handed out again", || {
        client.query_opt("SELECT attempt FROM stepwise.claim_steps('lives')", &[]).unwrap()
    });
    assert_eq!(attempt.get::<_, i32>(0), 2);
    invariants::assert_sound(&mut client);
}

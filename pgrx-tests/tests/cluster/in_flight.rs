//! Work that is under way in every respect while something is done to its database, and what must come of it after that.
use super::database::{count, one};
use super::worker::{Claimed, claim, complete, receipts};
use super::{invariants, templates, wait};
use postgres::Client;

pub struct InFlight {
    /// A step in a worker's hands, and one that holds places under limits.
    held: Claimed,
    limited: Claimed,
    /// The task with an identity key, the one that waits for signals, and the one of which an attempt is to fail.
    keyed: i64,
    waiting: i64,
    failing: i64,
    /// Events that the subscription has not been given.
    unread: Vec<i64>,
    /// Those that there were before, by state.
    before: [i64; 2],
}

const OTHERS: [&str; 3] = [
    r#"{"namespace": "limited", "name": "limited", "max_parallel_steps": 1, "concurrency_key": "/k", "max_per_key": 1,
        "steps": [{"name": "a", "timeout": "1h"}, {"name": "b"}]}"#,
    r#"{"namespace": "paused", "name": "paused", "steps": [{"name": "a"}]}"#,
    r#"{"namespace": "test", "name": "waits", "steps": [{"name": "a"}, {"name": "open", "kind": "wait"},
        {"name": "kept", "kind": "wait", "depends_on": "a"}]}"#,
];

fn ended(client: &mut Client) -> [i64; 2] {
    ["complete", "error"].map(|state| count(client, &format!("stepwise.tasks WHERE state = '{state}'")))
}

fn unread(client: &mut Client) -> Vec<i64> {
    let sql = "SELECT event_id FROM stepwise.read_events('reader', 10000)";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Tasks in every stage: done, failed for good, running, backing off, waiting, delayed, without a place, paused; a signal that
/// came early, an attempt that is to fail, a subscription in the middle of the events.
pub fn begin(client: &mut Client) -> InFlight {
    assert_eq!(count(client, "stepwise.tasks WHERE finished_at IS NULL"), 0);
    let before = ended(client);
    client.batch_execute("SELECT stepwise.create_subscription('reader')").unwrap();
    templates::register(client, &templates::ladder("in flight", 3));
    templates::register(client, &templates::chain("chain", &["first", "second"]));
    templates::create(client, "chain", 3);
    let steps = claim(client, "w", 10).unwrap();
    complete(client, &steps[0].receipt, "1").unwrap();
    let fail = "SELECT stepwise.fail_step($1::text::uuid, '\"no\"', retryable => false)";
    client.execute(fail, &[&steps[1].receipt]).unwrap();
    let back_off = "SELECT stepwise.fail_step($1::text::uuid, retry_after => '10 minutes')";
    client.execute(back_off, &[&steps[2].receipt]).unwrap();
    for step in claim(client, "w", 10).unwrap() {
        complete(client, &step.receipt, "2").unwrap();
    }
    templates::create(client, "in flight", 3);
    let later = "SELECT stepwise.create_task('in flight', '{\"n\": 1}', identity_key => 'k', \
        run_at => now() + interval '1 day')";
    let keyed = one(client, later, &[]);
    let running = claim(client, "w", 2).unwrap();
    assert_eq!(running.len(), 2);

    for definition in OTHERS {
        one::<i64>(client, "SELECT stepwise.register_template($1::text::jsonb)", &[&definition]);
    }
    client.batch_execute("SELECT stepwise.set_queue_limit('limited', 1), stepwise.pause_queue('paused')").unwrap();
    client
        .batch_execute("SELECT stepwise.create_task('limited', '{\"k\": 1}'), stepwise.create_task('paused')")
        .unwrap();
    let row =
        client.query_one("SELECT receipt::text, task_id FROM stepwise.claim_steps('w', '{limited,paused}', 9)", &[]);
    let row = row.expect("one of three steps has a place");
    let limited = Claimed { receipt: row.get(0), task_id: row.get(1), step_id: 1, attempt: 1 };
    let waiting = templates::create(client, "waits", 1)[0];
    let signal = "SELECT stepwise.signal_step($1, 'kept', '\"early\"')";
    assert_eq!(one::<String>(client, signal, &[&waiting]), "kept");
    let failing = templates::create(client, "chain", 1)[0];
    client.execute("SELECT stepwise.inject_failure($1, 'first')", &[&failing]).unwrap();

    let position = wait::until("events can be read", || unread(client).get(2).copied());
    client.execute("SELECT stepwise.ack_events('reader', $1)", &[&position]).unwrap();
    let sql = "SELECT safe_event = last_event FROM stepwise.subscription_lag()";
    let unread = wait::until("all events can be read", || {
        let all: bool = one(client, sql, &[]);
        all.then(|| unread(client))
    });
    assert!(unread.len() > 20, "{} events", unread.len());
    invariants::assert_sound(client);
    let held = running[0].clone();
    InFlight { held, limited, keyed, waiting, failing, unread, before }
}

/// Completes all that can be claimed.
fn work(client: &mut Client, ahead: &str) {
    client.batch_execute(&format!("SET stepwise.clock_offset = '{ahead}'")).unwrap();
    loop {
        let steps = claim(client, "after", 100).unwrap();
        if steps.is_empty() {
            return;
        }
        let sql = "SELECT count(*) FROM stepwise.complete_steps($1::text[]::uuid[]) WHERE outcome <> 'accepted'";
        assert_eq!(one::<i64>(client, sql, &[&receipts(&steps)]), 0);
    }
}

/// All goes on as if nothing had been.
pub fn runs_to_its_end(client: &mut Client, begun: &InFlight) {
    invariants::assert_sound(client);
    // The subscription stands where it stood: nothing comes again, nothing is left out.
    wait::until("the events that were not read", || (unread(client) == begun.unread).then_some(()));
    // New tasks get new ids, and a key is still taken.
    let highest: i64 = one(client, "SELECT max(task_id) FROM stepwise.tasks", &[]);
    assert!(templates::create(client, "chain", 1)[0] > highest);
    let again = "SELECT stepwise.create_task('in flight', identity_key => 'k')";
    assert_eq!(one::<i64>(client, again, &[]), begun.keyed);
    // Nobody else gets in while the place is taken, and a worker that held a step through all of this can still report.
    let others = "SELECT count(*) FROM stepwise.claim_steps('other', '{limited,paused}', 9)";
    assert_eq!(one::<i64>(client, others, &[]), 0);
    assert_eq!(complete(client, &begun.held.receipt, "3").unwrap(), "accepted");
    assert_eq!(complete(client, &begun.limited.receipt, "4").unwrap(), "accepted");
    // After leases, backoffs and delays; one attempt fails instead of being made.
    client.batch_execute("SET stepwise.testing = on").unwrap();
    work(client, "2 days");
    let injected = format!(
        "stepwise.transitions WHERE task_id = {} AND metadata -> 'error' ->> 'reason' = 'injected'",
        begun.failing
    );
    assert_eq!(count(client, &injected), 1);
    work(client, "3 days");
    let waits = "SELECT results #>> '{}' FROM stepwise.steps WHERE task_id = $1 AND state = 'complete' AND step_id = \
        (SELECT step_id FROM stepwise.template_steps r WHERE r.template_id = steps.template_id AND r.name = 'kept')";
    assert_eq!(one::<String>(client, waits, &[&begun.waiting]), "early");
    let signal = "SELECT stepwise.signal_step($1, 'open')";
    assert_eq!(one::<String>(client, signal, &[&begun.waiting]), "accepted");
    assert_eq!(
        count(
            client,
            "stepwise.steps WHERE attempts > 0 AND queue_id = (SELECT queue_id FROM stepwise.queues \
        WHERE name = 'paused')"
        ),
        0
    );
    client.batch_execute("SELECT stepwise.resume_queue('paused')").unwrap();
    work(client, "3 days");
    client.batch_execute("RESET stepwise.clock_offset; RESET stepwise.testing").unwrap();

    assert_eq!(count(client, "stepwise.tasks WHERE finished_at IS NULL"), 0);
    assert_eq!(ended(client), [begun.before[0] + 11, begun.before[1] + 1]);
    let left = "stepwise.slots WHERE task_id IS NOT NULL";
    assert_eq!((count(client, left), count(client, "stepwise.injected_failures")), (0, 0));
    invariants::assert_sound(client);
}

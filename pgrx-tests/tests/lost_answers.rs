//! The connection breaks after a call was sent. The client does not know whether the call is stored; it repeats it over a new
//! connection, and the call has had its effect once.
mod cluster;

use cluster::proxy::{Loses, Proxy};
use cluster::worker::{Claimed, claim};
use cluster::{Database, Server, count, invariants, one, templates};
use postgres::Client;
use serde_json::json;

/// A report, what its answer is where the first one was stored, and the state that it leaves.
const REPORTS: [(&str, &str, &str); 6] = [
    ("SELECT stepwise.complete_step('{receipt}', '{n}')", "already_done", "complete"),
    ("SELECT outcome FROM stepwise.complete_steps('{{receipt}}', ARRAY['{n}']::jsonb[])", "already_done", "complete"),
    ("SELECT stepwise.fail_step('{receipt}', '{n}')", "already_done", "error"),
    ("SELECT outcome FROM stepwise.fail_steps('{{receipt}}', ARRAY['{n}']::jsonb[])", "already_done", "error"),
    (
        "SELECT outcome FROM stepwise.report_and_claim('w', completed => '{{receipt}}', results => ARRAY['{n}']::jsonb[], \
            queues => '{nothing}')",
        "already_done",
        "complete",
    ),
    (
        "SELECT outcome FROM stepwise.report_and_claim('w', failed => '{{receipt}}', errors => ARRAY['{n}']::jsonb[], \
            queues => '{nothing}')",
        "already_done",
        "error",
    ),
];

fn prepare(server: &Server, name: &str) -> (Database, Client) {
    let database = server.database(name);
    let mut client = database.connect();
    let definition = json!({"namespace": "test", "name": "pair", "defaults": {"timeout": "1h", "backoff": {"base": "1h", "cap": "1h"}},
        "steps": [{"name": "first"}, {"name": "second", "depends_on": "first"}]});
    templates::register(&mut client, &definition);
    client.batch_execute("CREATE TABLE entries (receipt uuid PRIMARY KEY)").unwrap();
    (database, client)
}

fn held(client: &mut Client) -> Claimed {
    let task = templates::create(client, "pair", 1)[0];
    claim(client, "w", 10).unwrap().into_iter().find(|step| step.task_id == task).expect("its first step is ready")
}

fn text(client: &mut Client, sql: &str) -> Result<String, postgres::Error> {
    let messages = client.simple_query(sql)?;
    let row = messages.iter().find_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(row.unwrap_or_default())
}

#[test]
fn a_report_whose_answer_is_lost_may_be_repeated() {
    let server = Server::start();
    let (database, mut client) = prepare(&server, "lost_answers");
    let proxy = Proxy::new(&database);
    for (report, again, state) in REPORTS {
        for (loses, expected) in [(Loses::Answer, again), (Loses::Request, "accepted")] {
            let step = held(&mut client);
            let with = |n: &str| report.replace("{receipt}", &step.receipt).replace("{n}", n);
            let mut worker = proxy.connect();
            proxy.lose(loses);
            let error = text(&mut worker, &with("1")).unwrap_err();
            assert!(error.is_closed() || error.code().is_none(), "{error:?}");
            assert_eq!(text(&mut proxy.connect(), &with("2")).unwrap(), expected, "{report}");
            let kept: String = one(
                &mut client,
                "SELECT coalesce(results, error)::text FROM stepwise.steps WHERE task_id = $1 AND step_id = 1 AND state = $2",
                &[&step.task_id, &state],
            );
            assert_eq!(kept, if loses == Loses::Answer { "1" } else { "2" }, "{report}");
            let changes = format!("stepwise.transitions WHERE task_id = {} AND step_id = 1", step.task_id);
            assert_eq!(count(&mut client, &changes), 2, "{report}");
            // And once more, when the child may have gone on.
            client.batch_execute("SELECT stepwise.claim_steps('other', max_steps => 10)").unwrap();
            assert_eq!(text(&mut client, &with("3")).unwrap(), "already_done", "{report}");
            assert_eq!(count(&mut client, &changes), 2, "{report}");
        }
    }
    invariants::assert_sound(&mut client);
}

#[test]
fn a_commit_whose_answer_is_lost_has_stored_all_or_nothing() {
    let server = Server::start();
    let (database, mut client) = prepare(&server, "lost_commits");
    let proxy = Proxy::new(&database);
    for (loses, stored, again) in [(Loses::Answer, 1, "already_done"), (Loses::Request, 0, "accepted")] {
        let step = held(&mut client);
        let work =
            format!("BEGIN; INSERT INTO entries VALUES ('{0}'); SELECT stepwise.complete_step('{0}')", step.receipt);
        let mut worker = proxy.connect();
        assert_eq!(text(&mut worker, &work).unwrap(), "accepted");
        proxy.lose(loses);
        assert!(text(&mut worker, "COMMIT").is_err());
        // The server may still be about to notice that its client has gone.
        let mut worker = proxy.connect();
        let answer = text(&mut worker, &format!("SELECT stepwise.complete_step('{}')", step.receipt));
        assert_eq!(answer.unwrap(), again);
        assert_eq!(count(&mut client, &format!("entries WHERE receipt = '{}'", step.receipt)), stored);
    }
    assert_eq!(count(&mut client, "stepwise.transitions WHERE step_id = 1 AND to_state = 'complete'"), 2);
    invariants::assert_sound(&mut client);
}

#[test]
fn a_task_whose_creation_was_not_answered_is_created_once() {
    let server = Server::start();
    let (database, mut client) = prepare(&server, "lost_tasks");
    let proxy = Proxy::new(&database);
    for (key, loses) in [("a", Loses::Answer), ("b", Loses::Request)] {
        let create = format!("SELECT stepwise.create_task('pair', identity_key => '{key}')");
        let mut caller = proxy.connect();
        proxy.lose(loses);
        assert!(text(&mut caller, &create).is_err());
        let task_id: i64 = text(&mut proxy.connect(), &create).unwrap().parse().unwrap();
        assert_eq!(
            count(&mut client, &format!("stepwise.tasks WHERE identity_key = '{key}' AND task_id = {task_id}")),
            1
        );
    }
    assert_eq!(count(&mut client, "stepwise.tasks"), 2);
    // A claim whose answer is lost is lost with it, until its lease ends.
    let mut worker = proxy.connect();
    proxy.lose(Loses::Answer);
    assert!(text(&mut worker, "SELECT stepwise.claim_steps('w', max_steps => 2)").is_err());
    assert!(claim(&mut client, "w", 2).unwrap().is_empty());
    client.batch_execute("SET stepwise.clock_offset = '61 minutes'").unwrap();
    let attempts: Vec<i32> = claim(&mut client, "w", 2).unwrap().iter().map(|step| step.attempt).collect();
    assert_eq!(attempts, [2, 2]);
    invariants::assert_sound(&mut client);
}

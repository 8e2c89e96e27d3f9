//! Behind a pooler in transaction mode each call may reach another backend, which has forgotten everything in between.
mod cluster;

use cluster::worker::{Claimed, claim, complete};
use cluster::{Database, Server, count, invariants, one, templates, wait};
use postgres::Client;

/// Connections that are handed out in turn for one call each.
struct Pool {
    connections: Vec<Client>,
    next: usize,
}

impl Pool {
    fn new(database: &Database, size: usize) -> Pool {
        Pool { connections: (0..size).map(|_| database.connect()).collect(), next: 0 }
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut Client) -> T) -> T {
        let turn = self.next;
        self.next = (self.next + 1) % self.connections.len();
        let result = call(&mut self.connections[turn]);
        self.connections[turn].batch_execute("DISCARD ALL").expect("nothing forbids DISCARD ALL");
        result
    }
}

#[test]
fn every_call_may_come_over_another_connection() {
    let server = Server::start();
    let database = server.database("pooler");
    let mut pool = Pool::new(&database, 3);
    pool.call(|client| templates::register(client, &templates::ladder("ladder", 3)));
    pool.call(|client| templates::create(client, "ladder", 20));
    let mut failed_once = false;
    loop {
        // The one failure waits for its backoff, a few milliseconds.
        let steps: Vec<Claimed> = wait::until("open tasks have steps to claim", || {
            let steps = pool.call(|client| claim(client, "w", 7).unwrap());
            let open = "stepwise.tasks WHERE state IN ('pending', 'in_progress')";
            (!steps.is_empty() || pool.call(|client| count(client, open)) == 0).then_some(steps)
        });
        if steps.is_empty() {
            break;
        }
        for step in &steps {
            let extend = "SELECT stepwise.extend_lease($1::text::uuid, '2h')";
            assert_eq!(pool.call(|client| one::<String>(client, extend, &[&step.receipt])), "accepted");
            if !failed_once {
                failed_once = true;
                let fail = "SELECT stepwise.fail_step($1::text::uuid)";
                assert_eq!(pool.call(|client| one::<String>(client, fail, &[&step.receipt])), "accepted");
                continue;
            }
            assert_eq!(pool.call(|client| complete(client, &step.receipt, "1").unwrap()), "accepted");
            assert_eq!(pool.call(|client| complete(client, &step.receipt, "2").unwrap()), "already_done");
        }
    }
    let mut client = database.connect();
    assert_eq!(count(&mut client, "stepwise.tasks WHERE state = 'complete'"), 20);
    assert_eq!(count(&mut client, "stepwise.steps WHERE attempts = 2"), 1);
    invariants::assert_sound(&mut client);
}

//! Every pair of calls that change steps, each in a session of its own, about the same step, a step and its child, two steps
//! with a common child, the last two of a task, or overlapping batches: nobody deadlocks, and the end is that of some
//! serial order. What that is, the calls say themselves, one after the other on a fresh copy.
//!
//! Two calls meet in several ways: one waits for the other's commit or rollback, one has an older snapshot, or a third session
//! holds up both in their middle. Without `PAIRS=all` (`make pairs`) a major sees some of these, and all of them most.
#[path = "../cluster/mod.rs"]
mod cluster;
mod fixtures;
mod operations;
mod session;

use cluster::{Database, Server, one};
use fixtures::{FIXTURES, Fixture, PREPARE};
use operations::{Held, OPERATIONS, Operation, Rest};
use postgres::{Client, SimpleQueryMessage};
use session::Session;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// How the two calls meet.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Meeting {
    /// A calls; B calls, and waits if it must; A commits, then B.
    Commit(Level),
    /// The same, but A rolls back.
    Rollback,
    /// B has its snapshot; A calls and commits; B calls and commits.
    OldSnapshot(Level),
    /// A third session has a row; A and B call and may wait for it at the same time; the row is let go.
    HeldUp(&'static str),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Level {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl Level {
    fn begin(self) -> &'static str {
        match self {
            Level::ReadCommitted => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Level::RepeatableRead => "BEGIN ISOLATION LEVEL REPEATABLE READ",
            Level::Serializable => "BEGIN ISOLATION LEVEL SERIALIZABLE",
        }
    }
}

const TASK: &str = "SELECT FROM stepwise.tasks FOR UPDATE";
const PARENT: &str = "SELECT FROM stepwise.steps WHERE step_id = 1 FOR UPDATE";
const CHILD: &str = "SELECT FROM stepwise.steps WHERE step_id > 1 ORDER BY step_id DESC LIMIT 1 FOR UPDATE";

/// For every pair, on the first major.
const ALWAYS: &[Meeting] = &[Meeting::Commit(Level::ReadCommitted), Meeting::HeldUp(TASK)];
/// One of these for each pair on each of three other majors: all of them on all three.
const IN_TURN: &[Meeting] =
    &[Meeting::Rollback, Meeting::OldSnapshot(Level::RepeatableRead), Meeting::Commit(Level::Serializable)];
const MORE: &[Meeting] = &[
    Meeting::Commit(Level::RepeatableRead),
    Meeting::OldSnapshot(Level::Serializable),
    Meeting::HeldUp(PARENT),
    Meeting::HeldUp(CHILD),
];

/// What a pair of calls comes to: A's answer, B's answer, and all that is stored then.
type End = (String, String, String);

/// A call in a serial order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Call {
    /// 0: A, 1: B.
    session: usize,
    operation: usize,
    /// It passes over what it could have done.
    rests: bool,
}

impl Call {
    /// `None` where nothing is left of it.
    fn resting(self) -> Option<Call> {
        let rests = OPERATIONS[self.operation].passes_over == Some(Rest::Report);
        rests.then_some(Call { rests: true, ..self })
    }
}

/// One database with its sessions. A fixture is worked on in one lane only.
struct Lane {
    admin: Client,
    holder: Client,
    a: Session,
    b: Session,
    /// Serial ends by what is done one after the other; `None`: the call is left out.
    known: HashMap<[Option<Call>; 2], End>,
}

impl Lane {
    fn new(database: &Database) -> Lane {
        let mut admin = database.connect();
        admin.batch_execute(PREPARE).unwrap();
        let connect = || {
            let mut client = database.connect();
            client.batch_execute("SET deadlock_timeout = '10ms'").unwrap();
            client
        };
        Lane { admin, holder: connect(), a: Session::new(connect()), b: Session::new(connect()), known: HashMap::new() }
    }

    fn setup(&mut self, fixture: &Fixture) -> Vec<Held> {
        let messages = self.admin.simple_query(&fixture.setup()).unwrap();
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let mut held: Vec<Held> = rows
            .map(|row| Held {
                task_id: row.get(0).unwrap().parse().unwrap(),
                step_id: row.get(1).unwrap().parse().unwrap(),
                receipt: row.get(2).unwrap().to_owned(),
            })
            .collect();
        held.sort_by_key(|step| (step.task_id, step.step_id));
        held
    }

    /// Calls one after the other.
    fn serial(&mut self, fixture: &Fixture, order: [Option<Call>; 2]) -> End {
        if let Some(end) = self.known.get(&order) {
            return end.clone();
        }
        self.admin.batch_execute("BEGIN").unwrap();
        let held = self.setup(fixture);
        let mut answers = ["nothing".to_owned(), "nothing".to_owned()];
        for Call { session, operation, rests } in order.into_iter().flatten() {
            let sql = OPERATIONS[operation].sql(["A", "B"][session], fixture.targets[session], &held, rests);
            answers[session] = one(&mut self.admin, "SELECT pair.answer($1)", &[&sql]);
        }
        let stored = stored(&mut self.admin);
        self.admin.batch_execute("ROLLBACK").unwrap();
        let [a, b] = answers;
        let end = (a, b, stored);
        self.known.insert(order, end.clone());
        end
    }

    /// The calls at the same time; and whether A's found what B's had locked.
    fn concurrent(&mut self, fixture: &Fixture, meeting: Meeting, operations: [&Operation; 2]) -> (End, bool) {
        let held = self.setup(fixture);
        let [call_a, call_b] =
            [0, 1].map(|session| operations[session].sql(["A", "B"][session], fixture.targets[session], &held, false));
        let (answer_a, answer_b, behind) = match meeting {
            Meeting::HeldUp(row) => {
                self.holder.batch_execute(&format!("BEGIN; {row}")).unwrap();
                self.a.send(call_a);
                let first = self.a.answer_unless_blocked(&mut self.admin);
                self.b.send(call_b);
                let second = self.b.answer_unless_blocked(&mut self.admin);
                self.holder.batch_execute("COMMIT").unwrap();
                (first.unwrap_or_else(|| self.a.answer()), second.unwrap_or_else(|| self.b.answer()), true)
            }
            Meeting::Commit(level) => {
                let begin = level.begin();
                let first = self.a.call(&format!("{begin}; {call_a}"));
                self.b.send(format!("{begin}; {call_b}"));
                let second = self.b.answer_unless_blocked(&mut self.admin);
                // What was refused is done again while B is at it.
                let (first, again) = end_transaction(&self.a, begin, &call_a, first);
                let second = second.unwrap_or_else(|| self.b.answer());
                (first, end_transaction(&self.b, begin, &call_b, second).0, again)
            }
            Meeting::Rollback => {
                self.a.call(&format!("BEGIN; {call_a}"));
                self.b.send(call_b);
                let second = self.b.answer_unless_blocked(&mut self.admin);
                self.a.call("ROLLBACK");
                ("nothing".to_owned(), second.unwrap_or_else(|| self.b.answer()), false)
            }
            Meeting::OldSnapshot(level) => {
                let begin = level.begin();
                self.b.call(&format!("{begin}; SELECT count(*) FROM stepwise.tasks"));
                let first = self.a.call(&format!("{begin}; {call_a}"));
                let (first, again) = end_transaction(&self.a, begin, &call_a, first);
                let second = self.b.call(&call_b);
                (first, end_transaction(&self.b, begin, &call_b, second).0, again)
            }
        };
        let stored = stored(&mut self.admin);
        self.admin.batch_execute("SELECT pair.clean()").unwrap();
        ((answer_a, answer_b, stored), behind)
    }

    /// Whether the end is that of some serial order; what differs otherwise.
    fn check(&mut self, fixture: &Fixture, meeting: Meeting, pair: [usize; 2]) -> Result<(), String> {
        let operations = pair.map(|operation| &OPERATIONS[operation]);
        let (end, behind) = self.concurrent(fixture, meeting, operations);
        let [a, b] = [0, 1].map(|session| Call { session, operation: pair[session], rests: false });
        let alone = meeting == Meeting::Rollback;
        let mut orders = if alone { vec![[None, Some(b)]] } else { vec![[Some(a), Some(b)], [Some(b), Some(a)]] };
        // A claim that finds everything locked finds nothing. A's can do so only where B may be before it.
        let passes_over = operations.map(|operation| operation.passes_over.is_some());
        if passes_over[1] {
            orders.push([Some(a).filter(|_| !alone), b.resting()]);
        }
        if passes_over[0] && behind {
            orders.push([a.resting(), Some(b)]);
        }
        if matches!(meeting, Meeting::HeldUp(_)) && passes_over == [true, true] {
            orders.push([a.resting(), b.resting()]);
        }
        for order in &orders {
            if self.serial(fixture, *order) == end {
                return Ok(());
            }
        }
        let serial: Vec<String> = orders.iter().map(|order| show(&self.serial(fixture, *order))).collect();
        let [a, b] = operations.map(|operation| operation.name);
        Err(format!(
            "{}: {a} and {b}, {meeting:?}, came to\n{}\nserial orders come to\n{}",
            fixture.name,
            show(&end),
            serial.join("\n--\n")
        ))
    }
}

fn stored(client: &mut Client) -> String {
    one::<Option<String>>(client, "SELECT pair.dump()", &[]).unwrap_or_default()
}

fn show((a, b, stored): &End) -> String {
    format!("A: {a}\nB: {b}\n{stored}")
}

/// Commits. What could not be serialized is done once more, which is told.
fn end_transaction(session: &Session, begin: &str, call: &str, mut answer: String) -> (String, bool) {
    let unserializable = "refused 40001";
    for turn in 0..3 {
        let ended = session.call(if answer.starts_with("refused") { "ROLLBACK" } else { "COMMIT" });
        if answer != unserializable && ended != unserializable {
            return (answer, turn > 0);
        }
        assert!(!begin.ends_with("READ COMMITTED"), "{call}: refused with 40001 at READ COMMITTED");
        answer = session.call(&format!("{begin}; {call}"));
    }
    panic!("{call}: refused with 40001 again and again");
}

#[test]
fn every_pair_of_calls_comes_to_the_same_as_some_serial_order() {
    let server = Server::start_with(&["autovacuum_naptime=1s"]);
    let all = std::env::var("PAIRS").is_ok_and(|pairs| pairs == "all");
    // The rules are the same on every major, so each looks at another part.
    let major: i32 =
        one(&mut server.connect("postgres"), "SELECT current_setting('server_version_num')::integer / 10000", &[]);
    let meetings = |fixture: usize, a: usize, b: usize| match (all, major) {
        (true, _) => [ALWAYS, IN_TURN, MORE].concat(),
        (false, 15) => ALWAYS.to_vec(),
        (false, _) => vec![IN_TURN[(fixture + a + b + major as usize) % IN_TURN.len()]],
    };
    let (next, met) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..4 {
            let database = server.database(&format!("pairs_{number}"));
            let (next, met, wrong, meetings) = (&next, &met, &wrong, &meetings);
            scope.spawn(move || {
                let mut lane = Lane::new(&database);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(fixture) = FIXTURES.get(number) else { break };
                    lane.known.clear();
                    for (a, b) in (0..OPERATIONS.len()).flat_map(|a| (0..OPERATIONS.len()).map(move |b| (a, b))) {
                        for meeting in meetings(number, a, b) {
                            let result = lane.check(fixture, meeting, [a, b]);
                            wrong.lock().unwrap().extend(result.err());
                            met.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let (met, pairs) = (met.into_inner(), OPERATIONS.len() * OPERATIONS.len() * FIXTURES.len());
    println!("{met} meetings of {pairs} ordered pairs: {} calls, {} fixtures", OPERATIONS.len(), FIXTURES.len());
    assert_eq!(met, pairs * meetings(0, 0, 0).len());
    let wrong = wrong.into_inner().unwrap();
    if !wrong.is_empty() {
        let shown = wrong.iter().take(10).cloned().collect::<Vec<_>>().join("\n\n");
        panic!("{} of {met} meetings are like no serial order, such as\n{shown}", wrong.len());
    }
    server.assert_no_deadlock();
}

//! What a client of a server that is killed again and again knows: which calls it has sent, and which were answered. Kept
//! outside the server, and compared with what the server has afterwards.
use super::cluster::random::Random;
use super::cluster::worker::Claimed;
use super::cluster::{Database, count, one};
use postgres::{Client, Error, Row};

/// A call or a transaction of several, and a row that it writes beside them. The row's id is also the call's mark in what it
/// stores: identity key, worker, results or error.
pub struct Entry {
    pub id: String,
    pub kind: &'static str,
    pub acknowledged: bool,
    /// How many rows of the extension bear the mark, once the call is stored. `None`: only its answer could have told.
    pub marks: Option<i64>,
    /// How many do so at least.
    pub least: i64,
}

/// Rows of the extension that bear a mark. A release has no place for one: it is known by the claim that it takes back.
const MARKS: &str = "
    SELECT identity_key AS id FROM stepwise.tasks WHERE identity_key IS NOT NULL
    UNION ALL SELECT worker FROM stepwise.transitions WHERE to_state = 'in_progress' AND step_id IS NOT NULL
    UNION ALL SELECT format('release of %s, %s, %s', claimed_by, task_id, step_id)
        FROM (SELECT *, lag(worker) OVER (PARTITION BY task_id, step_id ORDER BY event_id) AS claimed_by
            FROM stepwise.transitions WHERE step_id IS NOT NULL) AS h
        WHERE to_state = 'pending' AND from_state = 'in_progress'
    UNION ALL SELECT s.results ->> 'by' FROM stepwise.transitions h JOIN stepwise.steps s USING (task_id, step_id)
        WHERE h.to_state = 'complete'
    UNION ALL SELECT metadata -> 'error' ->> 'by' FROM stepwise.transitions
        WHERE to_state = 'error' AND metadata ? 'error'";

/// `cancelled`: by how many the call has changed the number of cancelled tasks, which alone are purged here.
pub const PREPARE: &str =
    "CREATE SCHEMA app; CREATE TABLE app.entries (id text PRIMARY KEY, cancelled integer NOT NULL DEFAULT 0)";

/// What workers call.
pub const KINDS: [&str; 9] = [
    "create_task",
    "claim_steps",
    "complete_step",
    "complete_steps",
    "fail_step",
    "report_and_claim",
    "release_step",
    "purge_tasks",
    "several",
];

/// A step in a worker's hands, and the claim that put it there.
#[derive(Clone)]
pub struct Held {
    step: Claimed,
    claim: String,
}

pub struct Worker<'a> {
    pub database: &'a Database,
    pub name: String,
    pub random: Random,
    pub entries: Vec<Entry>,
    /// Claimed, not yet reported.
    pub held: Vec<Held>,
    /// The completions whose answer was lost, to be sent again.
    pub in_doubt: Option<(Vec<Held>, String)>,
}

impl Worker<'_> {
    /// Calls until the server is gone; tells `answered` of every answer.
    pub fn run(&mut self, mut answered: impl FnMut()) {
        let Some(mut client) = self.database.try_connect() else { return };
        while self.call(&mut client).is_ok() {
            answered();
        }
    }

    fn call(&mut self, client: &mut Client) -> Result<(), Error> {
        let choice = self.random.below(100);
        if self.held.is_empty() {
            return match choice {
                0..25 => self.create(client),
                25..35 => self.purge(client),
                _ => self.claim(client),
            };
        }
        match choice {
            0..25 => self.complete(client),
            25..40 => self.complete_batch(client),
            40..55 => self.report_and_claim(client),
            55..70 => self.several(client),
            70..84 => self.fail(client),
            84..94 => self.release(client),
            _ => self.purge(client),
        }
    }

    fn entry(&mut self, kind: &'static str, least: i64) -> (usize, String) {
        let id = format!("{} {}", self.name, self.entries.len());
        self.entries.push(Entry { id: id.clone(), kind, acknowledged: false, marks: None, least });
        (self.entries.len() - 1, id)
    }

    /// The answer to a call has come: it has stored so many marks.
    fn acknowledge(&mut self, entry: usize, marks: usize) {
        (self.entries[entry].acknowledged, self.entries[entry].marks) = (true, Some(marks as i64));
    }

    /// Up to so many steps, to be reported.
    fn take(&mut self, most: u64) -> Vec<Held> {
        let most = 1 + self.random.below(most) as usize;
        self.held.split_off(self.held.len().saturating_sub(most))
    }

    fn hold(&mut self, claim: &str, rows: &[&Row]) {
        self.held.extend(rows.iter().map(|row| Held {
            step: Claimed {
                receipt: row.get("receipt"),
                task_id: row.get("task_id"),
                step_id: row.get("step_id"),
                attempt: row.get("attempt"),
            },
            claim: claim.to_owned(),
        }));
    }

    fn create(&mut self, client: &mut Client) -> Result<(), Error> {
        let (entry, id) = self.entry("create_task", 1);
        let sql = "WITH entry AS (INSERT INTO app.entries VALUES ($1)) \
            SELECT stepwise.create_task('ladder', identity_key => $1)";
        client.query_one(sql, &[&id]).map_err(killed)?;
        self.acknowledge(entry, 1);
        Ok(())
    }

    fn claim(&mut self, client: &mut Client) -> Result<(), Error> {
        let (entry, id) = self.entry("claim_steps", 0);
        let sql = "WITH entry AS (INSERT INTO app.entries VALUES ($1)) \
            SELECT receipt::text, task_id, step_id, attempt FROM stepwise.claim_steps($1, max_steps => 4)";
        let rows = client.query(sql, &[&id]).map_err(killed)?;
        self.hold(&id, &rows.iter().collect::<Vec<_>>());
        self.acknowledge(entry, rows.len());
        Ok(())
    }

    fn complete(&mut self, client: &mut Client) -> Result<(), Error> {
        let (entry, id) = self.entry("complete_step", 1);
        let steps = self.take(1);
        let sql = "WITH entry AS (INSERT INTO app.entries VALUES ($1)) \
            SELECT stepwise.complete_step($2::text::uuid, jsonb_build_object('by', $1::text))";
        self.in_doubt = Some((steps.clone(), id.clone()));
        let row = client.query_one(sql, &[&id, &steps[0].step.receipt]).map_err(killed)?;
        assert_eq!(row.get::<_, String>(0), "accepted");
        self.in_doubt = None;
        self.acknowledge(entry, 1);
        Ok(())
    }

    fn complete_batch(&mut self, client: &mut Client) -> Result<(), Error> {
        let steps = self.take(4);
        let (entry, id) = self.entry("complete_steps", steps.len() as i64);
        let sql = format!("WITH entry AS (INSERT INTO app.entries VALUES ($1)) {COMPLETE_BATCH}");
        self.in_doubt = Some((steps.clone(), id.clone()));
        let rows = client.query(&sql, &[&id, &receipts(&steps)]).map_err(killed)?;
        assert!(rows.iter().all(|row| row.get::<_, &str>("outcome") == "accepted"));
        self.in_doubt = None;
        self.acknowledge(entry, steps.len());
        Ok(())
    }

    fn fail(&mut self, client: &mut Client) -> Result<(), Error> {
        let (entry, id) = self.entry("fail_step", 1);
        let steps = self.take(1);
        let sql = "WITH entry AS (INSERT INTO app.entries VALUES ($1)) \
            SELECT stepwise.fail_step($2::text::uuid, jsonb_build_object('by', $1::text))";
        let row = client.query_one(sql, &[&id, &steps[0].step.receipt]).map_err(killed)?;
        assert_eq!(row.get::<_, String>(0), "accepted");
        self.acknowledge(entry, 1);
        Ok(())
    }

    /// Completions, a failure and a claim, all or nothing.
    fn report_and_claim(&mut self, client: &mut Client) -> Result<(), Error> {
        let mut completed = self.take(4);
        let failed: Vec<Held> = completed.pop().into_iter().collect();
        let reports = completed.len() + failed.len();
        let (entry, id) = self.entry("report_and_claim", reports as i64);
        let sql = "WITH entry AS (INSERT INTO app.entries VALUES ($1)), \
                given AS (SELECT jsonb_build_object('by', $1::text) AS mark, $2::text[]::uuid[] AS completed, $3::text[]::uuid[] AS failed) \
            SELECT r.outcome, r.receipt::text, r.task_id, r.step_id, r.attempt \
            FROM given g, LATERAL stepwise.report_and_claim($1, max_steps => 3, \
                completed => g.completed, results => array_fill(g.mark, ARRAY[cardinality(g.completed)]), \
                failed => g.failed, errors => array_fill(g.mark, ARRAY[cardinality(g.failed)])) AS r";
        let rows = client.query(sql, &[&id, &receipts(&completed), &receipts(&failed)]).map_err(killed)?;
        let (claimed, reported): (Vec<&Row>, Vec<&Row>) =
            rows.iter().partition(|row| row.get::<_, &str>("outcome") == "claimed");
        assert!(reported.len() == reports && reported.iter().all(|row| row.get::<_, &str>("outcome") == "accepted"));
        self.hold(&id, &claimed);
        self.acknowledge(entry, reports + claimed.len());
        Ok(())
    }

    fn release(&mut self, client: &mut Client) -> Result<(), Error> {
        let steps = self.take(1);
        let Held { step, claim } = &steps[0];
        let id = format!("release of {claim}, {}, {}", step.task_id, step.step_id);
        let (entry, _) = self.entry("release_step", 1);
        self.entries[entry].id.clone_from(&id);
        let sql = "WITH entry AS (INSERT INTO app.entries VALUES ($1)) SELECT stepwise.release_step($2::text::uuid)";
        let row = client.query_one(sql, &[&id, &step.receipt]).map_err(killed)?;
        assert_eq!(row.get::<_, String>(0), "accepted");
        self.acknowledge(entry, 1);
        Ok(())
    }

    fn purge(&mut self, client: &mut Client) -> Result<(), Error> {
        let (entry, id) = self.entry("purge_tasks", 0);
        let sql = "INSERT INTO app.entries SELECT $1, -stepwise.purge_tasks('0', 2, '{cancelled}')";
        client.execute(sql, &[&id]).map_err(killed)?;
        self.acknowledge(entry, 0);
        Ok(())
    }

    /// A transaction of several calls: it completes a step, creates a task and another that it cancels, and claims.
    fn several(&mut self, client: &mut Client) -> Result<(), Error> {
        let (entry, id) = self.entry("several", 2);
        let steps = self.take(1);
        let mut transaction = client.transaction().map_err(killed)?;
        transaction.execute("INSERT INTO app.entries VALUES ($1, 1)", &[&id]).map_err(killed)?;
        let complete = "SELECT stepwise.complete_step($2::text::uuid, jsonb_build_object('by', $1::text))";
        let row = transaction.query_one(complete, &[&id, &steps[0].step.receipt]).map_err(killed)?;
        assert_eq!(row.get::<_, String>(0), "accepted");
        let create = "SELECT stepwise.create_task('ladder', identity_key => $1), \
            stepwise.cancel_task(stepwise.create_task('ladder'))";
        transaction.execute(create, &[&id]).map_err(killed)?;
        let claim = "SELECT receipt::text, task_id, step_id, attempt FROM stepwise.claim_steps($1, max_steps => 2)";
        let rows = transaction.query(claim, &[&id]).map_err(killed)?;
        transaction.commit().map_err(killed)?;
        self.hold(&id, &rows.iter().collect::<Vec<_>>());
        self.acknowledge(entry, 2 + rows.len());
        Ok(())
    }

    /// Sends the completions again whose answer was lost: stored before the kill or not, each counts once. The entry beside
    /// them is written where it was the second time that they were accepted.
    pub fn repeat_what_is_in_doubt(&mut self, client: &mut Client) {
        let Some((steps, id)) = self.in_doubt.take() else { return };
        let rows = client.query(COMPLETE_BATCH, &[&id, &receipts(&steps)]).expect("answers");
        let stored: bool = one(client, "SELECT EXISTS (SELECT FROM app.entries WHERE id = $1)", &[&id]);
        let expected = if stored { "already_done" } else { "accepted" };
        assert_eq!(rows.len(), steps.len());
        assert!(rows.iter().all(|row| row.get::<_, &str>("outcome") == expected), "{id}: not all are {expected}");
        client.execute("INSERT INTO app.entries VALUES ($1) ON CONFLICT DO NOTHING", &[&id]).expect("an entry");
        let entry = self.entries.iter().position(|entry| entry.id == id).expect("the call is known");
        self.acknowledge(entry, steps.len());
    }
}

const COMPLETE_BATCH: &str = "SELECT outcome FROM stepwise.complete_steps($2::text[]::uuid[], \
    array_fill(jsonb_build_object('by', $1::text), ARRAY[cardinality($2::text[])]))";

fn receipts(steps: &[Held]) -> Vec<&str> {
    steps.iter().map(|held| held.step.receipt.as_str()).collect()
}

/// Nothing but the end of the server may refuse a call.
fn killed(error: Error) -> Error {
    let state = error.as_db_error().map(|error| error.code().code().to_owned());
    assert!(state.is_none_or(|state| state.starts_with("57P")), "{error:?}");
    error
}

/// Fails unless all that was acknowledged is there, and everything else wholly there or wholly absent; how many were
/// acknowledged and found.
#[track_caller]
pub fn check(client: &mut Client, entries: &[Entry]) -> i64 {
    let ids: Vec<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
    let acknowledged: Vec<bool> = entries.iter().map(|entry| entry.acknowledged).collect();
    let marks: Vec<Option<i64>> = entries.iter().map(|entry| entry.marks).collect();
    let least: Vec<i64> = entries.iter().map(|entry| entry.least).collect();
    let sql = format!(
        "WITH marks AS (SELECT id, count(*) AS found FROM ({MARKS}) AS m GROUP BY id), \
        calls AS (SELECT c.*, e.id IS NOT NULL AS stored, coalesce(m.found, 0) AS found \
            FROM unnest($1::text[], $2::boolean[], $3::bigint[], $4::bigint[]) AS c (id, acknowledged, marks, least) \
            LEFT JOIN app.entries e USING (id) LEFT JOIN marks m USING (id)) \
        SELECT coalesce(string_agg(id, ', ') FILTER (WHERE acknowledged AND NOT stored), ''), \
            coalesce(string_agg(id, ', ') FILTER (WHERE CASE WHEN stored THEN found <> marks OR found < least ELSE found > 0 END), ''), \
            count(*) FILTER (WHERE acknowledged AND stored) FROM calls"
    );
    let row = client.query_one(&sql, &[&ids, &acknowledged, &marks, &least]).expect("an answer");
    let (lost, partial): (String, String) = (row.get(0), row.get(1));
    assert!(lost.is_empty(), "acknowledged, and lost: {lost}");
    assert!(partial.is_empty(), "stored in part: {partial}");
    // Tasks that were purged bear no marks any more; their number has to add up.
    let cancelled: i64 = one(client, "SELECT coalesce(sum(cancelled), 0)::bigint FROM app.entries", &[]);
    assert_eq!(count(client, "stepwise.tasks WHERE state = 'cancelled'"), cancelled, "cancelled, and not purged");
    row.get(2)
}

//! What a client of a server that is killed again and again knows: which calls it has sent, and which were answered. Kept
//! outside the server, and compared with what the server has afterwards.
use super::cluster::random::Random;
use super::cluster::worker::Claimed;
use super::cluster::{Database, one};
use postgres::{Client, Error};

/// A call, and a row that its transaction writes beside it. The row's id is also the call's mark in what the call stores:
/// identity key, worker, results or error.
pub struct Entry {
    pub id: String,
    pub acknowledged: bool,
    /// How many rows of the extension bear the mark, once the call is stored. `None`: only its answer could have told.
    pub marks: Option<i64>,
}

/// Rows of the extension that bear a mark.
const MARKS: &str = "
    SELECT identity_key AS id FROM stepwise.tasks WHERE identity_key IS NOT NULL
    UNION ALL SELECT worker FROM stepwise.transitions WHERE to_state = 'in_progress' AND step_id IS NOT NULL
    UNION ALL SELECT s.results ->> 'by' FROM stepwise.transitions h JOIN stepwise.steps s USING (task_id, step_id)
        WHERE h.to_state = 'complete'
    UNION ALL SELECT metadata -> 'error' ->> 'by' FROM stepwise.transitions
        WHERE to_state = 'error' AND metadata ? 'error'";

pub const PREPARE: &str = "CREATE SCHEMA app; CREATE TABLE app.entries (id text PRIMARY KEY)";

pub struct Worker<'a> {
    pub database: &'a Database,
    pub name: String,
    pub random: Random,
    pub entries: Vec<Entry>,
    /// Claimed, not yet reported.
    pub held: Vec<Claimed>,
    /// The report whose answer was lost, to be sent again.
    pub in_doubt: Option<(Claimed, String)>,
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
        match self.held.pop() {
            Some(step) if self.random.percent(75) => self.complete(client, step),
            Some(step) => self.fail(client, step),
            None if self.random.percent(30) => self.create(client),
            None => self.claim(client),
        }
    }

    fn entry(&mut self, marks: Option<i64>) -> (usize, String) {
        let id = format!("{} {}", self.name, self.entries.len());
        self.entries.push(Entry { id: id.clone(), acknowledged: false, marks });
        (self.entries.len() - 1, id)
    }

    fn create(&mut self, client: &mut Client) -> Result<(), Error> {
        let (entry, id) = self.entry(Some(1));
        let sql = "WITH entry AS (INSERT INTO app.entries VALUES ($1)) \
            SELECT stepwise.create_task('ladder', identity_key => $1)";
        client.query_one(sql, &[&id]).map_err(killed)?;
        self.entries[entry].acknowledged = true;
        Ok(())
    }

    fn claim(&mut self, client: &mut Client) -> Result<(), Error> {
        let (entry, id) = self.entry(None);
        let sql = "WITH entry AS (INSERT INTO app.entries VALUES ($1)) \
            SELECT receipt::text, task_id, step_id, attempt FROM stepwise.claim_steps($1, max_steps => 4)";
        let rows = client.query(sql, &[&id]).map_err(killed)?;
        self.held.extend(rows.iter().map(|row| Claimed {
            receipt: row.get(0),
            task_id: row.get(1),
            step_id: row.get(2),
            attempt: row.get(3),
        }));
        (self.entries[entry].acknowledged, self.entries[entry].marks) = (true, Some(rows.len() as i64));
        Ok(())
    }

    fn complete(&mut self, client: &mut Client, step: Claimed) -> Result<(), Error> {
        let (entry, id) = self.entry(Some(1));
        let sql = "WITH entry AS (INSERT INTO app.entries VALUES ($1)) \
            SELECT stepwise.complete_step($2::text::uuid, jsonb_build_object('by', $1::text))";
        self.in_doubt = Some((step.clone(), id.clone()));
        let row = client.query_one(sql, &[&id, &step.receipt]).map_err(killed)?;
        assert_eq!(row.get::<_, String>(0), "accepted");
        self.in_doubt = None;
        self.entries[entry].acknowledged = true;
        Ok(())
    }

    fn fail(&mut self, client: &mut Client, step: Claimed) -> Result<(), Error> {
        let (entry, id) = self.entry(Some(1));
        let sql = "WITH entry AS (INSERT INTO app.entries VALUES ($1)) \
            SELECT stepwise.fail_step($2::text::uuid, jsonb_build_object('by', $1::text))";
        let row = client.query_one(sql, &[&id, &step.receipt]).map_err(killed)?;
        assert_eq!(row.get::<_, String>(0), "accepted");
        self.entries[entry].acknowledged = true;
        Ok(())
    }

    /// Sends the completion again whose answer was lost: stored before the kill or not, it counts once. The entry beside it
    /// is written where it was the second one that was accepted.
    pub fn repeat_what_is_in_doubt(&mut self, client: &mut Client) {
        let Some((step, id)) = self.in_doubt.take() else { return };
        let sql = "SELECT stepwise.complete_step($1::text::uuid, jsonb_build_object('by', $2::text))";
        let outcome: String = one(client, sql, &[&step.receipt, &id]);
        let stored: bool = one(client, "SELECT EXISTS (SELECT FROM app.entries WHERE id = $1)", &[&id]);
        assert_eq!(outcome, if stored { "already_done" } else { "accepted" }, "{id}");
        client.execute("INSERT INTO app.entries VALUES ($1) ON CONFLICT DO NOTHING", &[&id]).expect("an entry");
        self.entries.iter_mut().filter(|entry| entry.id == id).for_each(|entry| entry.acknowledged = true);
    }
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
    let sql = format!(
        "WITH marks AS (SELECT id, count(*) AS found FROM ({MARKS}) AS m GROUP BY id), \
        calls AS (SELECT c.*, e.id IS NOT NULL AS stored, coalesce(m.found, 0) AS found \
            FROM unnest($1::text[], $2::boolean[], $3::bigint[]) AS c (id, acknowledged, marks) \
            LEFT JOIN app.entries e USING (id) LEFT JOIN marks m USING (id)) \
        SELECT coalesce(string_agg(id, ', ') FILTER (WHERE acknowledged AND NOT stored), ''), \
            coalesce(string_agg(id, ', ') FILTER (WHERE CASE WHEN stored THEN found <> marks ELSE found > 0 END), ''), \
            count(*) FILTER (WHERE acknowledged AND stored) FROM calls"
    );
    let row = client.query_one(&sql, &[&ids, &acknowledged, &marks]).expect("an answer");
    let (lost, partial): (String, String) = (row.get(0), row.get(1));
    assert!(lost.is_empty(), "acknowledged, and lost: {lost}");
    assert!(partial.is_empty(), "stored in part: {partial}");
    row.get(2)
}

//! What a run costs the server, in figures that do not depend on how fast the machine is.
use crate::Result;
use crate::lab::Lab;
use postgres::Client;

/// Named figures in the order of their columns.
pub type Figures = Vec<(&'static str, f64)>;

/// Counters of the server at one moment.
pub struct Meter {
    lsn: String,
    wal_bytes: i64,
    wal_records: i64,
    xid: i64,
    updates: i64,
    hot_updates: i64,
}

impl Meter {
    /// `schema`: whose step updates are counted.
    pub fn read(lab: &mut Lab, schema: &str) -> Result<Meter> {
        // Or what the control connection wrote before would be counted after.
        Meter::flush(&mut lab.control)?;
        let row = lab.control.query_one(
            "SELECT pg_current_wal_insert_lsn()::text, \
                 pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, \
                 (SELECT wal_records FROM pg_stat_wal), \
                 pg_snapshot_xmax(pg_current_snapshot())::text::bigint, \
                 s.n_tup_upd, s.n_tup_hot_upd \
             FROM pg_stat_all_tables AS s WHERE s.schemaname = $1 AND s.relname = 'steps'",
            &[&schema],
        )?;
        Ok(Meter {
            lsn: row.get(0),
            wal_bytes: row.get(1),
            wal_records: row.get(2),
            xid: row.get(3),
            updates: row.get(4),
            hot_updates: row.get(5),
        })
    }

    /// Makes a session's counters visible to [`Meter::read`].
    pub fn flush(client: &mut Client) -> Result<()> {
        client.batch_execute("SELECT pg_stat_force_next_flush()")?;
        Ok(())
    }

    /// What `units` of work cost since the reading, per unit.
    pub fn per_unit(&self, lab: &mut Lab, schema: &str, units: f64) -> Result<Figures> {
        let now = Meter::read(lab, schema)?;
        let mut figures = vec![("WAL B", (now.wal_bytes - self.wal_bytes) as f64 / units)];
        if lab.walinspect {
            // It reads what has been flushed, and no further.
            lab.control.batch_execute("SELECT pg_logical_emit_message(true, 'bench', 'flush')")?;
            let row = lab.control.query_one(
                "SELECT sum(record_size)::float8 \
                 FROM public.pg_get_wal_stats(($1::text)::pg_lsn, ($2::text)::pg_lsn)",
                &[&self.lsn, &now.lsn],
            )?;
            figures.push(("WAL B, no images", row.get::<_, f64>(0) / units));
        }
        figures.push(("WAL records", (now.wal_records - self.wal_records) as f64 / units));
        figures.push(("xids", (now.xid - self.xid) as f64 / units));
        let updates = now.updates - self.updates;
        if updates > 0 {
            figures.push(("HOT share", (now.hot_updates - self.hot_updates) as f64 / updates as f64));
        }
        Ok(figures)
    }

    /// Share of a session's executions of prepared statements that used a kept plan; the others were planned anew. What
    /// Postgres chooses depends on the tables' size, and may change a contender's rate several times over.
    pub fn kept_plans(client: &mut Client) -> Result<Figures> {
        let row = client.query_one(
            "SELECT sum(generic_plans)::float8 / nullif(sum(generic_plans + custom_plans), 0)::float8 \
             FROM pg_prepared_statements WHERE statement ~ '(stepwise|floor)\\.'",
            &[],
        )?;
        Ok(row.get::<_, Option<f64>>(0).map(|share| ("kept plans", share)).into_iter().collect())
    }

    /// Bytes of the hot tables, and of their indexes, per task; free space and dead rows included.
    pub fn bytes_per_task(lab: &mut Lab, schema: &str, tasks: usize) -> Result<Figures> {
        let row = lab.control.query_one(
            "SELECT sum(pg_table_size(c.oid))::float8, sum(pg_indexes_size(c.oid))::float8 FROM pg_class AS c \
             WHERE c.relnamespace = ($1::text)::regnamespace AND c.relname IN ('tasks', 'steps', 'transitions')",
            &[&schema],
        )?;
        Ok(vec![
            ("table B/task", row.get::<_, f64>(0) / tasks as f64),
            ("index B/task", row.get::<_, f64>(1) / tasks as f64),
        ])
    }
}

//! Tests inside a server: datums on their way in and out, SQLSTATEs, column numbers. What a client sees is tested in
//! tests/pg_regress, rules in pgrx-tests/tests/engine_*.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use crate::engine::time::{Span, Timestamp};
    use crate::pg::array::{array, array_of_optional};
    use crate::pg::jsonb::Jsonb;
    use crate::pg::spi::{self, Statement};
    use crate::pg::time;
    use crate::pg::value::{no_array, optional, param};
    use crate::store::columns;
    use pgrx::datum::{Interval, TimestampWithTimeZone};
    use pgrx::prelude::*;

    /// Panics after it has written, as a mistake of ours would.
    #[pg_extern]
    fn write_and_panic() -> i32 {
        Spi::run("INSERT INTO panics DEFAULT VALUES").unwrap();
        let nothing: [i32; 0] = [];
        nothing[Spi::get_one::<i32>("SELECT 7").unwrap().unwrap() as usize]
    }

    #[pg_test]
    fn a_panic_is_an_error_that_takes_back_what_was_written() {
        Spi::run("CREATE TABLE panics (id integer DEFAULT 1)").unwrap();
        Spi::run(
            "DO $$ BEGIN
                PERFORM tests.write_and_panic();
                RAISE EXCEPTION 'no panic';
            EXCEPTION WHEN internal_error THEN
                ASSERT SQLERRM LIKE '%index out of bounds%', SQLERRM;
            END $$",
        )
        .unwrap();
        assert_eq!(Spi::get_one::<i64>("SELECT count(*) FROM panics"), Ok(Some(0)));
        // The backend goes on, with the extension and its kept plans.
        for _ in 0..2 {
            Spi::run(r#"SELECT stepwise.register_template('{"name": "after", "steps": [{"name": "a"}]}')"#).unwrap();
            Spi::run("SELECT stepwise.create_task('after')").unwrap();
            let done = "SELECT count(stepwise.complete_step(receipt)) FROM stepwise.claim_steps('w')";
            assert_eq!(Spi::get_one::<i64>(done), Ok(Some(1)));
        }
    }

    /// The same at the top level: it ends the test's transaction, with the message of the panic.
    #[pg_test(error = "index out of bounds: the len is 0 but the index is 7")]
    fn a_panic_ends_its_transaction_with_an_error() {
        Spi::run("CREATE TABLE panics (id integer DEFAULT 1)").unwrap();
        Spi::run("SELECT tests.write_and_panic()").unwrap();
    }

    #[pg_test]
    fn arrays_come_back_as_they_went() {
        static NUMBERS: Statement = Statement::read("SELECT array_length($1, 1), ($1)[2], ($1)[3] IS NULL");
        static TEXTS: Statement = Statement::read("SELECT array_to_string($1, ',', '*')");
        static TIMES: Statement = Statement::read("SELECT ($1)[1], ($1)[2] = 'infinity', $2 IS NULL, $3 IS NULL");
        static FLAGS: Statement = Statement::read("SELECT ($1)[1], ($2)[2], ($3)[1]");
        spi::session(|spi| {
            let rows = NUMBERS.run(spi, &[array_of_optional(&[Some(1_i64), Some(-2), None])]);
            let row = rows.first().unwrap();
            assert_eq!((row.want::<i32>(1), row.want::<i64>(2), row.want::<bool>(3)), (3, -2, true));
            let rows = TEXTS.run(spi, &[array_of_optional(&[Some("ä"), None, Some("")])]);
            assert_eq!(rows.first().unwrap().want::<String>(1), "ä,*,");
            let times = [Timestamp(-7), Timestamp::INFINITY];
            let rows = TIMES.run(spi, &[array(&times), optional(None::<Timestamp>), no_array::<i32>()]);
            let row = rows.first().unwrap();
            assert_eq!(row.want::<Timestamp>(1), Timestamp(-7));
            assert!(row.want::<bool>(2) && row.want::<bool>(3) && row.want::<bool>(4));
            let rows = FLAGS.run(spi, &[array(&[true]), array(&[1_i16, -3]), array(&[0.25_f64])]);
            let row = rows.first().unwrap();
            assert_eq!((row.want::<bool>(1), row.want::<i16>(2), row.want::<f64>(3)), (true, -3, 0.25));
        });
    }

    #[pg_test]
    fn a_payload_outlives_its_row_and_its_memory() {
        static LARGE: Statement = Statement::read("SELECT jsonb_build_object('x', repeat('y', $1))");
        let kept = spi::session(|spi| LARGE.run(spi, &[param(100_000)]).first().and_then(|row| row.keep(1)));
        let bytes = kept.map(Jsonb::to_bytes).unwrap();
        let again = Jsonb::from_bytes(&bytes);
        assert_eq!(again.to_text().len(), 100_000 + r#"{"x": ""}"#.len());
        assert_eq!(Jsonb::empty_object().to_text(), "{}");
    }

    #[pg_test]
    fn intervals_and_times_keep_every_microsecond() {
        for micros in [0, 1, -1, 86_400_000_000, i64::from(i32::MAX) * 1_000_000] {
            assert_eq!(time::span(&time::interval(Span(micros))), Span(micros));
        }
        let month = Spi::get_one::<Interval>("SELECT interval '1 month 2 days 3 seconds'").unwrap().unwrap();
        assert_eq!(time::span(&month), Span((32 * 86_400 + 3) * 1_000_000));
        for at in [Timestamp(0), Timestamp(-1), Timestamp::INFINITY, Timestamp::NEG_INFINITY] {
            assert_eq!(time::from_sql(time::to_sql(at)), at);
        }
        let far = Spi::get_one::<TimestampWithTimeZone>("SELECT timestamptz '294276-12-31 23:59:59.999999+00'");
        let far = time::from_sql(far.unwrap().unwrap());
        assert_eq!(far.plus(Span(1)), Timestamp::INFINITY);
    }

    #[pg_test]
    fn triggers_read_the_columns_that_they_mean() {
        for (table, numbers) in [
            ("steps", columns::steps::ALL),
            ("tasks", columns::tasks::ALL),
            ("queues", columns::queues::ALL),
            ("templates", columns::templates::ALL),
            ("namespaces", columns::namespaces::ALL),
            ("access", columns::access::ALL),
        ] {
            for &(name, number) in numbers {
                let found = Spi::get_one_with_args::<i16>(
                    "SELECT attnum FROM pg_attribute WHERE attrelid = ('stepwise.' || $1)::regclass AND attname = $2",
                    &[table.into(), name.into()],
                );
                assert_eq!(found.unwrap().map(i32::from), Some(number), "{table}.{name}");
            }
        }
    }

    #[pg_test]
    fn a_statement_is_planned_once_and_again_after_a_change() {
        static COUNT: Statement = Statement::fresh("SELECT count(*) FROM changing WHERE id = $1");
        Spi::run("CREATE TABLE changing (id bigint); INSERT INTO changing VALUES (1)").unwrap();
        let count = || spi::session(|spi| COUNT.run(spi, &[param(1_i64)]).first().map(|row| row.want::<i64>(1)));
        assert_eq!(count(), Some(1));
        Spi::run("ALTER TABLE changing ADD COLUMN more text; INSERT INTO changing VALUES (1, 'x')").unwrap();
        assert_eq!(count(), Some(2));
    }

    /// The SQLSTATE with which a statement fails, through plpgsql as a client would catch it.
    fn sqlstate(statement: &str) -> String {
        Spi::run(
            "CREATE OR REPLACE FUNCTION pg_temp.sqlstate(statement text) RETURNS text LANGUAGE plpgsql AS \
             $$ BEGIN EXECUTE statement; RETURN '00000'; EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE; END $$",
        )
        .unwrap();
        Spi::get_one_with_args::<String>("SELECT pg_temp.sqlstate($1)", &[statement.into()]).unwrap().unwrap()
    }

    #[pg_test]
    fn every_kind_of_error_has_its_sqlstate() {
        Spi::run(r#"SELECT stepwise.register_template('{"name": "t", "steps": [{"name": "a"}]}')"#).unwrap();
        Spi::run("SELECT stepwise.create_task('t')").unwrap();
        for (expected, statement) in [
            ("22004", "SELECT stepwise.create_task(NULL)"),
            ("22004", "SELECT * FROM stepwise.complete_steps('{NULL}')"),
            ("22023", "SELECT * FROM stepwise.claim_steps('w', max_steps => 0)"),
            ("22023", "SELECT * FROM stepwise.complete_steps('{}', '{1}')"),
            ("22023", "SELECT stepwise.register_template('{}')"),
            ("22023", "SELECT stepwise.create_task('t', bypass_steps => '{a}')"),
            ("23505", r#"SELECT stepwise.register_template('{"name": "t", "steps": [{"name": "b"}]}')"#),
            ("23514", "UPDATE stepwise.steps SET state = 'nonsense'"),
            ("P0002", "SELECT stepwise.create_task('nothing')"),
            ("P0002", "SELECT stepwise.complete_step('00000000-0000-0000-0000-000000000000')"),
            ("55000", "UPDATE stepwise.steps SET state = 'complete'"),
            ("55000", "UPDATE stepwise.tasks SET live_steps = 9"),
            ("55000", "UPDATE stepwise.tasks SET state = 'complete'"),
            ("00000", "SELECT * FROM stepwise.claim_steps('w')"),
        ] {
            assert_eq!(sqlstate(statement), expected, "{statement}");
        }
    }

    #[pg_test(error = "receipt matches no step")]
    fn an_error_ends_the_transaction() {
        Spi::run("SELECT stepwise.complete_step('00000000-0000-0000-0000-000000000000')").unwrap();
    }
}

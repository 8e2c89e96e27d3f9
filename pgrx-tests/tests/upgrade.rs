//! What was released stays usable: the install script of each release is kept in `sql/fixtures`, and the names of all C
//! functions that ever were in `sql/fixtures/symbols`. `.ci/freeze` adds those of the present version.
mod cluster;

use cluster::server::{Server, program, program_of, run};
use cluster::worker::{claim, complete, receipts};
use cluster::{Database, contents, count, in_flight, one, templates};
use postgres::Client;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sql/fixtures")
}

/// Version and install script of each release.
fn releases() -> Vec<(String, String)> {
    let mut releases: Vec<(String, String)> = fs::read_dir(fixtures())
        .expect("sql/fixtures is there")
        .filter_map(|entry| {
            let name = entry.expect("an entry").file_name().into_string().expect("a plain name");
            let version = name.strip_prefix("pg_stepwise--")?.strip_suffix(".sql")?;
            Some((version.to_owned(), fs::read_to_string(fixtures().join(&name)).expect("the script can be read")))
        })
        .collect();
    releases.sort();
    assert!(!releases.is_empty(), "no release is kept in sql/fixtures");
    releases
}

fn symbols() -> BTreeSet<String> {
    let text = fs::read_to_string(fixtures().join("symbols")).expect("sql/fixtures/symbols is there");
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn pg_config(option: &str) -> PathBuf {
    let mut command = program("pg_config");
    command.arg(option);
    PathBuf::from(String::from_utf8(run(command)).expect("a path").trim())
}

#[test]
fn the_library_has_every_symbol_that_was_ever_released() {
    let library = pg_config("--pkglibdir").join("pg_stepwise.so");
    let mut nm = Command::new("nm");
    nm.args(["-D", "--defined-only", "--format=posix"]).arg(&library);
    let listed = String::from_utf8(run(nm)).expect("names are ASCII");
    let present: BTreeSet<&str> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
    let released = symbols();
    let missing: Vec<&String> = released.iter().filter(|symbol| !present.contains(symbol.as_str())).collect();
    assert!(missing.is_empty(), "a database that was not updated yet calls these, so they must stay: {missing:?}");
    // The list is whole: it has each function that a released script names.
    for (version, script) in releases() {
        let named = script.split("'MODULE_PATHNAME', '").skip(1).filter_map(|rest| rest.split('\'').next());
        let named: Vec<&str> = named.collect();
        assert!(named.len() > 30, "{version}: {} C functions", named.len());
        for symbol in named {
            assert!(released.contains(symbol), "{version}: {symbol} is not in sql/fixtures/symbols");
            assert!(released.contains(&format!("pg_finfo_{symbol}")), "{version}: pg_finfo_{symbol} is not in it");
        }
    }
}

/// A released script where CREATE EXTENSION finds it, for as long as the value lives.
struct Installed {
    file: PathBuf,
    version: String,
}

impl Installed {
    /// `current`: the version that a plain CREATE EXTENSION gives.
    fn new(version: &str, script: &str, current: &str) -> Installed {
        // The present version's own script is there already, and is what the kept one is to be compared with.
        let version = if version == current { format!("{version}.kept") } else { version.to_owned() };
        let file = pg_config("--sharedir").join(format!("extension/pg_stepwise--{version}.sql"));
        fs::write(&file, script).expect("the installation is ours");
        Installed { file, version }
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// Everything that belongs to the extension, each with its definition, rights and comment.
fn catalog(client: &mut Client) -> Vec<String> {
    let sql = "
        WITH members AS (SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
            WHERE e.extname = 'pg_stepwise' AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass),
        relations AS (SELECT c.* FROM pg_class c JOIN members m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid)
        SELECT i.type || ' ' || i.identity || ' ' || coalesce(obj_description(objid, classid::regclass::text), '-') AS line
            FROM members, pg_identify_object(classid, objid, 0) i
        UNION ALL SELECT concat_ws(' ', pg_get_functiondef(p.oid), p.proacl::text, p.proowner::regrole)
            FROM pg_proc p JOIN members m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid WHERE p.prokind = 'f'
        UNION ALL SELECT concat_ws(' ', 'relation', oid::regclass, relkind, relpersistence, relowner::regrole, relacl::text,
            reloptions::text, CASE WHEN relkind = 'v' THEN pg_get_viewdef(oid) END) FROM relations
        UNION ALL SELECT concat_ws(' ', 'column', r.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
            a.attidentity, a.attstorage, a.attacl::text, pg_get_expr(d.adbin, d.adrelid), col_description(r.oid, a.attnum))
            FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
            LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
        UNION ALL SELECT concat_ws(' ', 'constraint', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid), c.convalidated)
            FROM pg_constraint c JOIN relations r ON r.oid = c.conrelid
        UNION ALL SELECT concat_ws(' ', 'index', pg_get_indexdef(x.indexrelid), x.indisvalid)
            FROM pg_index x JOIN relations r ON r.oid = x.indrelid
        UNION ALL SELECT concat_ws(' ', 'trigger', pg_get_triggerdef(t.oid), t.tgenabled)
            FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal
        UNION ALL SELECT concat_ws(' ', 'dumped', c::regclass, e.extcondition[n])
            FROM pg_extension e, unnest(e.extconfig) WITH ORDINALITY AS u (c, n) WHERE e.extname = 'pg_stepwise'";
    let mut lines: Vec<String> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    lines.sort();
    assert!(lines.len() > 300, "only {} objects", lines.len());
    lines
}

/// What a user does all day; it leaves tasks under way.
fn work(client: &mut Client) {
    let template = format!("ladder {}", count(client, "stepwise.templates"));
    templates::register(client, &templates::ladder(&template, 3));
    let tasks = templates::create(client, &template, 4);
    let steps = claim(client, "w", 10).unwrap();
    let (failed, done) = steps.split_at(1);
    client.execute("SELECT stepwise.fail_step($1::text::uuid, '\"no\"', false)", &[&failed[0].receipt]).unwrap();
    for step in done {
        assert_eq!(complete(client, &step.receipt, "1").unwrap(), "accepted");
    }
    client
        .execute("SELECT stepwise.reset_step($1::bigint, $2::integer)", &[&failed[0].task_id, &failed[0].step_id])
        .unwrap();
    client.execute("SELECT stepwise.cancel_task($1)", &[&tasks[3]]).unwrap();
    for reader in ["get_step_readiness_status", "get_task_execution_context", "task_history"] {
        assert!(!client.query(&format!("SELECT * FROM stepwise.{reader}($1)"), &[&tasks[0]]).unwrap().is_empty());
    }
    client.batch_execute("SELECT stepwise.tick(); SELECT stepwise.purge_tasks('1 year')").unwrap();
    assert_eq!(count(client, "stepwise.verify()"), 0);
}

fn finish(client: &mut Client) {
    client.batch_execute("SET stepwise.clock_offset = '2 hours'").unwrap();
    loop {
        let steps = claim(client, "after", 100).unwrap();
        if steps.is_empty() {
            break;
        }
        let sql = "SELECT count(*) FROM stepwise.complete_steps($1::text[]::uuid[]) WHERE outcome <> 'accepted'";
        assert_eq!(one::<i64>(client, sql, &[&receipts(&steps)]), 0);
    }
    assert_eq!(count(client, "stepwise.tasks WHERE finished_at IS NULL"), 0);
    assert_eq!(count(client, "stepwise.verify()"), 0);
    client.batch_execute("RESET stepwise.clock_offset").unwrap();
}

#[test]
fn a_database_of_each_release_works_with_this_library_and_can_be_updated() {
    let server = Server::start();
    let mut fresh = server.database("fresh").connect();
    let current: String = one(&mut fresh, "SELECT extversion FROM pg_extension WHERE extname = 'pg_stepwise'", &[]);
    let expected = catalog(&mut fresh);
    for (version, script) in releases() {
        let installed = Installed::new(&version, &script, &current);
        let database: Database = server.empty_database(&format!("old_{}", version.replace('.', "_")));
        let mut client = database.connect();
        client.batch_execute(&format!("CREATE EXTENSION pg_stepwise VERSION '{}'", installed.version)).unwrap();
        // The package was upgraded, nobody has run ALTER EXTENSION yet.
        work(&mut client);
        if version != current {
            client.batch_execute("ALTER EXTENSION pg_stepwise UPDATE").unwrap();
        }
        // The same backend, whose plans are of before, and a new one.
        work(&mut client);
        let mut client = database.connect();
        work(&mut client);
        finish(&mut client);
        let upgraded = catalog(&mut client);
        let differs: Vec<&String> = expected
            .iter()
            .filter(|line| !upgraded.contains(line))
            .chain(upgraded.iter().filter(|line| !expected.contains(line)))
            .collect();
        let hint = if version == current {
            "the schema of a version must not change after its release; before its release, run .ci/freeze"
        } else {
            "the upgrade script leads to another schema than CREATE EXTENSION"
        };
        assert!(differs.is_empty(), "{version}: {hint}:\n{differs:#?}");
    }
}

/// What a release before the present one might have been: the same with another comment and a function more.
const BEFORE: &str = "
COMMENT ON FUNCTION stepwise.now() IS 'As it was';
CREATE FUNCTION stepwise.gone() RETURNS integer LANGUAGE sql AS 'SELECT 1';";

#[test]
fn alter_extension_update_takes_tasks_under_way_along() {
    let server = Server::start();
    let mut fresh = server.database("fresh").connect();
    let current: String = one(&mut fresh, "SELECT extversion FROM pg_extension WHERE extname = 'pg_stepwise'", &[]);
    let comment: String = one(&mut fresh, "SELECT obj_description('stepwise.now()'::regprocedure, 'pg_proc')", &[]);
    let expected = catalog(&mut fresh);
    // The test's own step from one version to the next; those of releases are tested above, once there are two.
    let script = pg_config("--sharedir").join(format!("extension/pg_stepwise--{current}.sql"));
    let script = fs::read_to_string(script).expect("the present version is installed");
    let _before = Installed::new("0.0.9", &(script + BEFORE), &current);
    let comment = comment.replace('\'', "''");
    let update = format!("COMMENT ON FUNCTION stepwise.now() IS '{comment}';\nDROP FUNCTION stepwise.gone();\n");
    let _update = Installed::new(&format!("0.0.9--{current}"), &update, &current);
    let database = server.empty_database("updated");
    let (mut admin, mut worker) = (database.connect(), database.connect());
    admin.batch_execute("CREATE EXTENSION pg_stepwise VERSION '0.0.9'").unwrap();
    let begun = in_flight::begin(&mut worker);
    assert_ne!(catalog(&mut admin), expected);
    let before = contents(&mut admin);
    admin.batch_execute("ALTER EXTENSION pg_stepwise UPDATE").unwrap();
    let version = "SELECT extversion FROM pg_extension WHERE extname = 'pg_stepwise'";
    assert_eq!(one::<String>(&mut admin, version, &[]), current);
    assert_eq!(catalog(&mut admin), expected);
    assert_eq!(contents(&mut admin), before);
    // The backend that has worked with the schema as it was.
    in_flight::runs_to_its_end(&mut worker, &begun);
}

/// The ends of pg_upgrade's own logs.
fn upgrade_logs(dir: &Path) -> String {
    let mut text = String::new();
    for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            text += &upgrade_logs(&path);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            let log = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text += &format!("{}:\n{}\n", path.display(), lines[lines.len().saturating_sub(12)..].join("\n"));
        }
    }
    text
}

/// Names of the extension's objects, but the types that come with a table, which only some majors list.
fn names(client: &mut Client) -> Vec<String> {
    let sql = "SELECT i.type || ' ' || i.identity FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid, \
            pg_identify_object(d.classid, d.objid, 0) i \
        WHERE e.extname = 'pg_stepwise' AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass AND i.type <> 'type' \
        ORDER BY 1";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn pg_upgrade_takes_tasks_along() {
    let older = std::env::var("PG_STEPWISE_OLDER_BINDIR").ok().filter(|path| !path.is_empty());
    let older =
        older.unwrap_or_else(|| std::env::var("PG_STEPWISE_BINDIR").expect("the tests run against an installation"));
    let mut old = Server::start_in(&older);
    let database = old.database("upgraded");
    let mut client = database.connect();
    let begun = in_flight::begin(&mut client);
    let mut other = old.database("worked").connect();
    work(&mut other);
    let stored = [&mut client, &mut other].map(contents);
    let before: i32 = one(&mut client, "SELECT current_setting('server_version_num')::integer / 10000", &[]);
    let names_before = names(&mut client);
    drop((client, other));
    old.stop();

    let mut new = Server::start();
    new.stop();
    let mut upgrade = program_of(new.bindir(), "pg_upgrade");
    upgrade.arg("-b").arg(old.bindir()).arg("-B").arg(new.bindir());
    upgrade.arg("-d").arg(old.data()).arg("-D").arg(new.data()).args(["-U", "postgres", "-s"]).arg(new.socket());
    upgrade.current_dir(new.socket());
    let output = upgrade.output().expect("pg_upgrade starts");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "pg_upgrade: {said}\n{}", upgrade_logs(&new.data().join("pg_upgrade_output.d")));
    new.launch();

    let mut client = Database::new(&new, "upgraded").connect();
    let after: i32 = one(&mut client, "SELECT current_setting('server_version_num')::integer / 10000", &[]);
    let mut other = Database::new(&new, "worked").connect();
    assert_eq!([&mut client, &mut other].map(contents), stored);
    in_flight::runs_to_its_end(&mut client, &begun);
    assert_eq!(count(&mut other, "stepwise.verify()"), 0);
    work(&mut other);
    finish(&mut other);
    assert_eq!(names(&mut client), names_before);
    println!("pg_upgrade from {before} to {after}");
}

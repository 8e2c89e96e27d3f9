//! A PostgreSQL server in a directory of its own that only this test knows: reached over a unix socket, stopped and
//! removed with the value. `PG_STEPWISE_BINDIR` says where its programs are, the extension installed with them;
//! `PG_STEPWISE_RUN_AS` names the user that it runs as where the tests run as root.
use super::database::Database;
use super::wait;
use postgres::{Client, Config, NoTls};
use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

pub struct Server {
    dir: PathBuf,
    bindir: PathBuf,
    process: Option<Child>,
    /// Further settings, `name=value`.
    settings: Vec<String>,
    /// Megabytes of a disk that only this server sees.
    small_disk: Option<u32>,
}

/// The user that servers run as, where it is not the test's own, with its numbers.
struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    fn of_server() -> Option<Account> {
        let name = env::var("PG_STEPWISE_RUN_AS").ok().filter(|name| !name.is_empty())?;
        let number = |option| {
            let output = Command::new("id").arg(option).arg(&name).output().expect("id runs");
            String::from_utf8_lossy(&output.stdout).trim().parse().expect("the server's user exists")
        };
        Some(Account { uid: number("-u"), gid: number("-g") })
    }
}

/// A program of the server's, with the rights of the server's user and nothing of the test's environment.
pub fn program(name: &str) -> Command {
    program_of(&bindir(), name)
}

fn bindir() -> PathBuf {
    env::var_os("PG_STEPWISE_BINDIR").expect("PG_STEPWISE_BINDIR is the bin directory of a PostgreSQL").into()
}

/// A program of this installation.
pub fn program_of(bindir: &Path, name: &str) -> Command {
    let mut command = Command::new("setpriv");
    // A test that is killed takes its server with it.
    command.arg("--pdeathsig=QUIT");
    if let Some(account) = Account::of_server() {
        command.arg(format!("--reuid={}", account.uid)).arg(format!("--regid={}", account.gid)).arg("--clear-groups");
    }
    command.arg(bindir.join(name));
    command.env_clear().envs([("HOME", "/"), ("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8")]).current_dir("/");
    command.stdin(Stdio::null());
    command
}

/// Runs a program to its end; what it printed.
pub fn run(mut command: Command) -> Vec<u8> {
    let output = command.output().expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{errors}");
    output.stdout
}

impl Server {
    /// A new cluster, started.
    pub fn start() -> Server {
        Server::start_with(&[])
    }

    /// A new cluster with these settings, started.
    pub fn start_with(settings: &[&str]) -> Server {
        let mut server = Server::directory();
        server.settings = settings.iter().map(|setting| setting.to_string()).collect();
        server.initialize();
        server
    }

    /// A new cluster of another installation, started.
    pub fn start_in(bindir: &str) -> Server {
        let mut server = Server::directory();
        server.bindir = PathBuf::from(bindir);
        server.initialize();
        server
    }

    fn initialize(&mut self) {
        let mut initdb = program_of(&self.bindir, "initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-D"]);
        initdb.arg(self.data());
        // Since 18 they are the default; pg_upgrade wants both clusters to be alike.
        let mut version = program_of(&self.bindir, "initdb");
        version.arg("--version");
        let version = String::from_utf8(run(version)).expect("a version");
        if version.split_whitespace().nth(2).and_then(|number| number.get(..2)) >= Some("18") {
            initdb.arg("--no-data-checksums");
        }
        run(initdb);
        self.launch();
    }

    pub fn bindir(&self) -> &Path {
        &self.bindir
    }

    /// A new cluster with a disk of so many megabytes beside its own, started.
    pub fn start_on_small_disk(megabytes: u32) -> Server {
        let mut server = Server::start();
        server.stop();
        fs::create_dir(server.small_disk()).expect("a new directory");
        if let Some(account) = Account::of_server() {
            chown(server.small_disk(), Some(account.uid), Some(account.gid)).expect("the directory can be given away");
        }
        server.small_disk = Some(megabytes);
        server.launch();
        server
    }

    /// Where the small disk is.
    pub fn small_disk(&self) -> PathBuf {
        self.dir.join("small")
    }

    /// The SQLSTATEs of a disk that is full: as root a file system of that size, otherwise a limit on the size of files,
    /// which the kernel reports in another way.
    pub fn disk_full_states(&self) -> &'static [&'static str] {
        if Account::of_server().is_some() { &["53100"] } else { &["53100", "58030", "XX000"] }
    }

    /// Its file system is mounted in a namespace of the server's own, which ends with it.
    fn with_small_disk(&self, command: Command, megabytes: u32) -> Command {
        let mut outer = Command::new(if Account::of_server().is_some() { "unshare" } else { "prlimit" });
        match Account::of_server() {
            Some(account) => outer
                .args(["--mount", "sh", "-c", "mount -t tmpfs -o \"$0\" small \"$1\"; shift; exec \"$@\""])
                .arg(format!("size={megabytes}m,mode=700,uid={},gid={}", account.uid, account.gid))
                .arg(self.small_disk()),
            None => outer.arg(format!("--fsize={}", u64::from(megabytes) << 20)),
        };
        outer.arg(command.get_program()).args(command.get_args());
        outer.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir("/");
        outer.stdin(Stdio::null());
        outer
    }

    /// A standby of this server, started.
    pub fn standby(&self) -> Server {
        let mut server = Server::directory();
        server.settings = self.settings.clone();
        let mut backup = program("pg_basebackup");
        backup.args(["-U", "postgres", "--checkpoint=fast", "--write-recovery-conf", "--no-sync", "-h"]);
        backup.arg(self.socket()).arg("-D").arg(server.data());
        run(backup);
        server.launch();
        server
    }

    fn directory() -> Server {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // A socket's path has 107 bytes at most.
        let dir = PathBuf::from(format!("/tmp/pgsw-{}-{number}", std::process::id()));
        let server = Server { dir, bindir: bindir(), process: None, settings: Vec::new(), small_disk: None };
        for path in [server.dir.clone(), server.data(), server.socket()] {
            fs::create_dir(&path).expect("a new directory");
            if let Some(account) = Account::of_server() {
                chown(&path, Some(account.uid), Some(account.gid)).expect("the directory can be given away");
            }
        }
        fs::set_permissions(server.data(), fs::Permissions::from_mode(0o700)).expect("the directory is ours");
        server
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    /// Starts the server on its data and waits until it takes connections, which may need a recovery first.
    pub fn launch(&mut self) {
        wait::until("the server starts", || {
            // Right after a kill the last processes of the old server may still be in the way: try again.
            let process = match self.process.as_mut() {
                Some(process) => process,
                None => self.process.insert(self.spawn()),
            };
            if process.try_wait().expect("the server can be waited for").is_some() {
                self.process = None;
                return None;
            }
            self.connection("postgres").connect(NoTls).ok()
        });
    }

    fn spawn(&self) -> Child {
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log")).expect("the log opens");
        let mut command = program_of(&self.bindir, "postgres");
        command.arg("-D").arg(self.data());
        // fsync protects from a crash of the machine, which no test survives; compiled queries want an LLVM.
        for setting in ["listen_addresses=", "fsync=off", "jit=off", "max_connections=50", "deadlock_timeout=100ms"] {
            command.arg("-c").arg(setting);
        }
        for setting in &self.settings {
            command.arg("-c").arg(setting);
        }
        command.arg("-c").arg(format!("unix_socket_directories={}", self.socket().display()));
        if let Some(megabytes) = self.small_disk {
            command = self.with_small_disk(command, megabytes);
        }
        command.stdout(log.try_clone().expect("the log can be shared")).stderr(log);
        command.spawn().expect("the server starts")
    }

    pub fn connection(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.host_path(self.socket()).user("postgres").dbname(database);
        config
    }

    pub fn connect(&self, database: &str) -> Client {
        self.connection(database).connect(NoTls).expect("the server takes connections")
    }

    /// A new database without the extension.
    pub fn empty_database(&self, name: &str) -> Database {
        self.connect("postgres").batch_execute(&format!("CREATE DATABASE {name}")).expect("the database is new");
        Database::new(self, name)
    }

    /// A new database with the extension.
    pub fn database(&self, name: &str) -> Database {
        let database = self.empty_database(name);
        database.connect().batch_execute("CREATE EXTENSION pg_stepwise").expect("the extension is installed");
        database
    }

    /// Ends the postmaster with SIGKILL; its other processes end when they see that it is gone.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the server runs");
        process.kill().expect("the server can be killed");
        process.wait().expect("the server has ended");
    }

    /// Ends every process of the server with SIGKILL, as a loss of power does: none has time to notice that another is gone.
    pub fn kill_all(&mut self) {
        let mut process = self.process.take().expect("the server runs");
        let parent = process.id().to_string();
        let children = |name: std::ffi::OsString| {
            let name = name.into_string().ok().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))?;
            let stat = fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
            // After the name in parentheses: state, then the parent.
            (stat.rsplit_once(") ")?.1.split(' ').nth(1)? == parent).then_some(name)
        };
        let pids =
            fs::read_dir("/proc").expect("there are processes").filter_map(|entry| children(entry.ok()?.file_name()));
        let pids: Vec<String> = pids.collect();
        // The postmaster first, so that it starts no other; a child may have ended by itself meanwhile.
        process.kill().expect("the server can be killed");
        let _ = Command::new("kill").arg("-9").args(&pids).stderr(Stdio::null()).status();
        process.wait().expect("the server has ended");
    }

    /// Stops the server: it ends its backends and writes a checkpoint. The data stay.
    pub fn stop(&mut self) {
        let mut stop = program_of(&self.bindir, "pg_ctl");
        stop.arg("-D").arg(self.data()).args(["-s", "-w", "-m", "fast", "stop"]);
        run(stop);
        self.process.take().expect("the server runs").wait().expect("the server has ended");
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// The log tells of a deadlock before anybody is told; the statistics may do so later.
    #[track_caller]
    pub fn assert_no_deadlock(&self) {
        let log = self.log();
        assert!(!log.contains("deadlock detected"), "{log}");
    }

    /// Ends one backend with SIGKILL.
    pub fn kill_backend(&self, pid: i32) {
        let status = Command::new("sh").arg("-c").arg(format!("kill -9 {pid}")).status().expect("sh runs");
        assert!(status.success(), "backend {pid} cannot be killed");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let mut stop = program_of(&self.bindir, "pg_ctl");
            stop.arg("-D").arg(self.data()).args(["-s", "-w", "-m", "immediate", "stop"]);
            if !stop.status().is_ok_and(|status| status.success()) {
                let _ = process.kill();
            }
            let _ = process.wait();
        }
        if std::thread::panicking() {
            // The end of the log tells why a test has failed that lost its connection.
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the server's log ends:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

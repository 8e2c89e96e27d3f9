//! Prometheus, its exporter and promtool, each as a process of the test on the loopback interface, ended with the value.
//! `PG_STEPWISE_MONITORING` says where `.ci/setup --monitoring` has put them.
use super::wait;
use std::collections::BTreeMap;
use std::env;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A program of the monitoring tools. Where it is missing, the test fails.
fn program(name: &str) -> PathBuf {
    let dir = env::var("PG_STEPWISE_MONITORING").expect("PG_STEPWISE_MONITORING: .ci/setup --monitoring says where");
    let path = Path::new(&dir).join(name);
    assert!(path.exists(), "{} is missing: run .ci/setup --monitoring", path.display());
    path
}

/// What promtool says to this input.
pub fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(program("promtool"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("promtool starts");
    process.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("promtool reads");
    process.wait_with_output().expect("promtool ends")
}

/// A server of HTTP on a port of its own.
pub struct Service {
    port: u16,
    process: Child,
}

impl Service {
    pub fn start(name: &str, arguments: &[String], environment: &[(&str, String)]) -> Service {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        // A test that is killed takes it along.
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=KILL").arg(program(name)).arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.args(arguments).env_clear().envs(environment.iter().map(|(name, value)| (*name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut service = Service { port, process: command.spawn().expect("the program starts") };
        wait::until(&format!("{name} answers"), || {
            let ended = service.process.try_wait().expect("it can be waited for");
            assert!(ended.is_none(), "{name} has ended: {ended:?}");
            service.try_get("/metrics").map(drop)
        });
        service
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The body of an answer.
    pub fn get(&self, path: &str) -> String {
        self.try_get(path).unwrap_or_else(|| panic!("no answer to {path}"))
    }

    fn try_get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some(body.to_owned())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A query string's value.
pub fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The samples of a text in the exposition format, by name and labels in the order of their names; `server`, which the
/// exporter adds, left out.
pub fn samples(text: &str) -> BTreeMap<String, f64> {
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').expect("a name and a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        // No value in these tests holds a comma or a brace.
        let mut labels: Vec<&str> =
            labels.trim_end_matches('}').split(',').filter(|label| !label.starts_with("server=")).collect();
        labels.sort_unstable();
        (format!("{name}{{{}}}", labels.join(",")), value.parse().expect("a number"))
    };
    text.lines().filter(|line| line.starts_with("stepwise_")).map(sample).collect()
}

//! A connection that breaks at the worst moment: between a client and its server, on a socket of its own.
use super::Database;
use postgres::{Client, Config, NoTls};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread;

/// What the proxy does with the next request.
#[derive(Clone, Copy, PartialEq)]
pub enum Loses {
    Nothing = 0,
    /// The request never reaches the server.
    Request = 1,
    /// The server does all that it was asked for, and its answer reaches nobody.
    Answer = 2,
}

pub struct Proxy {
    dir: PathBuf,
    database: String,
    loses: Arc<AtomicU8>,
}

impl Proxy {
    pub fn new(database: &Database) -> Proxy {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/tmp/pgsw-{}-proxy-{number}", std::process::id()));
        fs::create_dir(&dir).expect("a new directory");
        let listener = UnixListener::bind(dir.join(".s.PGSQL.5432")).expect("a new socket");
        let (server, loses) = (database.socket.join(".s.PGSQL.5432"), Arc::new(AtomicU8::new(0)));
        let of_threads = loses.clone();
        // Ends with the test: it waits for clients.
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.expect("a client"), UnixStream::connect(&server).expect("the server"));
                let (from, to) = (client.try_clone().expect("a copy"), server.try_clone().expect("a copy"));
                let loses = of_threads.clone();
                thread::spawn(move || requests(from, to, &loses));
                let loses = of_threads.clone();
                thread::spawn(move || answers(server, client, &loses));
            }
        });
        Proxy { dir, database: database.name.clone(), loses }
    }

    pub fn connect(&self) -> Client {
        self.loses.store(Loses::Nothing as u8, Ordering::SeqCst);
        let mut config = Config::new();
        config.host_path(&self.dir).user("postgres").dbname(&self.database);
        config.connect(NoTls).expect("the proxy takes connections")
    }

    /// What happens to the next request.
    pub fn lose(&self, loses: Loses) {
        self.loses.store(loses as u8, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn requests(mut client: UnixStream, mut server: UnixStream, loses: &AtomicU8) {
    let mut buffer = [0; 8192];
    while let Ok(read) = client.read(&mut buffer) {
        if read == 0
            || loses.load(Ordering::SeqCst) == Loses::Request as u8
            || server.write_all(&buffer[..read]).is_err()
        {
            break;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = server.shutdown(std::net::Shutdown::Both);
}

/// Passes messages on; where they are to be lost, waits for the one that says that the server is done, and hangs up.
fn answers(mut server: UnixStream, mut client: UnixStream, loses: &AtomicU8) {
    let mut head = [0; 5];
    while server.read_exact(&mut head).is_ok() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length - 4];
        if server.read_exact(&mut body).is_err() {
            break;
        }
        if loses.load(Ordering::SeqCst) == Loses::Answer as u8 {
            if head[0] == b'Z' {
                break;
            }
        } else if client.write_all(&head).and_then(|()| client.write_all(&body)).is_err() {
            break;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = server.shutdown(std::net::Shutdown::Both);
}

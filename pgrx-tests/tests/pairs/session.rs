//! A connection whose calls may have to wait: they are sent, and asked for later.
use postgres::{Client, SimpleQueryMessage};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

pub struct Session {
    calls: Sender<String>,
    answers: Receiver<String>,
    pid: i32,
}

impl Session {
    pub fn new(mut client: Client) -> Session {
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).expect("a number").get(0);
        let (calls, to_do) = channel::<String>();
        let (answer, answers) = channel();
        // Ends when the session is dropped.
        thread::spawn(move || {
            for call in to_do {
                let text = match client.simple_query(&call) {
                    Ok(messages) => last_value(&messages),
                    Err(error) => format!("refused {}", error.code().map_or("without a code", |state| state.code())),
                };
                if answer.send(text).is_err() {
                    return;
                }
            }
        });
        Session { calls, answers, pid }
    }

    pub fn send(&self, call: String) {
        self.calls.send(call).expect("the session lives");
    }

    /// The answer, unless the call waits for another session.
    pub fn answer_unless_blocked(&self, observer: &mut Client) -> Option<String> {
        loop {
            match self.answers.recv_timeout(Duration::from_micros(1500)) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Disconnected) => panic!("the session has ended"),
                Err(RecvTimeoutError::Timeout) => {
                    let sql = "SELECT cardinality(pg_blocking_pids($1)) > 0";
                    if observer.query_one(sql, &[&self.pid]).expect("an answer").get(0) {
                        return None;
                    }
                }
            }
        }
    }

    pub fn answer(&self) -> String {
        self.answers.recv_timeout(super::cluster::wait::DEADLINE).expect("nobody waits for ever")
    }

    pub fn call(&self, call: &str) -> String {
        self.send(call.to_owned());
        self.answer()
    }
}

fn last_value(messages: &[SimpleQueryMessage]) -> String {
    let row = messages.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.and_then(|row| row.get(0)).unwrap_or("nothing").to_owned()
}

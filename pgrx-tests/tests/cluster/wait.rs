//! Waiting for the world outside the test's own connections: ask again and again, up to a deadline.
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough for a busy machine; only a test that fails waits for it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The first answer that `ask` gives.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        sleep(Duration::from_millis(10));
    }
}

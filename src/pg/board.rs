//! What processes of one server know of each other, in shared memory: who coordinates a database and until when it
//! sleeps, who runs handlers. There only where the library is preloaded; elsewhere everything here does nothing.
use crate::engine::time::Timestamp;
use pgrx::prelude::*;
use pgrx::{PGRXSharedMemory, PgLwLock, pg_shmem_init, pg_sys};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

const DATABASES: usize = 64;
pub const MAX_RUNNERS: usize = 64;

/// Who coordinates one database.
#[derive(Default)]
struct Coordinator {
    database: u32,
    /// 0: it does not run.
    pid: i32,
    /// It sleeps until then; whoever commits something that is due earlier wakes it.
    sleeps_until: AtomicI64,
    /// It must not be started before.
    suspended_until: i64,
}

/// A process that runs the handlers of tasks of one role.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Runner {
    pub database: u32,
    pub role: u32,
    pub pid: i32,
    pub idle: bool,
}

struct Board {
    coordinators: [Coordinator; DATABASES],
    runners: [Runner; MAX_RUNNERS],
}

impl Default for Board {
    fn default() -> Self {
        Board {
            coordinators: std::array::from_fn(|_| Coordinator::default()),
            runners: [Runner::default(); MAX_RUNNERS],
        }
    }
}

// SAFETY: plain numbers and atomics, no pointers.
unsafe impl PGRXSharedMemory for Board {}

// SAFETY: no other lock has this name.
static BOARD: PgLwLock<Board> = unsafe { PgLwLock::new(c"pg_stepwise board") };
static PRELOADED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The earliest time noted in the current transaction.
    static EARLIEST: Cell<i64> = const { Cell::new(i64::MAX) };
    /// Whether a step with a SQL handler became claimable in the current transaction.
    static READY_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Whether there is a board.
pub fn exists() -> bool {
    PRELOADED.load(Ordering::Relaxed)
}

/// Asks for the shared memory, while the server starts.
pub fn request() {
    pg_shmem_init!(BOARD);
    PRELOADED.store(true, Ordering::Relaxed);
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::RegisterXactCallback(Some(at_end_of_transaction), std::ptr::null_mut()) };
}

/// Notes that something will be due at `at` when the current transaction has committed.
pub fn note(at: Timestamp) {
    if exists() && at.is_finite() && at.0 < EARLIEST.get() {
        EARLIEST.set(at.0);
    }
}

/// Notes that a step with a SQL handler can be run when the current transaction has committed.
pub fn note_ready() {
    READY_HERE.set(exists());
}

#[pg_guard]
unsafe extern "C-unwind" fn at_end_of_transaction(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::*;
    match event {
        XACT_EVENT_COMMIT => {
            let earliest = if READY_HERE.take() { i64::MIN } else { EARLIEST.get() };
            if earliest < i64::MAX {
                // SAFETY: set once at the start of the backend.
                wake_coordinator(u32::from(unsafe { pg_sys::MyDatabaseId }), earliest);
            }
            EARLIEST.set(i64::MAX);
        }
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => {
            READY_HERE.set(false);
            EARLIEST.set(i64::MAX);
        }
        _ => {}
    }
}

/// Wakes the coordinator of a database, unless it wakes before `due` anyway.
fn wake_coordinator(database: u32, due: i64) {
    let pid = {
        let board = BOARD.share();
        let of_database = board.coordinators.iter().find(|one| one.database == database && one.pid != 0);
        of_database.filter(|one| due < one.sleeps_until.load(Ordering::Acquire)).map(|one| {
            // Whoever comes next need not wake it again.
            one.sleeps_until.store(i64::MIN, Ordering::Release);
            one.pid
        })
    };
    if let Some(pid) = pid {
        wake(pid);
    }
}

/// Sets the latch of a process.
pub fn wake(pid: i32) {
    // SAFETY: the entry of a process in the array of processes is never freed; at worst another one wakes for nothing.
    unsafe {
        let process = pg_sys::BackendPidGetProc(pid);
        if !process.is_null() {
            pg_sys::SetLatch(&raw mut (*process).procLatch);
        }
    }
}

unsafe extern "C-unwind" {
    fn kill(pid: i32, signal: i32) -> i32;
}

/// Asks a process to end.
pub fn terminate(pid: i32) {
    // SAFETY: a signal to a process of this server: its entry is taken off the board when it ends.
    unsafe { kill(pid, pg_sys::SIGTERM as i32) };
}

fn my_pid() -> i32 {
    // SAFETY: set once at the start of the process.
    unsafe { pg_sys::MyProcPid }
}

#[pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, _argument: pg_sys::Datum) {
    let pid = my_pid();
    let mut board = BOARD.exclusive();
    for one in board.coordinators.iter_mut().filter(|one| one.pid == pid) {
        one.pid = 0;
    }
    for runner in board.runners.iter_mut().filter(|runner| runner.pid == pid) {
        *runner = Runner::default();
    }
}

fn leave_at_exit() {
    // SAFETY: the callback lives as long as the library.
    unsafe { pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::from(0)) };
}

/// Enters this process as the coordinator of a database. `false`: there is one, or no room.
pub fn coordinate(database: u32) -> bool {
    let entered = {
        let mut board = BOARD.exclusive();
        let known = board.coordinators.iter().position(|one| one.database == database);
        let new = || board.coordinators.iter().position(|one| one.database == 0);
        let left = || board.coordinators.iter().position(|one| one.pid == 0);
        match known.or_else(new).or_else(left) {
            Some(place) if board.coordinators[place].pid == 0 || board.coordinators[place].database != database => {
                let sleeps_until = AtomicI64::new(i64::MIN);
                board.coordinators[place] =
                    Coordinator { database, pid: my_pid(), sleeps_until, suspended_until: i64::MIN };
                true
            }
            _ => false,
        }
    };
    leave_at_exit();
    entered
}

/// Says that this coordinator is about to look at what is due: whatever is committed from now on wakes it.
pub fn stay_awake(database: u32) {
    let board = BOARD.share();
    for one in board.coordinators.iter().filter(|one| one.database == database) {
        one.sleeps_until.store(i64::MAX, Ordering::Release);
    }
}

/// Says until when this coordinator sleeps; `false`: something has become due since it last looked, so it must look again.
/// (Its latch may have been reset by a wait inside the look.)
pub fn may_sleep_until(database: u32, at: Option<Timestamp>) -> bool {
    let until = at.map_or(i64::MAX, |at| at.0);
    let board = BOARD.share();
    board
        .coordinators
        .iter()
        .filter(|one| one.database == database)
        .all(|one| one.sleeps_until.compare_exchange(i64::MAX, until, Ordering::AcqRel, Ordering::Acquire).is_ok())
}

/// Ends the coordinator and the runners of a database and keeps them away until then.
pub fn suspend(database: u32, until: Timestamp) {
    let pids: Vec<i32> = {
        let mut board = BOARD.exclusive();
        let runners = board.runners.iter().filter(|runner| runner.database == database).map(|runner| runner.pid);
        let mut pids: Vec<i32> = runners.collect();
        for one in board.coordinators.iter_mut().filter(|one| one.database == database) {
            one.suspended_until = until.0;
            pids.push(one.pid);
        }
        pids
    };
    pids.into_iter().filter(|pid| *pid != 0).for_each(terminate);
}

/// Until when a database must be left alone, if it must.
pub fn suspended_until(database: u32) -> Option<Timestamp> {
    let board = BOARD.share();
    let of_database = board.coordinators.iter().find(|one| one.database == database);
    of_database.map(|one| one.suspended_until).filter(|until| *until > i64::MIN).map(Timestamp)
}

/// Enters this process as a runner. `false`: there is no room.
pub fn run_handlers(database: u32, role: u32) -> bool {
    let entered = {
        let mut board = BOARD.exclusive();
        let free = board.runners.iter_mut().find(|runner| runner.pid == 0);
        free.map(|runner| *runner = Runner { database, role, pid: my_pid(), idle: false }).is_some()
    };
    leave_at_exit();
    entered
}

/// Says whether this runner waits for work.
pub fn set_idle(idle: bool) {
    let pid = my_pid();
    let mut board = BOARD.exclusive();
    board.runners.iter_mut().filter(|runner| runner.pid == pid).for_each(|runner| runner.idle = idle);
}

/// Every runner of the server.
pub fn runners() -> Vec<Runner> {
    BOARD.share().runners.iter().copied().filter(|runner| runner.pid != 0).collect()
}

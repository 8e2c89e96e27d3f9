//! Who may use which namespaces, asked by everything that acts on a caller's behalf. What is foreign is answered as what
//! does not exist; an unrestricted caller costs one look into a backend's memory for each call.
use super::columns::{TASKS_BY_KEY, access as column, tasks as task};
use super::graph_cache;
use crate::engine::access::{Level, Namespaces, Rights};
use crate::pg::array::array;
use crate::pg::catalog;
use crate::pg::committed::{Name, each_row};
use crate::pg::lookup::{Key, Sees};
use crate::pg::role;
use crate::pg::spi::{self, Statement};
use crate::pg::value::{Param, param};
use pgrx::pg_sys::Oid;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Puts the condition that its template belongs to one of the namespaces of a parameter on rows with a `template_id`.
macro_rules! of_namespaces {
    ($row:literal, $names:literal) => {
        concat!(
            " AND EXISTS (SELECT FROM stepwise.templates ns_t \
             JOIN stepwise.namespaces ns_n ON ns_n.namespace_id = ns_t.namespace_id \
             WHERE ns_t.template_id = ",
            $row,
            ".template_id AND ns_n.name = ANY (",
            $names,
            "))"
        )
    };
}
pub(crate) use of_namespaces;

#[derive(Default)]
struct Known {
    generation: u64,
    /// The role asked for last.
    last: Option<(Oid, Rc<Rights>)>,
    rights: HashMap<Oid, Rc<Rights>>,
}

/// A command that is under way.
struct Command {
    caller: Oid,
    rights: Rc<Rights>,
    level: Level,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known::default());
    static COMMANDS: RefCell<Vec<Command>> = const { RefCell::new(Vec::new()) };
}

/// Pops its entry when dropped, also while an error unwinds.
struct Entry;

impl Drop for Entry {
    fn drop(&mut self) {
        COMMANDS.with_borrow_mut(|commands| commands.pop());
    }
}

/// Runs what a command of a level does: with the rights of the owner of the tables and a safe search_path, in the
/// namespaces of the role that calls. That is the current one, not the session's: inside a SECURITY DEFINER function, or
/// where Postgres itself has changed roles, the session's may be a mightier one that knows nothing of the call.
pub fn command<R>(level: Level, body: impl FnOnce() -> R) -> R {
    let caller = role::current();
    role::catch_up();
    let rights = rights_of(caller);
    COMMANDS.with_borrow_mut(|commands| commands.push(Command { caller, rights, level }));
    let _entry = Entry;
    catalog::as_owner_of(catalog::incarnation(), body)
}

/// The name of the role whose command is under way, or of the current one.
pub fn caller() -> String {
    role::name(COMMANDS.with_borrow(|commands| commands.last().map_or_else(role::current, |command| command.caller)))
}

/// What a caller is restricted to.
pub struct Restriction {
    rights: Rc<Rights>,
    level: Level,
}

impl Restriction {
    fn of(rights: Rc<Rights>, level: Level) -> Option<Restriction> {
        (*rights.at(level) != Namespaces::All).then_some(Restriction { rights, level })
    }

    pub fn has_namespace(&self, name: &str) -> bool {
        self.rights.at(self.level).has(name)
    }

    pub fn has_template(&self, template_id: i64) -> bool {
        graph_cache::namespace_of(template_id).is_some_and(|namespace| self.has_namespace(&namespace))
    }

    pub fn has_task(&self, sees: Sees, task_id: i64) -> bool {
        let mut template_id = None;
        let key = std::iter::once(Key::Run(task_id, task_id));
        TASKS_BY_KEY.each(sees, key, |_, row| template_id = Some(row.want(task::TEMPLATE_ID)));
        template_id.is_some_and(|template_id| self.has_template(template_id))
    }

    /// The namespaces, in the order of their names.
    pub fn list(&self) -> Vec<String> {
        match self.rights.at(self.level) {
            Namespaces::All => Vec::new(),
            Namespaces::Only(names) => {
                let mut names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
                names.sort_unstable();
                names
            }
        }
    }

    /// The namespaces, as a parameter.
    pub fn names(&self) -> Param {
        array(&self.list())
    }

    pub fn level(&self) -> &'static str {
        self.level.as_str()
    }

    /// Whether steps of these namespaces wait in the queue, and whether others' do.
    pub fn uses_of_queue(&self, queue_id: i64) -> (bool, bool) {
        catalog::as_owner_of(catalog::incarnation(), || {
            spi::session(|spi| {
                let rows = USES_OF_QUEUE.run(spi, &[param(queue_id), self.names()]);
                rows.first().map_or((false, false), |row| (row.want(1), row.want(2)))
            })
        })
    }

    /// Of an operator a queue is one's own, since what is done to it is done to all who use it.
    pub fn has_queue(&self, queue_id: i64) -> bool {
        let (own, foreign) = self.uses_of_queue(queue_id);
        own && !(foreign && self.level == Level::Operator)
    }
}

static USES_OF_QUEUE: Statement = Statement::read(concat!(
    "SELECT EXISTS (SELECT FROM stepwise.template_steps e WHERE e.queue_id = $1",
    of_namespaces!("e", "$2"),
    "), EXISTS (SELECT FROM stepwise.template_steps e WHERE e.queue_id = $1 AND NOT (true",
    of_namespaces!("e", "$2"),
    "))"
));

/// What the command that is under way is restricted to or, where none is, what the current role is as a reader. `None`:
/// nothing.
pub fn restriction() -> Option<Restriction> {
    let of_command = |command: &Command| Restriction::of(Rc::clone(&command.rights), command.level);
    let in_command = COMMANDS.with_borrow(|commands| commands.last().map(of_command));
    in_command.unwrap_or_else(|| restriction_now(Level::Reader))
}

/// What the current role is restricted to at a level, by what is committed now.
pub fn restriction_now(level: Level) -> Option<Restriction> {
    role::catch_up();
    restriction_at(level)
}

/// The same for a row of a statement that has asked.
pub fn restriction_at(level: Level) -> Option<Restriction> {
    Restriction::of(rights_of(role::current()), level)
}

/// Whether the caller may use a template: what is read as the owner on a caller's behalf asks this.
pub fn may_use(template_id: i64) -> bool {
    restriction().is_none_or(|restriction| restriction.has_template(template_id))
}

fn rights_of(caller: Oid) -> Rc<Rights> {
    let now = role::generation();
    let known = KNOWN.with_borrow(|known| {
        let last = known.last.as_ref().filter(|_| known.generation == now);
        last.filter(|(role, _)| *role == caller).map(|(_, rights)| Rc::clone(rights))
    });
    known.unwrap_or_else(|| look_up(caller))
}

fn look_up(caller: Oid) -> Rc<Rights> {
    // A change that arrives while the rows are read makes another generation, under which they do not count.
    let now = role::watch();
    let found = KNOWN.with_borrow_mut(|known| {
        if known.generation != now {
            *known = Known { generation: now, ..Known::default() };
        }
        known.rights.get(&caller).cloned()
    });
    let rights = found.unwrap_or_else(|| Rc::new(read(caller)));
    KNOWN.with_borrow_mut(|known| {
        if known.generation == now {
            known.rights.insert(caller, Rc::clone(&rights));
            known.last = Some((caller, Rc::clone(&rights)));
        }
    });
    rights
}

/// A grant counts for whoever has the rights of its role, while the schema's own rights name that role.
fn read(caller: Oid) -> Rights {
    if role::is_free(caller) {
        return Rights::all();
    }
    let named = role::named_by_schema();
    let (mut grants, mut separated) = (Vec::new(), role::is_separated());
    each_row(c"access", |row| {
        let namespace: Option<String> = row.get(column::NAMESPACE as usize);
        separated |= namespace.is_some();
        let role = row.get::<Name>(column::ROLE as usize).and_then(|Name(role)| role::inherited(caller, &role));
        let level = row.get::<String>(column::LEVEL as usize).and_then(|level| Level::parse(&level));
        if let (Some(role), Some(level)) = (role, level)
            && named.contains(&role)
        {
            grants.push((level, namespace));
        }
    });
    // Until the first namespace is granted, PostgreSQL's own rights are all there is. That the last one is revoked again gives
    // nobody more.
    if separated { Rights::of(&grants) } else { Rights::all() }
}

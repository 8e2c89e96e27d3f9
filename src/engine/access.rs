//! Which namespaces a role may use at which level, from the grants that count for it.
//!
//! In: what a level includes, and how grants add up. Out: whose grants count for whom, which is the database's to say.

use std::collections::HashSet;

/// What a role may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Reader,
    Worker,
    Operator,
    Author,
    /// What several levels may ask: whichever a role has.
    Any,
}

impl Level {
    const GRANTED: [Level; 4] = [Level::Reader, Level::Worker, Level::Operator, Level::Author];

    pub fn parse(text: &str) -> Option<Level> {
        Self::GRANTED.into_iter().find(|level| level.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Level::Reader => "reader",
            Level::Worker => "worker",
            Level::Operator => "operator",
            Level::Author => "author",
            Level::Any => "any",
        }
    }

    /// Whether a grant of this level is one of the other too.
    pub fn includes(self, other: Level) -> bool {
        match self {
            _ if self == other || other == Level::Any => true,
            Level::Author => true,
            Level::Operator => other != Level::Author,
            Level::Reader | Level::Worker | Level::Any => false,
        }
    }
}

/// Namespaces by name: one may be granted before its first template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespaces {
    All,
    Only(HashSet<Box<str>>),
}

impl Namespaces {
    pub fn has(&self, name: &str) -> bool {
        match self {
            Namespaces::All => true,
            Namespaces::Only(names) => names.contains(name),
        }
    }
}

/// The namespaces of a role, for each level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights([Namespaces; 5]);

const ALL: [Level; 5] = [Level::Reader, Level::Worker, Level::Operator, Level::Author, Level::Any];

impl Rights {
    /// Those of the owner.
    pub fn all() -> Rights {
        Rights(std::array::from_fn(|_| Namespaces::All))
    }

    /// What grants of a level in a namespace (`None`: in all) add up to.
    pub fn of(grants: &[(Level, Option<String>)]) -> Rights {
        Rights(ALL.map(|level| {
            let mut counting = grants.iter().filter(|(granted, _)| granted.includes(level)).map(|(_, name)| name);
            if counting.clone().any(Option::is_none) {
                return Namespaces::All;
            }
            let names = counting.by_ref().flatten();
            Namespaces::Only(names.map(|name| name.as_str().into()).collect())
        }))
    }

    pub fn at(&self, level: Level) -> &Namespaces {
        &self.0[level as usize]
    }
}

/// Whether an author of a namespace may have steps wait in this queue though none of its templates uses it yet: a rule over
/// names alone, so that the answer tells nothing about the queues of others.
pub fn is_own_queue(namespace: &str, queue: &str) -> bool {
    queue.strip_prefix(namespace).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

//! The states of tasks and steps and the changes between them that are legal at all.
//!
//! In: names, terminal states, the two transition tables. Out: what else a change needs (`transition`, `outcome`).

use std::fmt;

/// The state of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepState {
    Pending,
    InProgress,
    Complete,
    Error,
    Cancelled,
    ResolvedManually,
    /// A branch that was not taken.
    Skipped,
}

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskState {
    Pending,
    InProgress,
    Complete,
    Error,
    Cancelled,
    ResolvedManually,
}

impl StepState {
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::InProgress,
        Self::Complete,
        Self::Error,
        Self::Cancelled,
        Self::ResolvedManually,
        Self::Skipped,
    ];

    #[inline]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Complete => "complete",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
            Self::ResolvedManually => "resolved_manually",
            Self::Skipped => "skipped",
        }
    }

    #[inline]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.as_bytes() {
            b"pending" => Self::Pending,
            b"in_progress" => Self::InProgress,
            b"complete" => Self::Complete,
            b"error" => Self::Error,
            b"cancelled" => Self::Cancelled,
            b"resolved_manually" => Self::ResolvedManually,
            b"skipped" => Self::Skipped,
            _ => return None,
        })
    }

    /// No way leads out of it.
    #[inline]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Cancelled | Self::ResolvedManually | Self::Skipped)
    }

    /// Dependents may run on its account.
    #[inline]
    pub fn satisfies(self) -> bool {
        matches!(self, Self::Complete | Self::ResolvedManually)
    }

    /// Dependents no longer wait for it: it satisfies, or was skipped.
    #[inline]
    pub fn settles(self) -> bool {
        self.satisfies() || self == Self::Skipped
    }

    /// Whether the table of step transitions has `self` → `to`. A state may always stay what it is.
    #[inline]
    pub fn may_become(self, to: Self) -> bool {
        use StepState::*;
        self == to
            || match self {
                Pending => matches!(to, InProgress | Error | Cancelled | ResolvedManually | Skipped),
                InProgress => matches!(to, Pending | Complete | Error | Cancelled | ResolvedManually),
                Error => matches!(to, Pending | InProgress | Cancelled | ResolvedManually),
                Complete | Cancelled | ResolvedManually | Skipped => false,
            }
    }
}

impl TaskState {
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::InProgress, Self::Complete, Self::Error, Self::Cancelled, Self::ResolvedManually];

    #[inline]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Complete => "complete",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
            Self::ResolvedManually => "resolved_manually",
        }
    }

    #[inline]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.as_bytes() {
            b"pending" => Self::Pending,
            b"in_progress" => Self::InProgress,
            b"complete" => Self::Complete,
            b"error" => Self::Error,
            b"cancelled" => Self::Cancelled,
            b"resolved_manually" => Self::ResolvedManually,
            _ => return None,
        })
    }

    /// No way leads out of it. `error` is not terminal: a failed step may be reset.
    #[inline]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Cancelled | Self::ResolvedManually)
    }

    /// Whether the table of task transitions has `self` → `to`. A state may always stay what it is.
    #[inline]
    pub fn may_become(self, to: Self) -> bool {
        use TaskState::*;
        self == to
            || match self {
                Pending => matches!(to, InProgress | Complete | Error | Cancelled | ResolvedManually),
                InProgress => matches!(to, Complete | Error | Cancelled | ResolvedManually),
                Error => matches!(to, Pending | InProgress | Cancelled | ResolvedManually),
                Complete | Cancelled | ResolvedManually => false,
            }
    }
}

impl fmt::Display for StepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for state in StepState::ALL {
            assert_eq!(StepState::parse(state.as_str()), Some(state));
        }
        for state in TaskState::ALL {
            assert_eq!(TaskState::parse(state.as_str()), Some(state));
        }
        for text in ["", "Pending", "done", "pending "] {
            assert_eq!((StepState::parse(text), TaskState::parse(text)), (None, None));
        }
        assert_eq!(TaskState::parse("skipped"), None);
    }
}

//! Statements over rows that are given as columns. Where there is one row, as in most calls of a small batch, it comes as
//! plain values: a scan of arrays as a function and a join with it would take as long as the update itself.
use super::array::{array, column};
use super::spi::{Rows, Session, Statement};
use super::value::{Bind, Param, optional, param};

/// The two statements; [`per_row`] makes them.
pub struct PerRow {
    pub one: Statement,
    pub many: Statement,
}

impl PerRow {
    /// Executes the one that fits; its columns come from [`cells`] and [`optional_cells`].
    pub fn run(&'static self, session: &Session, rows: usize, params: &[Param]) -> Rows {
        if rows == 1 { &self.one } else { &self.many }.run(session, params)
    }
}

/// Puts `WITH i (names) AS (…)` before a statement: the rows of its parameters.
macro_rules! per_row {
    ($names:expr, $params:expr, $sql:expr) => {
        $crate::pg::per_row::PerRow {
            one: $crate::pg::spi::Statement::write(concat!("WITH i (", $names, ") AS (SELECT ", $params, ") ", $sql)),
            many: $crate::pg::spi::Statement::write(concat!(
                "WITH i (",
                $names,
                ") AS (SELECT * FROM unnest(",
                $params,
                ")) ",
                $sql
            )),
        }
    };
}
pub(crate) use per_row;

/// A column of the rows.
pub fn cells<T: Bind + Copy>(values: &[T]) -> Param {
    match values {
        [one] => param(*one),
        _ => array(values),
    }
}

/// A column that may be NULL.
pub fn optional_cells<T: Bind + Copy>(values: Vec<Option<T>>) -> Param {
    match values[..] {
        [one] => optional(one),
        _ => column(values),
    }
}

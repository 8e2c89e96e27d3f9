//! Driving: what makes steps with SQL handlers run inside the database. The same claims and reports as a worker's, as the
//! engine; the handler alone runs with the rights of the role on whose word it runs, outside every definer function.

pub mod background;
pub mod handler;
pub mod inline;

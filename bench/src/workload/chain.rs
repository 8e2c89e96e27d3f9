//! W3: one task whose steps wait for one another in a line: a call has one step, whatever its batch.
use super::{Workload, one_task};
use crate::Result;
use crate::lab::Lab;
use crate::options::Options;
use crate::report::Report;
use crate::shape::Shape;

pub const WORKLOAD: Workload =
    Workload { name: "w3", about: "one linear chain of 100 and 1 000 steps (--sizes up to 10000)", run };

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    for steps in options.sizes_or(if options.full { &[100, 1000, 10_000] } else { &[100, 1000] }) {
        one_task(lab, report, options, "w3", &Shape::chain(steps), 1)?;
    }
    Ok(())
}

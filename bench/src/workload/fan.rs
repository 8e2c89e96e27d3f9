//! W2: one task that fans out to all of its steps but two, and joins them.
use super::{Workload, one_task};
use crate::Result;
use crate::lab::Lab;
use crate::options::Options;
use crate::report::Report;
use crate::shape::Shape;

pub const WORKLOAD: Workload =
    Workload { name: "w2", about: "fan-out and join in one task of 100 and 1 000 steps (--sizes up to 100000)", run };

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    for steps in options.sizes_or(if options.full { &[100, 1000, 10_000, 100_000] } else { &[100, 1000] }) {
        for batch in options.batches_or(&[100]) {
            one_task(lab, report, options, "w2", &Shape::fan(steps), batch)?;
        }
    }
    Ok(())
}

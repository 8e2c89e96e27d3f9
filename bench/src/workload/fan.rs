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
    for steps in options.sizes_or(&[100, 1000]) {
        for batch in options.batches_or(&[100]) {
            one_task(lab, report, "w2", &Shape::fan(steps), batch, options.rounds_or(3))?;
        }
    }
    Ok(())
}

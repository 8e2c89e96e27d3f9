//! W11: results of other sizes.
use super::{Workload, in_turn, ladder};
use crate::Result;
use crate::drain;
use crate::lab::Lab;
use crate::options::Options;
use crate::report::{Case, Report};
use crate::shape::Shape;

pub const WORKLOAD: Workload = Workload {
    name: "w11",
    about: "ladder of ten steps with results of 100 B, 2 kB and 100 kB, 10 per call (--sizes)",
    run,
};

fn run(lab: &mut Lab, options: &Options, report: &mut Report) -> Result<()> {
    let contenders: Vec<_> = ladder::MAIN.iter().filter(|it| options.wants_contender(it.name)).collect();
    let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
    for bytes in options.sizes_or(&[100, 2000, 100_000]) {
        let tasks = options.tasks.unwrap_or(if bytes > 10_000 { 20 } else { 300 });
        let result = of_size(bytes);
        for batch in options.batches_or(&[10]) {
            let rounds = options.rounds_or(3);
            let samples = in_turn(rounds, &contenders, |it| {
                drain::run_with(lab, it.system, it.settings, &Shape::ladder10(), tasks, batch, result)
            })?;
            let title = format!(
                "ladder10, results of {bytes} B, batch {batch}, synchronous_commit=off; {tasks} tasks, {rounds} rounds"
            );
            report.add(Case::of("w11", title, "step", &names, &[ladder::FLOOR, ladder::PINNED], &samples));
        }
    }
    Ok(())
}

/// A JSON object of about so many bytes that hardly compress. It lasts as long as the program.
fn of_size(bytes: usize) -> &'static str {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut text = String::from("{\"ok\":true,\"value\":\"");
    while text.len() < bytes.saturating_sub(2) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push(char::from(b'!' + (state % 90) as u8).to_ascii_lowercase());
        if text.ends_with(['"', '\\']) {
            text.pop();
        }
    }
    text.push_str("\"}");
    String::leak(text)
}

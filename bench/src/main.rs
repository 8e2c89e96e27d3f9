//! Measures pg_stepwise beside a floor of hand-written SQL, in turn, in one run. See bench/README.md.
mod cpu;
mod crowd;
mod drain;
mod lab;
mod machine;
mod meter;
mod options;
mod report;
mod shape;
mod spread;
mod statements;
mod wire;
mod worker;
mod workload;

use std::process::ExitCode;

/// Nothing here recovers from an error: whatever happens ends the run with its message.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let options = match options::Options::from_arguments(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{}", options::help());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error}\n\n{}", options::help());
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", lab::explain(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

/// Whether every bound that was to be asserted holds.
fn run(options: &options::Options) -> Result<bool> {
    let mut lab = lab::Lab::open()?;
    let mut report = report::Report::begin(machine::describe(&mut lab, options)?);
    for workload in workload::ALL.iter().filter(|workload| options.wants(workload.name)) {
        (workload.run)(&mut lab, options, &mut report)?;
    }
    let holds = report.finish(options.json.as_deref())?;
    Ok(holds || !options.assert)
}

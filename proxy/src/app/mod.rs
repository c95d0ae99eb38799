//! The program: puts the parts together, follows its signals, and takes the parts apart again.
//!
//! Begin at [`main`].

pub mod cli;
mod files;
mod logging;
mod number;
mod place;
mod run;
mod signals;

use std::process::ExitCode;

use clap::Parser;
use crds::Fault;

use cli::Cli;

/// What the program was told is wrong: arguments or manifest.
const BAD_INPUT: u8 = 2;

/// Reads the arguments, runs, and says how it went: 0 done, 1 cannot run, 2 bad arguments or a bad manifest.
pub fn main() -> ExitCode {
    let cli = Cli::parse(); // ends the program itself, with 2 for bad arguments
    if cli.check {
        return check(&cli);
    }
    logging::start(cli.log_format);
    match run::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(run::StartError::Manifest(faults)) => bad_manifest(&faults),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "Cannot run");
            ExitCode::FAILURE
        }
    }
}

/// Everything that would be found at the start, and nothing is opened.
fn check(cli: &Cli) -> ExitCode {
    let Some(config) = &cli.config else {
        eprintln!("--check needs --config: in a cluster the API checks what is applied");
        return ExitCode::from(BAD_INPUT);
    };
    match run::faults(config, cli.pool.as_deref()) {
        Ok(warnings) => {
            for warning in warnings {
                eprintln!("warning: {warning}");
            }
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(faults) => bad_manifest(&faults),
    }
}

fn bad_manifest(faults: &[Fault]) -> ExitCode {
    for fault in faults {
        eprintln!("{fault}");
    }
    ExitCode::from(BAD_INPUT)
}

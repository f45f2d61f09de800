//! The command line: one file per verb in `cli/`, and the exit codes.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}

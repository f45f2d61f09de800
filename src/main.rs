//! The command line: one file per verb in `cli/`, and the exit codes. The nginx importer is a
//! separate part, `import/`.

mod cli;
mod import;
mod page;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}

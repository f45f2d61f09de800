//! The command line: one file per verb in `cli/`, and the exit codes. The nginx importer is a
//! separate part, `import/`.

mod cli;
mod import;
mod output_file;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}

//! The chapters of `sidegate --help` below the verbs: exit codes, signals and files.
//!
//! docs/operations.md has the same as tables; a test compares them with this module.

use crate::cli::exit::Exit;
use crate::cli::run;

/// The files that Sidegate reads or creates, each with its meaning.
const FILES: [(&str, &str); 7] = [
    ("/etc/sidegate/sidegate.toml", "what the operator says; --config names another"),
    ("policies/NAME.toml", "beside it: who may, one policy each"),
    ("policies/lists/NAME.cidr", "networks that a policy names, one on each line"),
    ("[[certificate]] chain, key", "PEM files, readable for the service's group and nobody else"),
    ("[admin] socket", "made at start, removed at the end: status, reload and drain ask there"),
    ("/run/sidegate, /run/sidegate-NAME", "where that socket is by default, under the units"),
    (
        "/proc/self",
        "read for the process_* metrics, and for where an opened list lies, where it is to be had",
    ),
];

/// The text of all chapters. Lines are indented by two spaces, and two spaces separate a term from
/// its meaning.
pub fn chapters() -> String {
    let exits = Exit::ALL.map(|exit| (exit.code().to_string(), exit.meaning()));
    let signals = run::SIGNALS.map(|(name, meaning)| (name.to_owned(), meaning));
    let files = FILES.map(|(path, meaning)| (path.to_owned(), meaning));
    [chapter("Exit codes", &exits), chapter("Signals of `run`", &signals), chapter("Files", &files)]
        .join("\n")
}

fn chapter(title: &str, rows: &[(String, &str)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines = rows.iter().map(|(name, meaning)| format!("  {name:<width$}  {meaning}\n"));
    std::iter::once(format!("{title}:\n")).chain(lines).collect()
}

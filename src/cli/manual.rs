//! What `sidegate --help` says below the verbs: how commands end, which signals are obeyed, which files matter.
//!
//! docs/operations.md has the same as tables, which a test takes from here.

use crate::cli::exit::Exit;
use crate::cli::run;

/// What is read and made, and by whom it is written.
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

/// The chapters, each line with two spaces before it and two between what is told and its meaning.
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

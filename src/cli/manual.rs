//! The chapters of `sidegate --help` below the verbs: exit codes, signals and files.
//!
//! docs/operations.md has the same as tables; a test compares them with this module.

use crate::cli::exit::Exit;
use crate::cli::run;

/// The files that Sidegate reads or creates, each with its meaning.
const FILES: [(&str, &str); 8] = [
    (
        "/etc/sidegate/sidegate.toml",
        "the operator's configuration; --config or SIDEGATE_CONFIG name another file or directory",
    ),
    ("policies/NAME.toml", "in the same directory: one access policy per file"),
    ("policies/lists/NAME.cidr", "networks that a policy refers to, one per line"),
    ("[[certificate]] chain, key", "PEM files, readable only by the owner and the service's group"),
    (
        "[admin] socket",
        "created at the start and removed at the end; status, reload and drain connect to it",
    ),
    (
        "[process] state",
        "directory for what outlasts a restart: bans.json, crowdsec.json, and published for watch = \"hold\"",
    ),
    ("/run/sidegate, /run/sidegate-NAME", "the default directories of that socket under systemd"),
    (
        "/proc/self",
        "read for the process_* metrics and for the paths of opened lists, if available",
    ),
];

/// The text of all chapters. Lines are indented by two spaces, and two spaces separate a term from
/// its meaning.
pub fn chapters() -> String {
    let exits = Exit::ALL.map(|exit| (exit.code().to_string(), exit.meaning()));
    let signals = run::HANDLED_SIGNALS.map(|(name, meaning)| (name.to_owned(), meaning));
    let files = FILES.map(|(path, meaning)| (path.to_owned(), meaning));
    [chapter("Exit codes", &exits), chapter("Signals of `run`", &signals), chapter("Files", &files)]
        .join("\n")
}

fn chapter(title: &str, rows: &[(String, &str)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines = rows.iter().map(|(name, meaning)| format!("  {name:<width$}  {meaning}\n"));
    std::iter::once(format!("{title}:\n")).chain(lines).collect()
}

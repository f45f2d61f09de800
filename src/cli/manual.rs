//! The chapters of `sidegate --help` below the verbs: exit codes, signals, files and
//! environment variables.
//!
//! docs/operations.md has the same as tables; a test compares them with this module.

use crate::cli::config_arg;
use crate::cli::exit::Exit;
use crate::cli::run;
use sidegate::data::http::head::HeadReader;
use sidegate::handover::taker;

/// The environment variables that Sidegate reads, each with its meaning.
pub const ENVIRONMENT: [(&str, &str); 10] = [
    (config_arg::VARIABLE, "the configuration file or directory, if --config does not name one"),
    ("SIDEGATE_LOG", "run, demo: the filter of the log, like info or info,sidegate::data=debug"),
    (HeadReader::VARIABLE, "run: `hyper` lets hyper read every request head"),
    ("NO_COLOR", "unless empty, messages, screens and the log have no colours"),
    ("TERM", "top: the terminal; `dumb` makes it print one screen as plain text"),
    (
        "RUNTIME_DIRECTORY, STATE_DIRECTORY, CREDENTIALS_DIRECTORY",
        "run: the service's directories of sockets, state and secrets, which systemd sets",
    ),
    ("XDG_RUNTIME_DIR, XDG_STATE_HOME", "directories of sockets and state of an ordinary user"),
    ("LISTEN_FDS, LISTEN_FDNAMES", "run: sockets that systemd passes"),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "run: where systemd expects reports, and how often"),
    (taker::VARIABLE, "run: set by `upgrade` alone; standard input is then the former process"),
];

/// The files that Sidegate reads or creates, each with its meaning.
pub const FILES: [(&str, &str); 8] = [
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
    let variables = ENVIRONMENT.map(|(name, meaning)| (name.to_owned(), meaning));
    let chapters = [
        chapter("Exit codes", &exits),
        chapter("Signals of `run`", &signals),
        chapter("Files", &files),
        chapter("Environment", &variables),
    ];
    chapters.join("\n")
}

fn chapter(title: &str, rows: &[(String, &str)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines = rows.iter().map(|(name, meaning)| format!("  {name:<width$}  {meaning}\n"));
    std::iter::once(format!("{title}:\n")).chain(lines).collect()
}

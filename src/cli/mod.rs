//! The verbs of the command line, one file each.

mod ask;
#[cfg(test)]
mod believing;
mod certificate;
mod check;
mod configuration;
mod demo;
mod diff;
mod drain;
mod exit;
mod explain;
mod import;
mod init;
mod manual;
mod output;
mod pages;
mod promote;
mod reload;
mod run;
mod schema;
mod status;
mod trust;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A WebSocket sidecar: terminates TLS, decides who may open a WebSocket, relays to a local backend.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = manual::chapters())]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve what the configuration says, until SIGTERM; SIGHUP reloads.
    Run(run::Run),
    /// Show it working: an own certificate, an echo backend, a page to open.
    Demo(demo::Demo),
    /// Write a configuration to begin with.
    Init(init::Init),
    /// Make a configuration of nginx' one, and say what became of each of its lines.
    Import(import::Import),
    /// Say everything that is wrong with a configuration.
    Check(check::Check),
    /// Say why a client is admitted or refused, down to the line of the list.
    Explain(explain::Explain),
    /// Say what the files would change of what runs, and which tunnels that would close.
    Diff(diff::Diff),
    /// Put a policy's candidate in its place, after all gates.
    Promote(promote::Promote),
    /// Print the JSON Schema of the files, for editors.
    Schema(schema::Schema),
    /// Make the running agent read its files now.
    Reload(reload::Reload),
    /// Say how the running agent stands: what runs since when, tunnels, rates, certificates, lists, warnings.
    Status(status::Status),
    /// Make the running agent stop accepting, let its tunnels end, and end.
    Drain(drain::Drain),
}

/// Parses the arguments and runs the verb; clap itself ends with 2 on wrong usage.
pub fn main() -> ExitCode {
    let exit = match Cli::parse().verb {
        Verb::Run(verb) => run::run(&verb),
        Verb::Demo(verb) => demo::demo(&verb),
        Verb::Init(verb) => init::init(&verb),
        Verb::Import(verb) => import::import(&verb),
        Verb::Check(verb) => check::check(&verb),
        Verb::Explain(verb) => explain::explain(&verb),
        Verb::Diff(verb) => diff::diff(&verb),
        Verb::Promote(verb) => promote::promote(&verb),
        Verb::Schema(verb) => schema::schema(&verb),
        Verb::Reload(verb) => reload::reload(&verb),
        Verb::Status(verb) => status::status(&verb),
        Verb::Drain(verb) => drain::drain(&verb),
    };
    exit.into()
}

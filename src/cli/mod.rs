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

/// A WebSocket sidecar: terminates TLS, decides which clients may open a WebSocket, and relays to a
/// local backend.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = manual::chapters())]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the agent until SIGTERM; SIGHUP reloads the configuration.
    Run(run::Run),
    /// Run a demo with a generated certificate, an echo backend and a web page.
    Demo(demo::Demo),
    /// Write a commented starter configuration.
    Init(init::Init),
    /// Translate an nginx configuration, and report the result for each of its lines.
    Import(import::Import),
    /// Report all errors and warnings of a configuration, and run its tests.
    Check(check::Check),
    /// Explain why a client is admitted or refused, down to the line of the list.
    Explain(explain::Explain),
    /// Compare the files with the running configuration, and list the tunnels that a reload would
    /// close.
    Diff(diff::Diff),
    /// Promote a candidate policy once every check passes.
    Promote(promote::Promote),
    /// Print the JSON Schema of the configuration files, for editors.
    Schema(schema::Schema),
    /// Make the running agent reload its files now.
    Reload(reload::Reload),
    /// Show the running agent's state: generation, tunnels, rates, certificates, lists and
    /// warnings.
    Status(status::Status),
    /// Drain the running agent: stop accepting, close the tunnels, then exit.
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

//! The verbs of the command line, one file each.

mod admin_client;
#[cfg(test)]
mod answer_mutations;
mod apply;
mod ban;
mod bans;
mod certificate;
mod check;
mod close;
mod config_arg;
mod demo;
mod diff;
mod drain;
mod duration_arg;
mod examples;
mod exit;
mod explain;
mod explain_request;
mod host_args;
mod import;
mod init;
mod lapsing;
mod list;
mod live_files;
mod log_level;
mod manual;
#[cfg(test)]
mod manual_pages;
mod output;
mod output_files;
mod pending_files;
mod promote;
mod refused;
mod reload;
mod run;
mod schema;
mod siblings;
mod staged;
mod status;
mod top;
mod trust;
mod tunnel_args;
mod tunnels;
mod unban;
mod upgrade;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// A WebSocket sidecar: terminates TLS, decides which clients may open a WebSocket, and relays to a
/// local backend.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = manual::chapters())]
struct Cli {
    #[command(subcommand)]
    verb: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent until SIGTERM; SIGHUP reloads the configuration.
    Run(run::RunArgs),
    /// Run a demo with a generated certificate, an echo backend and a web page.
    Demo(demo::DemoArgs),
    /// Write a commented starter configuration.
    Init(init::InitArgs),
    /// Translate an nginx configuration, and report the result for each of its lines.
    Import(import::ImportArgs),
    /// Write a list of networks from a database.
    List(list::ListArgs),
    /// Report all errors and warnings of a configuration, and run its tests.
    Check(check::CheckArgs),
    /// Explain why a client is admitted or refused, down to the line of the list.
    Explain(explain::ExplainArgs),
    /// Compare the files with the running configuration, and list the tunnels that a reload would
    /// close.
    Diff(diff::DiffArgs),
    /// Replace the configuration by a checked copy: all of its files, or none.
    Apply(apply::ApplyArgs),
    /// Promote a candidate policy once every check passes.
    Promote(promote::PromoteArgs),
    /// Print the JSON Schema of the configuration files, for editors.
    Schema(schema::SchemaArgs),
    /// Make the running agent reload its files now.
    Reload(reload::ReloadArgs),
    /// Show the running agent's state: generation, tunnels, rates, certificates, lists and
    /// warnings.
    Status(status::StatusArgs),
    /// Watch rates, tunnels, clients and refusals of the running agent as they change.
    Top(top::TopArgs),
    /// Show or set the filter of the running agent's log.
    LogLevel(log_level::LogLevelArgs),
    /// Ban a client for a while: it is refused, and its open tunnels are closed.
    Ban(ban::BanArgs),
    /// Lift a ban before it expires.
    Unban(unban::UnbanArgs),
    /// List the bans in force.
    Bans(bans::BansArgs),
    /// Show which clients the running agent refused most, for which reasons, and by which rules.
    Refused(refused::RefusedArgs),
    /// List the open tunnels and exchanges of the running agent, by filter.
    Tunnels(tunnels::TunnelsArgs),
    /// Close tunnels and exchanges of the running agent, by filter; --dry-run counts them first.
    Close(close::CloseArgs),
    /// List the entries of lists that lapse soon, with owner and ticket.
    Lapsing(lapsing::LapsingArgs),
    /// Hand over to a new process, such as that of a new version, without closing a connection.
    Upgrade(upgrade::UpgradeArgs),
    /// Drain the running agent: stop accepting, close the tunnels, then exit.
    Drain(drain::DrainArgs),
}

/// The command line with all of its help.
fn command() -> clap::Command {
    examples::add_to(Cli::command())
}

/// Parses the arguments and runs the verb; clap itself ends with 2 on wrong usage.
pub fn main() -> ExitCode {
    let cli = Cli::from_arg_matches(&command().get_matches())
        .unwrap_or_else(|error| error.format(&mut command()).exit());
    let exit = match cli.verb {
        Command::Run(verb) => run::run(&verb),
        Command::Demo(verb) => demo::demo(&verb),
        Command::Init(verb) => init::init(&verb),
        Command::Import(verb) => import::import(&verb),
        Command::List(verb) => list::list(&verb),
        Command::Check(verb) => check::check(&verb),
        Command::Explain(verb) => explain::explain(&verb),
        Command::Diff(verb) => diff::diff(&verb),
        Command::Apply(verb) => apply::apply(&verb),
        Command::Promote(verb) => promote::promote(&verb),
        Command::Schema(verb) => schema::schema(&verb),
        Command::Reload(verb) => reload::reload(&verb),
        Command::Status(verb) => status::status(&verb),
        Command::Top(verb) => top::top(&verb),
        Command::LogLevel(verb) => log_level::log_level(&verb),
        Command::Ban(verb) => ban::ban(&verb),
        Command::Unban(verb) => unban::unban(&verb),
        Command::Bans(verb) => bans::bans(&verb),
        Command::Refused(verb) => refused::refused(&verb),
        Command::Tunnels(verb) => tunnels::tunnels(&verb),
        Command::Close(verb) => close::close(&verb),
        Command::Lapsing(verb) => lapsing::lapsing(&verb),
        Command::Upgrade(verb) => upgrade::upgrade(&verb),
        Command::Drain(verb) => drain::drain(&verb),
    };
    output::exit_of(exit).into()
}

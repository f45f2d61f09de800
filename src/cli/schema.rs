//! `sidegate schema`: the JSON Schema of the files, for completion and checks in editors.

use crate::cli::exit::Exit;
use crate::cli::output::say;
use sidegate::admin::wire;
use sidegate::control::config::schema;

/// The arguments.
#[derive(clap::Args)]
pub struct Schema {
    /// Which schema to print; without it, one schema for `sidegate.toml` and policies.
    #[arg(value_enum, value_name = "FILE")]
    kind: Option<Kind>,
}

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// `sidegate.toml`
    Config,
    /// `policies/NAME.toml`, `NAME.shadow.toml` and `baseline.toml`
    Policy,
    /// The answers of the admin socket
    Admin,
}

/// Prints the schema of the named kind, or the common one of both kinds of files.
pub fn schema(verb: &Schema) -> Exit {
    match verb.kind {
        Some(Kind::Config) => say(schema::CONFIG.trim_end()),
        Some(Kind::Policy) => say(schema::POLICY.trim_end()),
        Some(Kind::Admin) => say(wire::JSON_SCHEMA.trim_end()),
        None => say(format_args!("{:#}", schema::both())),
    }
    Exit::Yes
}

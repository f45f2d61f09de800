//! `sidegate schema`: the JSON Schema of the files, for completion and checks in editors.

use crate::cli::exit::Exit;
use crate::cli::output::print;
use sidegate::admin::wire;
use sidegate::control::config::schema;

/// Arguments of `sidegate schema`.
#[derive(clap::Args)]
pub struct SchemaArgs {
    /// Which schema to print; without it, one schema for `sidegate.toml` and policies.
    #[arg(value_enum, value_name = "FILE")]
    kind: Option<SchemaKind>,
}

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SchemaKind {
    /// `sidegate.toml`
    Config,
    /// `policies/NAME.toml`, `NAME.shadow.toml` and `baseline.toml`
    Policy,
    /// The answers of the admin socket
    Admin,
}

/// Prints the schema of the named kind, or the common one of both kinds of files.
pub fn schema(verb: &SchemaArgs) -> Exit {
    match verb.kind {
        Some(SchemaKind::Config) => print(schema::CONFIG.trim_end()),
        Some(SchemaKind::Policy) => print(schema::POLICY.trim_end()),
        Some(SchemaKind::Admin) => print(wire::JSON_SCHEMA.trim_end()),
        None => print(format_args!("{:#}", schema::both())),
    }
    Exit::Success
}

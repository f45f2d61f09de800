//! `--config`, which most verbs take.

use std::path::PathBuf;

/// Path of the configuration.
#[derive(clap::Args)]
pub struct ConfigArg {
    /// The path of the configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/sidegate/sidegate.toml")]
    pub config: PathBuf,
}

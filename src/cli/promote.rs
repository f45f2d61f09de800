//! `sidegate promote NAME`: a candidate takes its policy's place, after the gates that a reload has.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use http::Method;

use crate::cli::{Config, Exit, ask, complain, complain_whole, diff, reload, say, show};
use sidegate::control::compile;

/// The agent reads all of its files for it.
const PATIENCE: Duration = Duration::from_secs(70);

/// The arguments.
#[derive(clap::Args)]
pub struct Promote {
    #[command(flatten)]
    config: Config,
    /// The policy whose candidate, policies/NAME.shadow.toml, becomes policies/NAME.toml.
    #[arg(value_name = "NAME")]
    name: String,
    /// Also where that closes more tunnels than `[reload] max_revoked` admits.
    #[arg(long)]
    accept_revocations: bool,
}

/// Promotes; 1 where a gate is closed, and then no file is touched.
pub fn promote(verb: &Promote) -> Exit {
    let (config, name) = (&verb.config.config, &*verb.name);
    if let Err(errors) = compile::promoted(config, name) {
        show(&errors);
        complain(format_args!("{name} is not promoted: as a policy its candidate would be rejected"));
        return Exit::No;
    }
    let runs = match ask::ask(config, &Method::POST, &ask::target("/v1/diff", &[("promote", name)]), PATIENCE) {
        Ok(told) => {
            diff::tell(&told);
            if told["outcome"] == "rejected" || (is_held(&told) && !verb.accept_revocations) {
                complain(format_args!("{name} is not promoted"));
                return Exit::No;
            }
            true
        }
        Err(what) => {
            complain_whole(&format!("no agent was asked whom it would cut off: {what}"));
            false
        }
    };
    if let Err(error) = rename(config, name) {
        complain(format_args!("{name} is not promoted: {error}"));
        return Exit::No;
    }
    say(format_args!("promoted: policies/{name}.shadow.toml is policies/{name}.toml now"));
    if !runs {
        return Exit::Yes;
    }
    let accepted: &[_] = if verb.accept_revocations { &[("accept_revocations", "true")] } else { &[] };
    match ask::ask(config, &Method::POST, &ask::target("/v1/reload", accepted), PATIENCE) {
        Ok(told) => reload::tell(&told),
        Err(what) => {
            complain(what);
            Exit::No
        }
    }
}

fn is_held(told: &serde_json::Value) -> bool {
    told["held"].as_array().is_some_and(|held| !held.is_empty())
}

/// In one step: whoever looks sees the old policy or the new one, and never none.
fn rename(config: &Path, name: &str) -> std::io::Result<()> {
    let folder = config.parent().unwrap_or(Path::new("")).join("policies");
    fs::rename(folder.join(format!("{name}.shadow.toml")), folder.join(format!("{name}.toml")))?;
    // So that it is still so after a power cut.
    File::open(&folder)?.sync_all()
}

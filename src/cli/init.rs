//! `sidegate init`: a configuration to begin with, commented, that runs as it is.
//!
//! It writes all of its files or none, and never over a file that is there.

use std::path::PathBuf;

use crate::cli::certificate::self_signed;
use crate::cli::pages::{self, Page};
use crate::cli::{Exit, complain, quoted, say};
use sidegate::control::config::{self, schema};

const CONFIG: &str = include_str!("init/sidegate.toml");
const POLICY: &str = include_str!("init/main.toml");
const LIST: &str = include_str!("init/office.cidr");

/// For how long the certificate is valid: as long as any client accepts (Apple's: 825 days).
const DAYS: i32 = 820;

/// The arguments.
#[derive(clap::Args)]
pub struct Init {
    /// The server behind: http://HOST:PORT on this machine, https://HOST:PORT, or unix:/PATH.
    #[arg(long, value_name = "URL", value_parser = config::backend)]
    backend: String,
    /// Where to write; made if it isn't there.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

/// Writes a configuration.
pub fn init(verb: &Init) -> Exit {
    let pages = match made(verb) {
        Ok(pages) => pages,
        Err(error) => return fail(format_args!("no certificate: {error}")),
    };
    if pages::write(&pages, "--dir").is_none() {
        return Exit::No;
    }
    say(next(verb, &pages));
    Exit::Yes
}

fn made(verb: &Init) -> Result<Vec<Page>, rcgen::Error> {
    let pair = self_signed("Sidegate development", DAYS)?;
    let backend = toml::Value::from(verb.backend.as_str()).to_string();
    let page = |path: &str, text: String, mode| Page { path: verb.dir.join(path), text, mode };
    Ok(vec![
        page("sidegate.toml", CONFIG.replace("{backend}", &backend), 0o644),
        page("policies/main.toml", POLICY.into(), 0o644),
        page("policies/lists/office.cidr", LIST.into(), 0o644),
        // Where the files' first lines say.
        page(".schema/config.json", schema::CONFIG.into(), 0o644),
        page(".schema/policy.json", schema::POLICY.into(), 0o644),
        page("certs/dev.pem", pair.chain, 0o644),
        page("certs/dev.key", pair.key, 0o600),
    ])
}

fn fail(what: impl std::fmt::Display) -> Exit {
    complain(what);
    Exit::No
}

/// What was written, and what to do with it.
fn next(verb: &Init, pages: &[Page]) -> String {
    let at = |path: &str| quoted(&verb.dir.join(path));
    let files: String = pages.iter().map(|page| format!("  {}\n", page.path.display())).collect();
    let (config, certificate) = (at("sidegate.toml"), at("certs/dev.pem"));
    format!(
        "\
Written:
{files}
Next, with your backend running at {backend}:

  sidegate check --config {config}
  sidegate run --config {config}
  curl --cacert {certificate} https://localhost:8443/     # 426: alive, and only WebSockets are served
  SSL_CERT_FILE={certificate} python3 -m websockets wss://localhost:8443/

It listens on this machine only and admits only this machine: see `listen` in sidegate.toml, and policies/lists/office.cidr.
The certificate is for development: it vouches for itself.",
        backend = verb.backend,
    )
}

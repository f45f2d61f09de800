//! `--off-host` and `--root`: checking a configuration away from the serving host.

use std::path::{Path, PathBuf};

use sidegate::control::config::LoadOptions;
use sidegate::control::config::diagnostic::Diagnostic;
use sidegate::control::config::placeholder_ids;

/// Facts about the host that files are checked on.
#[derive(clap::Args, Default)]
pub struct HostArgs {
    /// Check away from the serving host, as in CI: private keys are not read, and certificates,
    /// users and groups that this host lacks are named and not checked.
    #[arg(long)]
    off_host: bool,
    /// Look for absolute paths in the files, and for /etc/sidegate/sidegate.toml, below this
    /// directory, like a checkout with etc/ in it.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

impl HostArgs {
    /// The same for a pass over the files.
    pub fn options(&self) -> LoadOptions<'_> {
        if self.off_host {
            placeholder_ids::enable();
        }
        LoadOptions { off_host: self.off_host, root: self.root(), ..LoadOptions::default() }
    }

    /// The directory of absolute paths. `None` means `/`.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Notes on the users and groups that the files of `config` name and this host lacks.
    pub fn notes(&self, config: &Path) -> Vec<Diagnostic> {
        if self.off_host { placeholder_ids::notes(config) } else { Vec::new() }
    }
}

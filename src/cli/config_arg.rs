//! `--config`, which most verbs take, and `SIDEGATE_CONFIG`, which replaces its default.

use std::env;
use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser as _};

/// Environment variable that replaces the default of `--config`. Empty, it counts as unset.
pub const VARIABLE: &str = "SIDEGATE_CONFIG";

const DEFAULT: &str = "/etc/sidegate/sidegate.toml";
const FILE_NAME: &str = "sidegate.toml";

/// Path of the configuration.
#[derive(clap::Args)]
pub struct ConfigArg {
    /// The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG,
    /// else /etc/sidegate/sidegate.toml.
    // The help must not change with the environment, so it does not show the computed default.
    #[arg(
        long,
        value_name = "PATH",
        value_parser = PathBufValueParser::new().map(file_of),
        default_value_os_t = default_path(),
        hide_default_value = true
    )]
    pub config: PathBuf,
}

impl ConfigArg {
    /// The path, with the default in `/etc` below `root`. `None` means `/`.
    pub fn below(&self, root: Option<&Path>) -> PathBuf {
        let root = root.filter(|_| self.config == Path::new(DEFAULT));
        root.map_or_else(|| self.config.clone(), |root| root.join(DEFAULT.trim_start_matches('/')))
    }
}

fn default_path() -> PathBuf {
    let set = env::var_os(VARIABLE).filter(|path| !path.is_empty());
    set.map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from)
}

/// The configuration file that `path` means: a directory means the `sidegate.toml` in it.
fn file_of(path: PathBuf) -> PathBuf {
    if path.is_dir() { path.join(FILE_NAME) } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_means_the_sidegate_toml_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sidegate.toml");
        assert_eq!(file_of(folder.path().to_owned()), file);
        assert_eq!(file_of(file.clone()), file, "a file that doesn't exist stays what it is");
        std::fs::write(&file, "").unwrap();
        assert_eq!(file_of(file.clone()), file);
    }
}

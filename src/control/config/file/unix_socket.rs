//! `listen = "unix:…"` of a `[[listener]]`: its path, and who may connect to it.

use std::path::Path;
use std::sync::Arc;

use crate::control::config::document::{TomlTable, TomlValue};
use crate::control::config::keys::sidegate::listener as keys;
use crate::control::config::socket_paths::check_length;
use crate::control::config::source_text::{Finding, error};
use crate::control::config::users;
use crate::snapshot::listener::{FileGroup, UnixAddress};

/// Prefix of the path of a Unix socket.
pub const UNIX_PREFIX: &str = "unix:";

/// `mode` and `group`, which only a Unix socket has.
pub struct AccessKeys<'d> {
    mode: Option<TomlValue<'d>>,
    group: Option<TomlValue<'d>>,
}

impl<'d> AccessKeys<'d> {
    /// Takes the keys of `table`.
    pub fn take(table: &mut TomlTable<'d>) -> Self {
        AccessKeys { mode: table.get(&keys::MODE), group: table.get(&keys::GROUP) }
    }

    /// Reports the keys, which a socket without a file has no use for.
    pub fn refuse(&self) {
        for value in [self.mode, self.group].into_iter().flatten() {
            let finding = error("only a socket with a file has permissions");
            value.report(finding.with_remedy("listen = \"unix:/PATH\", or remove the key"));
        }
    }

    /// Reads the keys, and adds them to `path`.
    pub fn address(&self, path: Arc<Path>) -> UnixAddress {
        let mode = self.mode.and_then(|value| value.read(&keys::MODE.kind.form));
        let group = self.group.and_then(|value| {
            let name = value.read(&keys::GROUP.kind.form)??;
            let Some(id) = users::group_id(&name) else {
                let finding = error(format!("this host has no group `{name}`"));
                value.report(finding.with_remedy(
                    "create the group, or write its number, which need not exist here",
                ));
                return None;
            };
            Some(FileGroup { name: name.into(), id })
        });
        UnixAddress { path, mode: mode.unwrap_or_else(|| keys::MODE.default_value()), group }
    }
}

/// Parses the path behind `unix:`.
pub fn path(text: &str) -> Result<Arc<Path>, Finding> {
    if text.starts_with('@') || text.contains('\0') {
        let finding =
            error("an abstract socket has no permissions: every local user could connect");
        return Err(finding.with_remedy("a path, like \"unix:/run/sidegate/public.sock\""));
    }
    if !text.starts_with('/') {
        let finding = error("the path of a listener's socket begins with a slash");
        return Err(finding.with_remedy("like \"unix:/run/sidegate/public.sock\""));
    }
    let path = Path::new(text);
    check_length(path)?;
    // `/run/a/` would be made as the file `/run/a`.
    if path.file_name().is_none() || text.ends_with('/') {
        let finding = error("the path of a directory, which is no socket");
        return Err(finding.with_remedy("add the name of the socket"));
    }
    Ok(path.into())
}

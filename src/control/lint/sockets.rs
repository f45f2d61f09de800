//! Unix sockets that could not be bound on this host, or that other users could replace.
//!
//! The only lints that look at more than the files: `check` may run elsewhere than the agent, so
//! a finding is a warning here, although a start on this host would fail.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::control::config::diagnostic::{Diagnostic, Span};
use crate::control::config::source::Files;
use crate::control::config::{AdminSocket, LoadedConfig, MetricsAddress, PageAddress};
use crate::snapshot::listener::ListenAddress;

/// Folders that systemd makes when the packaged units start, by their beginning.
const MADE_AT_THE_START: &str = "sidegate";

/// Permission of all users to write, and the sticky bit, which keeps files from others.
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Looks at the folder of every Unix socket that `loaded` names.
pub fn unusable(loaded: &LoadedConfig, files: &mut Files) -> Vec<Diagnostic> {
    let settings = &loaded.settings;
    let written = &settings.written;
    let mut sockets: Vec<(PathBuf, Span)> = Vec::new();
    if let Some(MetricsAddress::Unix(path)) = &settings.metrics.listen {
        sockets.push((path.clone(), written.metrics()));
    }
    if let AdminSocket::Path(path) = &settings.admin.socket {
        sockets.push((path.clone(), written.admin()));
    }
    if let Some(PageAddress::Unix(path)) = &settings.admin.page.listen {
        sockets.push((path.clone(), written.page()));
    }
    for listener in &settings.listeners {
        if let ListenAddress::Unix(unix) = &listener.address {
            sockets.push((unix.path.to_path_buf(), written.listener(&listener.name)));
        }
    }
    let remark = |(path, place): (PathBuf, Span)| {
        // A file system that does not answer is no finding about the files.
        let (message, remedy) = files.call(move || look(&path)).ok()??;
        Some(Diagnostic::warning(place, message, remedy.into()))
    };
    sockets.into_iter().filter_map(remark).collect()
}

/// Returns the fault of the place of a socket, and the remedy.
fn look(path: &Path) -> Option<(String, &'static str)> {
    let absolute = std::path::absolute(path).ok()?;
    let folder = absolute.parent()?;
    let shown = folder.display();
    let found = match fs::metadata(folder) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let remedy = "create it before the start, as `RuntimeDirectory=` of a unit does below \
                          /run";
            let missing = format!("the directory {shown} does not exist on this host");
            return (!is_made_at_the_start(folder)).then_some((missing, remedy));
        }
        Err(error) => {
            let remedy = "a directory that the user that runs sidegate can reach";
            return Some((format!("the directory {shown} cannot be reached: {error}"), remedy));
        }
    };
    if !found.is_dir() {
        return Some((format!("{shown} is no directory"), "a socket is a file of a directory"));
    }
    // Without the sticky bit, write permission lets any user unlink the socket and bind another.
    let mode = found.permissions().mode();
    if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
        let what = format!("all users may write to {shown}, and so put a socket of theirs there");
        return Some((what, "a directory that only the user that runs sidegate may write to"));
    }
    // access(2), since the mode alone says nothing of ACLs and read-only mounts.
    if access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let what = format!("this user cannot create a socket in {shown}");
        return Some((what, "the user that runs sidegate needs write permission there"));
    }
    // Links are not followed: bind(2) fails at a symbolic link, wherever it leads.
    let there = fs::symlink_metadata(&absolute).ok()?;
    (!there.file_type().is_socket()).then(|| {
        let what = format!("something other than a socket is at {}", absolute.display());
        (what, "move it, or name another path: a start replaces only dead sockets")
    })
}

/// Whether the packaged units make the folder: `/run/sidegate` and `/run/sidegate-NAME`.
fn is_made_at_the_start(folder: &Path) -> bool {
    let below = ["/run", "/var/run"].iter().find_map(|run| folder.strip_prefix(run).ok());
    let name = below.and_then(|below| below.to_str()).unwrap_or_default();
    let rest = name.strip_prefix(MADE_AT_THE_START);
    rest.is_some_and(|rest| rest.is_empty() || (rest.starts_with('-') && !rest.contains('/')))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[test]
    fn place_that_no_socket_can_have_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink(at("nowhere"), at("link")).unwrap();
        let live = std::os::unix::net::UnixListener::bind(at("live")).unwrap();
        for (name, mode) in [("open", 0o777), ("sticky", 0o1777)] {
            fs::create_dir(at(name)).unwrap();
            fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
        }
        for (path, said) in [
            ("missing/a", Some("does not exist on this host")),
            ("file/a", Some("is no directory")),
            ("file", Some("something other than a socket")),
            ("link", Some("something other than a socket")),
            ("open", Some("something other than a socket")),
            ("open/a", Some("all users may write to")),
            ("sticky/a", None),
            ("live", None),
            ("new", None),
        ] {
            let found = look(&at(path)).map(|(what, _)| what);
            let is_said = match (&found, said) {
                (Some(found), Some(said)) => found.contains(said),
                (found, said) => found.is_none() && said.is_none(),
            };
            assert!(is_said, "{path}: {found:?}");
        }
        drop(live);
    }

    #[test]
    fn folder_of_the_packaged_units_may_be_missing() {
        for (folder, is_made) in [
            ("/run/sidegate", true),
            ("/run/sidegate-edge", true),
            ("/run/sidegates", false),
            ("/run/sidegate/deeper", false),
            ("/run/sidegate-edge/deeper", false),
            ("/srv/sidegate", false),
        ] {
            assert_eq!(is_made_at_the_start(Path::new(folder)), is_made, "{folder}");
        }
    }
}

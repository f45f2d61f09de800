//! The Unix sockets that `sidegate.toml` names, by the files that their paths lead to.
//!
//! Two spellings of one path, or a path through a symbolic link, are one file: the second socket
//! could not be bound, and a backend there would be Sidegate itself.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::control::config::diagnostic::Span;
use crate::control::config::document::TomlValue;
use crate::control::config::source::Files;
use crate::control::config::source_text::{Finding, error};

/// Most bytes of a path: `sun_path` has 108, and the last is a NUL (unix(7)).
const MAX_PATH_BYTES: usize = 107;

/// The sockets that Sidegate binds, as far as they are read.
#[derive(Debug, Default)]
pub struct SocketPaths(HashMap<PathBuf, NamedSocket>);

/// A socket that Sidegate binds, and the place in the file that names it.
#[derive(Debug, Clone)]
struct NamedSocket {
    role: SocketRole,
    written: PathBuf,
    place: Span,
}

/// The purpose of a socket that Sidegate binds.
#[derive(Debug, Clone)]
pub enum SocketRole {
    /// Serves the metrics: `listen` in `[metrics]`.
    Metrics,
    /// Serves the admin API: `socket` in `[admin]`.
    Admin,
    /// Serves the page: `page_listen` in `[admin]`.
    Page,
    /// Accepts for the listener of this name. `None` means that its name is not known.
    Listener(Option<Arc<str>>),
}

impl SocketPaths {
    /// Registers a socket at `path`, and reports that another one has the same file.
    pub fn bind(
        &mut self,
        path: &Path,
        role: SocketRole,
        value: &TomlValue<'_>,
        files: &mut Files,
    ) {
        let file = real_path(path, files);
        let Some(first) = self.0.get(&file) else {
            let place = value.place();
            self.0.insert(file, NamedSocket { role, written: path.to_owned(), place });
            return;
        };
        let shown = path.display();
        let is = match first.written == path {
            true => format!("unix:{shown} is"),
            false => format!("unix:{shown} leads to unix:{},", first.written.display()),
        };
        let (whose, remedy) = match &first.role {
            SocketRole::Metrics => {
                ("[metrics]".to_owned(), "another path here, or another `listen` in [metrics]")
            }
            SocketRole::Admin => {
                ("[admin]".to_owned(), "another path here, or another `socket` in [admin]")
            }
            SocketRole::Page => {
                ("the page".to_owned(), "another path here, or another `page_listen` in [admin]")
            }
            SocketRole::Listener(name) => {
                let name = name.as_deref().unwrap_or("another listener");
                (format!("`{name}`"), "another path for one of the two")
            }
        };
        let finding = error(format!("{is} the address of {whose}")).with_remedy(remedy);
        value.report(finding.with_related(first.place.clone(), "first here"));
    }

    /// Reports a backend that is a listener of this file, or the admin socket.
    pub fn expect_foreign(&self, path: &Path, value: &TomlValue<'_>, files: &mut Files) {
        let Some(own) = self.0.get(&real_path(path, files)) else { return };
        let (what, remedy) = match &own.role {
            // A route may well serve the metrics or the page, under a policy.
            SocketRole::Metrics | SocketRole::Page => return,
            SocketRole::Admin => (
                "the admin socket: every client of the route could command this process".to_owned(),
                "the path of the backend's own socket",
            ),
            SocketRole::Listener(name) => {
                let name = name.as_deref().unwrap_or("another listener");
                (
                    format!("the listener `{name}`: requests would come back here without end"),
                    "the path of the backend's own socket",
                )
            }
        };
        let finding = error(format!("unix:{} is {what}", path.display())).with_remedy(remedy);
        value.report(finding.with_related(own.place.clone(), "bound here"));
    }
}

/// Checks that the kernel takes a path of this length.
pub fn check_length(path: &Path) -> Result<(), Finding> {
    // `run` uses the absolute path, wherever it was started.
    let absolute = std::path::absolute(path);
    let length = absolute.as_deref().unwrap_or(path).as_os_str().len();
    if length > MAX_PATH_BYTES {
        let finding = error(format!("a Unix socket's path has at most {MAX_PATH_BYTES} bytes"));
        return Err(finding.with_remedy("a path in a directory nearer to the root"));
    }
    Ok(())
}

/// The file that `path` leads to. Where the file system has no answer, it is the path without its
/// dots.
fn real_path(path: &Path, files: &mut Files) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let asked = absolute.clone();
    // Through `files`, since `canonicalize` can hang on a network file system that is gone.
    let found = files.call(move || resolved(&asked, &|path| path.canonicalize().ok()));
    found.unwrap_or_else(|_| resolved(&absolute, &|_| None))
}

/// Resolves the deepest folder that `canonical` knows, and joins the rest without its dots.
fn resolved(path: &Path, canonical: &impl Fn(&Path) -> Option<PathBuf>) -> PathBuf {
    if let Some(found) = canonical(path) {
        return found;
    }
    // The socket need not exist before the start, while the folder above it mostly does.
    let Some(parent) = path.parent() else { return path.to_owned() };
    let folder = resolved(parent, canonical);
    match path.components().next_back() {
        Some(Component::Normal(name)) => folder.join(name),
        // As in the kernel, `..` behind a symbolic link is the parent of the link's target.
        Some(Component::ParentDir) => folder.parent().map_or(folder.clone(), Path::to_owned),
        _ => folder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_links_lead_to_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("run")).unwrap();
        std::os::unix::fs::symlink(real.join("run"), real.join("link")).unwrap();
        std::fs::write(real.join("run/there"), "").unwrap();
        std::os::unix::fs::symlink(real.join("run/there"), real.join("other")).unwrap();
        for (path, leads_to) in [
            ("run/a", "run/a"),
            ("link/a", "run/a"),
            ("run/../link/a", "run/a"),
            ("missing/../run/a", "run/a"),
            ("link/missing/../a", "run/a"),
            ("link/missing/a", "run/missing/a"),
            ("other", "run/there"),
        ] {
            let found = real_path(&real.join(path), &mut Files::new());
            assert_eq!(found, real.join(leads_to), "{path}");
        }
        // Without an answer of the file system.
        let lexical = |path: &str| resolved(Path::new(path), &|_| None);
        assert_eq!(lexical("/e/../e/./x"), Path::new("/e/x"));
        assert_eq!(lexical("/../x"), Path::new("/x"));
    }
}

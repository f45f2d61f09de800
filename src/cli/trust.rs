//! Decides whose answers a command trusts: which folders it looks in, and which processes it asks.
//!
//! A socket is trusted only if root, the caller or the owner of the configuration controls its
//! path. This module opens no socket.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::process::{getegid, geteuid};

use sidegate::control::file_trust::others_write;

/// Most symbolic links on the way to a socket, as in Linux.
const MAX_LINKS: usize = 40;

const ROOT_UID: u32 = 0;
const STICKY_BIT: u32 = 0o1000;

/// The users whose agent a command trusts.
#[derive(Debug, Clone)]
pub struct TrustedUsers {
    config: PathBuf,
    /// Root, the caller, and the owner of the configuration if that is known.
    users: Vec<u32>,
    group: u32,
}

/// The path of a socket that a command may connect to.
#[derive(Debug, PartialEq, Eq)]
pub struct SocketSite {
    /// The socket's path, without symbolic links.
    pub path: PathBuf,
    /// The owner of the socket's folder, if only root could have created that folder. `None` means
    /// the folder's owner is trusted anyway.
    ///
    /// systemd makes `/run/sidegate` for the service's user in this way.
    landlord: Option<u32>,
}

/// Why a path is not used.
#[derive(Debug)]
pub enum SocketError {
    /// The path cannot be examined, mostly because it doesn't exist.
    Io(io::Error),
    /// Another user controls the path: a sentence with path, owner and remedy.
    Untrusted(String),
}

impl From<io::Error> for SocketError {
    fn from(error: io::Error) -> SocketError {
        SocketError::Io(error)
    }
}

impl TrustedUsers {
    /// The trusted users for `config`.
    pub fn new(config: &Path) -> TrustedUsers {
        // Follows a link: the owner of the file decides what the agent runs.
        let owner = fs::metadata(config).ok().map(|file| file.uid());
        let users = [ROOT_UID, geteuid().as_raw()].into_iter().chain(owner).collect();
        TrustedUsers { config: config.to_owned(), users, group: getegid().as_raw() }
    }

    /// Follows `path` to a socket, one component at a time, and checks every folder on the way.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn site(&self, path: &Path) -> Result<SocketSite, SocketError> {
        let mut walk = PathWalk::from_root();
        self.enter(&mut walk, path)?;
        let (mut rest, mut links) = (parts(path), 0);
        while let Some(part) = rest.pop_front() {
            if part == ".." {
                // All links before it are resolved, so this is the true parent.
                let parent = walk.at.parent().unwrap_or(Path::new("/")).to_owned();
                rest = parts(&parent).into_iter().chain(rest).collect();
                walk = PathWalk::from_root();
                self.enter(&mut walk, path)?;
                continue;
            }
            let next = walk.at.join(&part);
            let found = fs::symlink_metadata(&next)?;
            if walk.is_shared && !self.trusts(found.uid()) {
                return Err(self.foreign(path, &next, &found));
            }
            if found.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err(io::Error::other("too many symbolic links").into());
                }
                if !self.trusts(found.uid()) && walk.landlord != Some(found.uid()) {
                    return Err(self.foreign(path, &next, &found));
                }
                // A relative target begins at the link's folder; `join` keeps an absolute one.
                let target = walk.at.join(fs::read_link(&next)?);
                rest = parts(&target).into_iter().chain(rest).collect();
                walk = PathWalk::from_root();
                self.enter(&mut walk, path)?;
                continue;
            }
            if rest.is_empty() {
                return self.check_socket(walk, next, path);
            }
            walk.at = next;
            self.enter(&mut walk, path)?;
        }
        Err(io::Error::other("a directory, not a socket").into())
    }

    /// Checks the folder that `walk` has reached, on the way to `path`.
    fn enter(&self, walk: &mut PathWalk, path: &Path) -> Result<(), SocketError> {
        let folder = fs::symlink_metadata(&walk.at)?;
        if !folder.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory).into());
        }
        // An owner of a folder can move away the folders below it.
        if walk.landlord.is_some() {
            let parent = walk.at.parent().unwrap_or(Path::new("/"));
            return Err(self.foreign(path, parent, &fs::symlink_metadata(parent)?));
        }
        if !self.trusts(folder.uid()) {
            if !walk.is_roots {
                return Err(self.foreign(path, &walk.at, &folder));
            }
            // Root alone can have made this folder, for a service's user.
            walk.landlord = Some(folder.uid());
        }
        let is_shared = others_write(&folder, self.group);
        // In a sticky folder other users may add names, but replace only their own.
        if is_shared && folder.mode() & STICKY_BIT == 0 {
            return Err(writable_by_others(path, &walk.at, &folder));
        }
        walk.is_roots &= folder.uid() == ROOT_UID && !is_shared;
        walk.is_shared = is_shared;
        Ok(())
    }

    /// Accepts the socket `at` in the folder that `walk` has reached, unless others may write
    /// there.
    fn check_socket(
        &self,
        walk: PathWalk,
        at: PathBuf,
        path: &Path,
    ) -> Result<SocketSite, SocketError> {
        if walk.is_shared {
            return Err(writable_by_others(path, &walk.at, &fs::symlink_metadata(&walk.at)?));
        }
        Ok(SocketSite { path: at, landlord: walk.landlord })
    }

    /// Checks that `user`, the user of the process that listens at `site`, is trusted.
    ///
    /// The kernel records the user at `listen(2)`. For a socket that systemd passes, that is root.
    ///
    /// # Errors
    /// A sentence with path, owner and remedy.
    pub fn check_peer(&self, site: &SocketSite, user: u32) -> Result<(), String> {
        if self.trusts(user) || site.landlord == Some(user) {
            return Ok(());
        }
        let (path, config) = (site.path.display(), self.config.display());
        let name = DisplayUser(user);
        Err(format!(
            "the process that listens at {path} is not trusted: it runs as {name}, not as root, the \
             caller or the owner of {config}. If it is the agent, run this command as its user \
             (sudo -u), or make that user the owner of the configuration (chown)"
        ))
    }

    fn trusts(&self, user: u32) -> bool {
        self.users.contains(&user)
    }

    fn foreign(&self, path: &Path, at: &Path, found: &Metadata) -> SocketError {
        let (path, at, config) = (path.display(), at.display(), self.config.display());
        let owner = DisplayUser(found.uid());
        SocketError::Untrusted(format!(
            "{path} is not trusted: {at} belongs to {owner}, not to root, the caller or the owner of \
             {config}. Remove it, or set [admin] socket to a path in a directory of your own"
        ))
    }
}

/// The refusal of a folder on the way to `path` in which other users may write.
fn writable_by_others(path: &Path, at: &Path, folder: &Metadata) -> SocketError {
    let (path, at, owner) = (path.display(), at.display(), DisplayUser(folder.uid()));
    let mode = folder.mode() & 0o7777;
    SocketError::Untrusted(format!(
        "{path} is not trusted: other users may write to {at} ({owner}, mode {mode:04o}). Remove \
         that permission (chmod go-w), or set [admin] socket to a path in a directory of your own"
    ))
}

/// The folder that has been reached on a path, and who may change it.
struct PathWalk {
    /// The folder's path, without symbolic links.
    at: PathBuf,
    /// The folder's owner, if untrusted and if only root could have created the folder.
    landlord: Option<u32>,
    /// Whether only root may write in this folder and in all above it.
    is_roots: bool,
    /// Whether other users may write in this folder, which is then sticky.
    is_shared: bool,
}

impl PathWalk {
    /// The walk at its start: the root folder.
    fn from_root() -> PathWalk {
        PathWalk { at: PathBuf::from("/"), landlord: None, is_roots: true, is_shared: false }
    }
}

/// The components of an absolute path below the root.
fn parts(path: &Path) -> VecDeque<OsString> {
    let kept =
        path.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir));
    kept.map(|part| part.as_os_str().to_owned()).collect()
}

/// A user, shown with the name from /etc/passwd if it has one.
struct DisplayUser(u32);

impl fmt::Display for DisplayUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let own = self.0.to_string();
        let line = users.lines().find(|line| line.split(':').nth(2) == Some(&own));
        match line.and_then(|line| line.split(':').next()) {
            Some(name) => write!(f, "`{name}` (uid {own})"),
            None => write!(f, "uid {own}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    const STRANGER: u32 = 65_534;

    fn trust(folder: &Path) -> TrustedUsers {
        TrustedUsers::new(&folder.join("sidegate.toml"))
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// The sentence that refuses the socket at `path`; `None` means it is trusted.
    fn said(trust: &TrustedUsers, path: &Path) -> String {
        match trust.site(path) {
            Ok(_) => String::new(),
            Err(SocketError::Untrusted(sentence)) => sentence,
            Err(SocketError::Io(error)) => panic!("{error}"),
        }
    }

    /// Creates a folder of our own with a file in place of a socket.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        fs::write(&socket, "").unwrap();
        (folder, socket)
    }

    #[test]
    fn socket_in_an_own_folder_is_accepted() {
        let (folder, socket) = folder();
        assert_eq!(said(&trust(folder.path()), &socket), "");
        let through = folder.path().join("x/../admin.sock");
        fs::create_dir(folder.path().join("x")).unwrap();
        assert_eq!(
            trust(folder.path()).site(&through).unwrap().path,
            socket.canonicalize().unwrap()
        );
    }

    #[test]
    fn folder_writable_by_others_is_refused_with_or_without_sticky() {
        let (folder, socket) = folder();
        for mode in [0o777, 0o1777, 0o702] {
            chmod(folder.path(), mode);
            let said = said(&trust(folder.path()), &socket);
            assert!(
                said.contains("other users may write") && said.contains("chmod go-w"),
                "{said}"
            );
            assert!(said.contains(&format!("mode {mode:04o}")), "{said}");
        }
    }

    #[test]
    fn own_folder_in_a_shared_one_needs_the_sticky_bit_above() {
        let (folder, _) = folder();
        let own = folder.path().join("own");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("admin.sock"), "").unwrap();
        for (mode, is_refused) in [(0o777, true), (0o1777, false)] {
            chmod(folder.path(), mode);
            let said = said(&trust(folder.path()), &own.join("admin.sock"));
            assert_eq!(!said.is_empty(), is_refused, "{mode:o}: {said}");
        }
    }

    #[test]
    fn links_are_followed_and_each_folder_is_checked() {
        let (folder, socket) = folder();
        let (open, link) = (folder.path().join("open"), folder.path().join("link"));
        fs::create_dir(&open).unwrap();
        symlink("admin.sock", &link).unwrap();
        let trust = trust(folder.path());
        assert_eq!(trust.site(&link).unwrap().path, socket.canonicalize().unwrap());
        symlink(&socket, open.join("link")).unwrap();
        assert_eq!(said(&trust, &open.join("link")), "");
        chmod(&open, 0o777);
        assert!(said(&trust, &open.join("link")).contains("other users may write"));
        symlink("loop", folder.path().join("loop")).unwrap();
        assert!(matches!(trust.site(&folder.path().join("loop")), Err(SocketError::Io(_))));
    }

    #[test]
    fn folder_of_another_user_is_refused() {
        if !geteuid().is_root() {
            return; // Only root can give a folder away.
        }
        let (folder, _) = folder();
        let foreign = folder.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("admin.sock"), "").unwrap();
        chmod(folder.path(), 0o1777);
        chown(&foreign, Some(STRANGER), Some(STRANGER)).unwrap();
        let said = said(&trust(folder.path()), &foreign.join("admin.sock"));
        assert!(said.contains("belongs to") && said.contains("uid 65534"), "{said}");
    }

    #[test]
    fn config_owner_is_trusted() {
        if !geteuid().is_root() {
            return; // Only root can give a file away.
        }
        let (folder, socket) = folder();
        fs::write(folder.path().join("sidegate.toml"), "").unwrap();
        let site = trust(folder.path()).site(&socket).unwrap();
        assert!(trust(folder.path()).check_peer(&site, STRANGER).is_err());
        chown(folder.path().join("sidegate.toml"), Some(STRANGER), None).unwrap();
        trust(folder.path()).check_peer(&site, STRANGER).unwrap();
    }

    #[test]
    fn root_and_caller_are_trusted_and_others_named() {
        let (folder, socket) = folder();
        let trust = trust(folder.path());
        let site = trust.site(&socket).unwrap();
        for user in [0, geteuid().as_raw()] {
            trust.check_peer(&site, user).unwrap();
        }
        let said = trust.check_peer(&site, 4711).unwrap_err();
        for part in ["admin.sock", "uid 4711", "sidegate.toml", "chown"] {
            assert!(said.contains(part), "no {part} in {said}");
        }
    }

    #[test]
    fn folder_owner_is_trusted_below_a_folder_of_root() {
        let site = SocketSite { path: "/run/sidegate/0.sock".into(), landlord: Some(998) };
        let trust = TrustedUsers {
            config: "/etc/sidegate/sidegate.toml".into(),
            users: vec![0, 1000],
            group: 1000,
        };
        trust.check_peer(&site, 998).unwrap();
        trust.check_peer(&site, 999).unwrap_err();
    }
}

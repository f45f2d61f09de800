//! The files of Unix sockets: created where no live socket is, and removed while they are still
//! ours.
//!
//! This module removes only files that it created, dead sockets, and symbolic links in its way.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::sync::lock;

/// A file that this process created; removed on drop.
pub struct SocketFile {
    path: Mutex<PathBuf>,
    /// Device and inode, so that a file that has replaced it is never removed.
    node: (u64, u64),
}

/// The users of this host who may connect to a socket, beside its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketAccess {
    /// Permission bits of the file.
    pub mode: u32,
    /// Group of the file. `None` means that of the process.
    pub group: Option<u32>,
}

/// The files of this process. A rename may replace these alone.
static OWN_NODES: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let made = fs::symlink_metadata(path)?;
        let node = (made.dev(), made.ino());
        lock(&OWN_NODES).insert(node);
        Ok(SocketFile { path: Mutex::new(path.to_owned()), node })
    }

    /// A file that another process of the agent has made, and that stays its own until [`own`].
    ///
    /// # Errors
    /// The file is gone.
    pub fn adopt(path: &Path) -> io::Result<Self> {
        let made = fs::symlink_metadata(path)?;
        Ok(SocketFile { path: Mutex::new(path.to_owned()), node: (made.dev(), made.ino()) })
    }

    /// The path at which the file is now.
    pub fn path(&self) -> PathBuf {
        lock(&self.path).clone()
    }

    /// Renames the file to `path`, replacing a file of this process there atomically.
    ///
    /// # Errors
    /// The folder is missing, or may not be written; or another file has come to `path`.
    pub fn move_to(&self, path: &Path) -> io::Result<()> {
        let mut own = lock(&self.path);
        if *own != path {
            expect_own(path)?;
            fs::rename(&*own, path).map_err(with_remedy)?;
            path.clone_into(&mut own);
        }
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let path = lock(&self.path);
        let ours =
            fs::symlink_metadata(&*path).is_ok_and(|now| (now.dev(), now.ino()) == self.node);
        // First: once the file is gone, another may get its inode.
        let is_owned = lock(&OWN_NODES).remove(&self.node);
        // The file may still be replaced between the check and the removal: no call unlinks an
        // inode.
        if ours && is_owned {
            // The file may be gone by now, with its folder.
            let _ = fs::remove_file(&*path);
        }
    }
}

/// Makes the file at `path` one of this process, which removes it once its socket is dropped.
///
/// # Errors
/// The file is gone.
pub fn own(path: &Path) -> io::Result<()> {
    let there = fs::symlink_metadata(path)?;
    lock(&OWN_NODES).insert((there.dev(), there.ino()));
    Ok(())
}

/// Gives up the file at `path`, which belongs to another process of the agent from here on.
pub fn disown(path: &Path) {
    // A file that is gone, or was replaced, is not ours any more either way.
    if let Ok(there) = fs::symlink_metadata(path) {
        lock(&OWN_NODES).remove(&(there.dev(), there.ino()));
    }
}

/// Binds a listening socket at `path`, with a queue of `backlog` connections. No other user can
/// connect before `access` holds.
///
/// # Errors
/// The path belongs to a live socket or to another kind of file, or cannot be created; or the group
/// is not one of the process.
pub fn bind(
    path: &Path,
    access: SocketAccess,
    backlog: i32,
) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux gives the file the mode of the socket itself, less the umask. The umask belongs to the
    // whole process, so it is not changed here.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?).map_err(with_remedy)?;
    let file = SocketFile::new(path)?;
    // Before `listen`: until then connect(2) fails, whatever the mode.
    set_access(path, access)?;
    socket.set_nonblocking(true)?;
    socket.listen(backlog)?;
    Ok((OwnedFd::from(socket).into(), file))
}

/// Binds a socket that is to take the place of this process' own at `path`, under a temporary name.
///
/// # Errors
/// As for [`bind`]; and another file than this process' own is at `path`.
pub fn bind_aside(
    path: &Path,
    access: SocketAccess,
    backlog: i32,
) -> io::Result<(UnixListener, SocketFile)> {
    expect_own(path)?;
    bind(&free_path(path)?, access, backlog)
}

/// The first temporary name beside `path` that no file has.
fn free_path(path: &Path) -> io::Result<PathBuf> {
    let is_free = |path: &PathBuf| {
        fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    temporary_paths(path).find(is_free).ok_or_else(|| {
        let what = "no temporary name is free beside it: remove files that begin with ~ or a digit";
        io::Error::new(io::ErrorKind::AlreadyExists, what)
    })
}

/// Names that a socket may have until it takes the place of the live one at `path`. They are as
/// long as `path`, since `sun_path` holds only 108 bytes (unix(7)).
fn temporary_paths(path: &Path) -> impl Iterator<Item = PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut rest = name.chars();
    let first = rest.next();
    let marks = "~-+=_0123456789".chars().filter(move |mark| Some(*mark) != first);
    marks
        .map(|mark| path.with_file_name(format!("{mark}{}", rest.as_str())))
        .collect::<Vec<_>>()
        .into_iter()
}

/// Checks that `path` is free, or a file of this process.
fn expect_own(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(with_remedy(error)),
        Ok(now) if lock(&OWN_NODES).contains(&(now.dev(), now.ino())) => Ok(()),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "another file has taken the socket's place: move it away",
        )),
    }
}

/// Applies `access`: the group first, so that the mode never admits another group.
fn set_access(path: &Path, access: SocketAccess) -> io::Result<()> {
    if let Some(group) = access.group {
        let refused = |error| {
            io::Error::other(format!(
                "its group cannot be set to {group} ({error}): the user that runs sidegate has to \
                 be a member"
            ))
        };
        lchown(path, None, Some(group)).map_err(refused)?;
    }
    fs::set_permissions(path, Permissions::from_mode(access.mode))
}

/// Creates a symbolic link at `path` to a socket. A socket of this process at `path` is replaced.
///
/// # Errors
/// The path belongs to a live socket of another process or to a file other than a link, or cannot
/// be created.
pub fn link(target: &Path, path: &Path) -> io::Result<SocketFile> {
    if is_own(path) {
        let free = free_path(path)?;
        symlink(target, &free).map_err(with_remedy)?;
        let file = SocketFile::new(&free)?;
        file.move_to(path)?;
        return Ok(file);
    }
    if fs::symlink_metadata(path).is_ok_and(|there| there.is_symlink()) {
        fs::remove_file(path).map_err(with_remedy)?;
    }
    remove_stale(path)?;
    symlink(target, path).map_err(with_remedy)?;
    SocketFile::new(path)
}

/// Whether `path` is a file of this process.
pub fn is_own(path: &Path) -> bool {
    let there = fs::symlink_metadata(path);
    there.is_ok_and(|there| lock(&OWN_NODES).contains(&(there.dev(), there.ino())))
}

/// Removes a link at `path` at whose end no process listens, as a killed agent leaves it.
///
/// # Errors
/// The link cannot be removed.
pub fn remove_dead_link(path: &Path) -> io::Result<()> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|there| there.is_symlink());
    let knock = || {
        let knock = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        knock.set_nonblocking(true)?;
        knock.connect(&SockAddr::unix(path)?)
    };
    let is_dead = |error: io::Error| {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    };
    match is_link && knock().is_err_and(is_dead) {
        true => fs::remove_file(path).map_err(with_remedy),
        false => Ok(()),
    }
}

/// Removes a dead socket at `path`; fails if anything else is there.
fn remove_stale(path: &Path) -> io::Result<()> {
    let taken = |what: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(with_remedy(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something other than a socket is there: move it, or name another path",
            ));
        }
        Ok(_) => {}
    }
    // Non-blocking: a socket whose queue is full is alive, and might never accept.
    let knock = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    knock.set_nonblocking(true)?;
    match knock.connect(&SockAddr::unix(path)?) {
        // No process listens: the owner ended without removing its file.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(with_remedy)
        }
        // The file has gone since it was examined.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            taken("another user's socket is there")
        }
        // EPROTOTYPE: the socket there is of another type, as a datagram socket is.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PROTOTYPE.raw_os_error()) => {
            taken("another program listens there")
        }
        // The connect succeeded, or failed with EAGAIN because the queue is full.
        _ => taken("another agent listens there"),
    }
}

/// Adds the remedy to the error of a missing or unwritable folder.
fn with_remedy(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::other(format!(
            "{error}: the user that runs sidegate needs write permission for the directory"
        )),
        io::ErrorKind::NotFound => io::Error::other(format!("{error}: create the directory first")),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: SocketAccess = SocketAccess { mode: 0o600, group: None };

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn socket_has_its_mode_and_is_removed_on_drop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        for wanted in [0o600, 0o660, 0o622] {
            let bound = bind(&path, SocketAccess { mode: wanted, group: None }, 1).unwrap();
            assert_eq!(mode(&path), wanted);
            drop(bound);
            assert!(!path.exists());
        }
    }

    #[test]
    fn socket_takes_the_place_of_a_live_one_by_a_rename() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (_old, old) = bind(&path, OWNER, 1).unwrap();
        let (_new, new) = bind_aside(&path, SocketAccess { mode: 0o666, group: None }, 1).unwrap();
        let aside = folder.path().join("~ocket");
        assert!(aside.exists() && path.exists());
        // A second one has another name, and a name that is in the way is left alone.
        let (_third, third) = bind_aside(&path, OWNER, 1).unwrap();
        assert!(folder.path().join("-ocket").exists());
        drop(third);
        new.move_to(&path).unwrap();
        drop(old);
        assert_eq!(mode(&path), 0o666);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok() && !aside.exists());
        drop(new);
        assert!(!path.exists());
    }

    #[test]
    fn file_that_has_taken_a_sockets_place_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let elsewhere = folder.path().join("other");
        let (_live, _file) = bind(&elsewhere, OWNER, 1).unwrap();
        let foreign = UnixListener::bind(folder.path().join("foreign")).unwrap();
        for kind in ["file", "link", "directory", "socket"] {
            let (_old, old) = bind(&path, OWNER, 1).unwrap();
            let (_new, new) = bind_aside(&path, OWNER, 1).unwrap();
            fs::remove_file(&path).unwrap();
            match kind {
                "file" => fs::write(&path, "kept").unwrap(),
                "link" => symlink(&elsewhere, &path).unwrap(),
                "directory" => fs::create_dir(&path).unwrap(),
                _ => fs::hard_link(folder.path().join("foreign"), &path).unwrap(),
            }
            assert!(new.move_to(&path).is_err() && bind_aside(&path, OWNER, 1).is_err(), "{kind}");
            drop((old, new));
            assert!(fs::symlink_metadata(&path).is_ok(), "{kind}");
            if kind == "directory" { fs::remove_dir(&path) } else { fs::remove_file(&path) }
                .unwrap();
        }
        drop(foreign);
    }

    #[test]
    fn dead_sockets_are_replaced_and_other_files_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let alive = UnixListener::bind(&path).unwrap();
        assert_eq!(bind(&path, OWNER, 1).err().unwrap().kind(), io::ErrorKind::AddrInUse);
        drop(alive);
        bind(&path, OWNER, 1).unwrap();
        fs::write(&path, "notes").unwrap();
        assert_eq!(bind(&path, OWNER, 1).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
    }

    #[test]
    fn file_that_replaced_the_socket_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let bound = bind(&path, OWNER, 1).unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(bound);
        assert!(path.exists());
    }

    #[test]
    fn link_replaces_an_earlier_link_and_keeps_its_target() {
        let folder = tempfile::tempdir().unwrap();
        let (target, path) = (folder.path().join("passed"), folder.path().join("link"));
        let _passed = UnixListener::bind(&target).unwrap();
        symlink("/nowhere", &path).unwrap();
        let file = link(&target, &path).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), target);
        drop(file);
        assert!(target.exists() && fs::symlink_metadata(&path).is_err());
    }
}

//! The admin socket: HTTP over a Unix socket, the only place where anything can be changed.
//!
//! Who may connect is the file system's decision: the socket's mode and group, which hold from
//! the first moment on. What is asked there is answered in `command`.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, attend, command, converse, place};
use crate::control::config::{AdminSettings, AdminSocket};

/// How long a command may take: a reload waits for files that are being written.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many may wait to be accepted.
const QUEUE: i32 = 128;

/// The bound socket; its file is removed on drop.
pub struct AdminListener {
    socket: Option<StdListener>,
    path: PathBuf,
    /// The device and the number of our file, so that no other is ever removed in its place.
    node: (u64, u64),
}

impl AdminListener {
    /// Binds the socket that `settings` want; `None`: it is off, or no folder of `auto` is usable (a warning).
    ///
    /// # Errors
    /// The path is taken by something alive or by something other than a socket, or cannot be made.
    pub fn bind(settings: &AdminSettings, config: &Path) -> io::Result<Option<Self>> {
        let path = match &settings.socket {
            AdminSocket::Off => return Ok(None),
            AdminSocket::Path(path) => config.parent().unwrap_or(Path::new("")).join(path),
            AdminSocket::Auto => match place::automatic(config) {
                Some(path) => path,
                None => {
                    tracing::warn!("no folder for the admin socket is usable: name one with [admin] socket");
                    return Ok(None);
                }
            },
        };
        let at = |error: io::Error| io::Error::new(error.kind(), format!("at {}: {error}", path.display()));
        let listener = Self::make(path.clone()).map_err(at)?;
        listener.open_to(settings).map_err(at)?;
        Ok(Some(listener))
    }

    /// A socket at `path` that nobody but our own user may connect to.
    fn make(path: PathBuf) -> io::Result<Self> {
        clear(&path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Linux gives a socket's file the mode of the socket itself, less the umask, which is the whole process' and not ours to change.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        socket.bind(&SockAddr::unix(&path)?).map_err(cannot_make)?;
        let made = fs::symlink_metadata(&path)?;
        socket.set_nonblocking(true)?;
        let mut listener = AdminListener { socket: None, path, node: (made.dev(), made.ino()) };
        socket.listen(QUEUE)?;
        listener.socket = Some(OwnedFd::from(socket).into());
        Ok(listener)
    }

    /// Lets those in whom `[admin]` names: the group first, so that the mode never speaks of another.
    fn open_to(&self, settings: &AdminSettings) -> io::Result<()> {
        if let Some(group) = &settings.group {
            let unknown = || io::Error::other(format!("/etc/group has no `{group}`: make it, or give another [admin] group"));
            let id = group_id(group).ok_or_else(unknown)?;
            let refused = |error| {
                io::Error::other(format!(
                    "cannot be given to the group `{group}` ({error}): our own user has to be a member of it"
                ))
            };
            lchown(&self.path, None, Some(id)).map_err(refused)?;
        }
        fs::set_permissions(&self.path, Permissions::from_mode(settings.mode))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers until `stop`.
    pub async fn serve(mut self, admin: Arc<Admin>, stop: CancellationToken) {
        let socket = match self.socket.take().map(UnixListener::from_std) {
            Some(Ok(socket)) => socket,
            Some(Err(error)) => return tracing::error!(%error, "the admin socket cannot be served"),
            None => return,
        };
        let accept = |context: &mut Context<'_>| socket.poll_accept(context);
        let look = || admin.metrics.totals(&admin.live.load(), &admin.tunnels);
        tokio::select! {
            () = attend(accept, |(stream, _)| answer_all(Arc::clone(&admin), stream), stop) => {}
            () = admin.rates.sample(look) => {}
        }
    }
}

impl Drop for AdminListener {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.node);
        if ours {
            // It may be gone by now, with its folder.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket of an agent that is gone.
fn clear(path: &Path) -> io::Result<()> {
    let taken = |what: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot_make(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something other than a socket is there: move it, or name another path",
            ));
        }
        Ok(_) => {}
    }
    // Without waiting: one whose queue is full is alive, and might never take us.
    let knock = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    knock.set_nonblocking(true)?;
    match knock.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(cannot_make),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => taken("a socket of somebody else's is there"),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PROTOTYPE.raw_os_error()) => {
            taken("something alive answers there that is no agent")
        }
        _ => taken("another agent answers there"),
    }
}

/// A folder that is not ours to write says so, whatever ports may need.
fn cannot_make(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            io::Error::other(format!("{error}: our own user has to own the folder, or be let write there"))
        }
        io::ErrorKind::NotFound => io::Error::other(format!("{error}: make the folder first")),
        _ => error,
    }
}

/// The id of a group by its name, as /etc/group has it, or by its number.
fn group_id(group: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    });
    named.or_else(|| group.parse().ok())
}

async fn answer_all(admin: Arc<Admin>, stream: UnixStream) {
    let caller = stream.peer_cred().ok();
    converse(stream, PATIENCE, |request| command::answer(Arc::clone(&admin), request, caller)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::net::{UnixDatagram, UnixStream as StdStream};

    fn settings(path: &str, mode: u32, group: Option<&str>) -> AdminSettings {
        AdminSettings { socket: AdminSocket::Path(path.into()), mode, group: group.map(str::to_owned) }
    }

    /// The listener at `admin.sock` beside a `sidegate.toml` in `folder`.
    fn bind(folder: &Path) -> io::Result<AdminListener> {
        AdminListener::bind(&settings("admin.sock", 0o660, None), &folder.join("sidegate.toml")).map(Option::unwrap)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    /// That a path which `take` took is an error with this in it, and is left as it is.
    fn check_taken<T>(take: impl FnOnce(&Path) -> T, said: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let _taken = take(&path);
        let before = fs::symlink_metadata(&path).unwrap().ino();
        let error = bind(folder.path()).err().unwrap().to_string();
        assert!(error.contains(said) && error.contains(&path.display().to_string()), "{error}");
        assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), before);
    }

    #[test]
    fn nobody_else_can_connect_before_the_mode_is_set() {
        let folder = tempfile::tempdir().unwrap();
        let listener = AdminListener::make(folder.path().join("admin.sock")).unwrap();
        assert_eq!(mode(listener.path()) & 0o077, 0);
        listener.open_to(&settings("", 0o622, None)).unwrap();
        assert_eq!(mode(listener.path()), 0o622, "whatever the umask");
    }

    #[test]
    fn the_group_is_given_by_name_or_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let listener = AdminListener::make(folder.path().join("admin.sock")).unwrap();
        let own = rustix::process::getgid().as_raw();
        listener.open_to(&settings("", 0o660, Some(&own.to_string()))).unwrap();
        assert_eq!(fs::metadata(listener.path()).unwrap().gid(), own);
        assert_eq!((group_id("root"), group_id("4711"), group_id("no-such-group")), (Some(0), Some(4711), None));
        let error = listener.open_to(&settings("", 0o660, Some("no-such-group"))).unwrap_err();
        assert!(error.to_string().contains("`no-such-group`"), "{error}");
    }

    #[test]
    fn a_path_that_is_taken_by_something_alive_is_an_error() {
        check_taken(|path| StdListener::bind(path).unwrap(), "another agent answers there");
        check_taken(|path| UnixDatagram::bind(path).unwrap(), "no agent");
        check_taken(|path| fs::write(path, "mine").unwrap(), "other than a socket");
        check_taken(|path| std::os::unix::fs::symlink("elsewhere", path).unwrap(), "other than a socket");
    }

    #[test]
    fn one_who_is_alive_and_takes_nobody_is_alive() {
        let full = |path: &Path| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
            socket.listen(0).unwrap();
            (StdStream::connect(path).unwrap(), socket)
        };
        check_taken(full, "another agent answers there");
    }

    #[test]
    fn the_socket_of_one_who_is_gone_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(StdListener::bind(&path).unwrap());
        let listener = bind(folder.path()).unwrap();
        StdStream::connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_took_our_place_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let first = bind(folder.path()).unwrap();
        fs::remove_file(first.path()).unwrap();
        let second = bind(folder.path()).unwrap();
        drop(first);
        StdStream::connect(second.path()).unwrap();
    }
}

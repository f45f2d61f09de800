//! The admin socket: HTTP over a Unix socket, the only endpoint that can change anything.
//!
//! The file system decides who may connect: the socket's mode and group hold from the first moment
//! on. `command` answers the requests.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::{UnixListener, UnixStream};

use crate::addresses::SocketPlace;
use crate::admin::connection::{ConnectionTimeouts, serve_connection};
use crate::admin::connection_cap::{ConnectionGuard, EvictingCap, accept_loop};
use crate::admin::state::AdminContext;
use crate::admin::swappable::{AdminService, ServedSockets, ServingEnd};
use crate::admin::{command, socket_path};
use crate::control::config::{AdminSettings, AdminSocket, users};
use crate::control::reload::{MAX_PAUSE, WatchPause};
use crate::control::systemd::sockets::PassedSockets;
use crate::inherited_sockets::{SharedSocket, SocketPurpose};
use crate::socket_file::{self, SocketAccess, SocketFile};
use crate::sync::lock;

/// A reload waits for files that are being written, and a caller that has paused the watch is
/// silent for as long as the pause may last.
const TIMEOUTS: ConnectionTimeouts = ConnectionTimeouts {
    head: MAX_PAUSE.saturating_add(Duration::from_secs(1)),
    connection: Duration::from_secs(60),
};

/// Length of the socket's queue (listen(2)).
const BACKLOG: i32 = 128;

/// Most connections at one time.
const MAX_CONNECTIONS: usize = 32;

/// The bound socket, or all sockets that systemd passed under one name.
pub struct AdminListener {
    sockets: Vec<StdListener>,
    /// Whether systemd passed the sockets, which it passes to the next process as well.
    is_passed: bool,
    /// The socket's file, or the link to systemd's socket; `None` means the link could not be made.
    file: Option<SocketFile>,
    path: PathBuf,
    /// Whether the file still has its temporary name.
    aside: bool,
    /// Where commands look if the configuration does not name `path`. `None` means nowhere else.
    default: Option<PathBuf>,
    /// The link there, if it could be made.
    link: Option<SocketFile>,
}

impl AdminListener {
    /// Binds the socket of `settings`, or takes it from those `passed`. `None` means off, or no
    /// folder of `auto` is usable (a warning). If the path equals `now`, the current socket's, the
    /// new one has a temporary name until [`commit`](AdminListener::commit).
    ///
    /// # Errors
    /// The path belongs to a live socket or to another kind of file, or cannot be created.
    pub fn bind(
        settings: &AdminSettings,
        config: &Path,
        passed: &PassedSockets,
        now: Option<&Path>,
    ) -> io::Result<Option<Self>> {
        let path = match &settings.socket {
            AdminSocket::Off => return Ok(None),
            AdminSocket::Systemd(name) => {
                return Self::adopt(passed.unix(name)?, config, passed).map(Some);
            }
            // `join` returns an absolute `path` unchanged; a relative one begins at the
            // configuration.
            AdminSocket::Path(path) => config.parent().unwrap_or(Path::new("")).join(path),
            AdminSocket::Auto => match socket_path::auto_path(config) {
                Some(path) => path,
                None => {
                    tracing::warn!(
                        "no default directory for the admin socket is usable: set [admin] socket"
                    );
                    return Ok(None);
                }
            },
        };
        let at = |error: io::Error| {
            io::Error::new(error.kind(), format!("at {}: {error}", path.display()))
        };
        if let Some((socket, file)) = passed.inherited().take_unix(&path).map_err(at)? {
            return Ok(Some(Self::inherited(socket, file, path, config, passed)));
        }
        if settings.socket == AdminSocket::Auto {
            socket_file::remove_dead_link(&path).map_err(at)?;
        }
        // Its own link is there if the socket had another path.
        let aside = now == Some(&*path) || socket_file::is_own(&path);
        let access = access(settings).map_err(at)?;
        let bind = if aside { socket_file::bind_aside } else { socket_file::bind };
        let (socket, file) = bind(&path, access, BACKLOG).map_err(at)?;
        let (default, sockets) = (socket_path::existing_path(config), vec![socket]);
        let default = default.filter(|default| *default != path);
        let (is_passed, file) = (false, Some(file));
        let mut bound =
            AdminListener { sockets, is_passed, file, path, aside, default, link: None };
        if now.is_none() {
            bound.link_default();
        }
        Ok(Some(bound))
    }

    /// Adopts the socket that the former process of an upgrade had at `path`, and its link.
    fn inherited(
        socket: StdListener,
        file: SocketFile,
        path: PathBuf,
        config: &Path,
        passed: &PassedSockets,
    ) -> Self {
        let default = socket_path::existing_path(config).filter(|default| *default != path);
        let link = default.as_ref().and_then(|at| passed.inherited().take_link(&path, at));
        let (sockets, file) = (vec![socket], Some(file));
        AdminListener { sockets, is_passed: false, file, path, aside: false, default, link }
    }

    /// Links the socket at the path of `auto`: a command finds the agent there while its file is
    /// missing or broken.
    fn link_default(&mut self) {
        let Some(default) = &self.default else { return };
        // No warning: a file that can be read still names the socket.
        self.link = socket_file::link(&self.path, default)
            .inspect_err(|error| tracing::debug!(%error, "no link to the admin socket"))
            .ok();
    }

    /// Renames a socket with a temporary name over the current one. The rename is atomic, so
    /// callers always find a socket.
    pub fn commit(mut self) -> Self {
        if self.aside
            && let Some(file) = &self.file
            && let Err(error) = file.move_to(&self.path)
        {
            // The socket serves all the same, but under its temporary name, where no command looks.
            tracing::error!(%error, socket = %self.path.display(), "the admin socket cannot be moved to its path");
        }
        if self.link.is_none() {
            self.link_default();
        }
        self
    }

    /// Adopts the sockets that systemd passed. Their paths are known only to the unit, so a link to
    /// the first one is put where commands look.
    fn adopt(sockets: Vec<StdListener>, config: &Path, passed: &PassedSockets) -> io::Result<Self> {
        sockets.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
        let named = sockets
            .first()
            .and_then(|socket| Some(socket.local_addr().ok()?.as_pathname()?.to_owned()));
        let path = named.unwrap_or_default();
        let linked = match socket_path::auto_path(config) {
            // The unit has put the socket itself where commands look.
            Some(place) if place == path => Ok(None),
            Some(place) => match passed.inherited().take_link(&path, &place) {
                Some(link) => Ok(Some(link)),
                None => socket_file::link(&path, &place).map(Some),
            },
            None => Err(io::Error::other("no default directory is usable")),
        };
        if let Err(error) = &linked {
            tracing::warn!(%error, socket = %path.display(), "no link to the admin socket could be created: commands cannot find it");
        }
        let file = linked.ok().flatten();
        let (is_passed, aside) = (true, false);
        Ok(AdminListener { sockets, is_passed, file, path, aside, default: None, link: None })
    }
}

impl AdminService for AdminListener {
    type At = PathBuf;

    fn at(&self) -> Option<PathBuf> {
        Some(self.path.clone())
    }

    fn share(&self) -> io::Result<ServedSockets> {
        let own = if self.is_passed { &[] } else { &self.sockets[..] };
        let share = |socket: &StdListener| {
            let (purpose, place) = (SocketPurpose::Admin, SocketPlace::Unix((*self.path).into()));
            Ok(SharedSocket { purpose, place, socket: socket.try_clone()?.into() })
        };
        let sockets = own.iter().map(share).collect::<io::Result<_>>()?;
        let files = [&self.file, &self.link].into_iter().flatten().map(SocketFile::path);
        Ok(ServedSockets { sockets, files: files.collect() })
    }

    async fn serve(self, admin: Arc<AdminContext>, ServingEnd { stop, .. }: ServingEnd) {
        // Both live until serving ends; their drop removes the files.
        let AdminListener { sockets, file: _file, link: _link, .. } = self;
        let sockets: Vec<_> =
            match sockets.into_iter().map(UnixListener::from_std).collect::<io::Result<_>>() {
                Ok(sockets) => sockets,
                Err(error) => return tracing::error!(%error, "the admin socket cannot be served"),
            };
        let accept = |context: &mut Context<'_>| {
            let mut accepted = sockets.iter().map(|socket| socket.poll_accept(context));
            let accepted = accepted.find(Poll::is_ready).unwrap_or(Poll::Pending);
            // No key: the room counts all callers of this socket as one peer.
            accepted.map_ok(|(stream, _)| (stream, None))
        };
        let serve = |stream, place| serve_caller(Arc::clone(&admin), stream, place);
        accept_loop(EvictingCap::new(MAX_CONNECTIONS), accept, serve, stop).await;
    }
}

/// The users that `[admin] mode` and `group` admit.
fn access(settings: &AdminSettings) -> io::Result<SocketAccess> {
    let id = |group: &String| {
        users::group_id(group).ok_or_else(|| {
            io::Error::other(format!(
                "this host has no group `{group}`: create the group, or change [admin] group"
            ))
        })
    };
    Ok(SocketAccess { mode: settings.mode, group: settings.group.as_ref().map(id).transpose()? })
}

async fn serve_caller(admin: Arc<AdminContext>, mut stream: UnixStream, place: ConnectionGuard) {
    // The kernel's record of the caller at connect(2) (SO_PEERCRED, unix(7)); for the log only.
    let caller = stream.peer_cred().ok();
    // A descriptor of its own: the connection has the stream. Without one no order is dropped.
    let socket = stream.as_fd().try_clone_to_owned().ok();
    // Ends with the connection, so that a command that is killed leaves no pause behind.
    let pause: Mutex<Option<Arc<WatchPause>>> = Mutex::default();
    let answered = serve_connection(&mut stream, TIMEOUTS, |request| {
        let (admin, answering) = (Arc::clone(&admin), place.mark_busy());
        let (pause, socket) = (&pause, &socket);
        async move {
            let answer = command::answer(admin, request, caller, || {
                socket.as_ref().is_some_and(has_hung_up)
            });
            let mut answer = answer.await;
            if let Some(begun) = answer.extensions_mut().remove() {
                *lock(pause) = Some(begun);
            }
            // Before the answer is written: a caller that does not read it counts as stuck.
            drop(answering);
            answer
        }
    });
    tokio::select! {
        _ = answered => {}
        () = place.evicted() => tracing::debug!(
            "an idle connection to the admin socket was closed to make room for another"
        ),
    }
}

/// Whether the other end of `socket` is closed. An end that is only shut down for writing still
/// reads an answer.
fn has_hung_up(socket: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // An error says nothing about the caller, whose order is then carried out.
    poll(&mut polled, Some(&at_once)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{UnixDatagram, UnixStream as StdStream};

    use crate::control::config::{PageAddresses, PageSettings};
    use crate::observe::recent::RingBounds;
    use socket2::{Domain, SockAddr, Socket, Type};

    fn settings(path: &str, mode: u32, group: Option<&str>) -> AdminSettings {
        AdminSettings {
            socket: AdminSocket::Path(path.into()),
            mode,
            group: group.map(str::to_owned),
            recent: RingBounds::default(),
            page: PageSettings {
                listen: None,
                mode: 0o660,
                group: None,
                addresses: PageAddresses::Short,
            },
        }
    }

    /// Binds the listener at `admin.sock` beside a `sidegate.toml` in `folder`.
    fn bind(folder: &Path) -> io::Result<AdminListener> {
        let passed = PassedSockets::default();
        AdminListener::bind(
            &settings("admin.sock", 0o660, None),
            &folder.join("sidegate.toml"),
            &passed,
            None,
        )
        .map(Option::unwrap)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    /// Checks that binding a path that `take` occupies fails with `said`, and leaves the path as it
    /// is.
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
    fn only_a_closed_end_has_hung_up() {
        let (caller, agent) = StdStream::pair().unwrap();
        let agent = OwnedFd::from(agent);
        assert!(!has_hung_up(&agent));
        (&caller).write_all(b"x").unwrap();
        caller.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!has_hung_up(&agent), "it still reads");
        drop(caller);
        assert!(has_hung_up(&agent), "also with unread input");
    }

    #[test]
    fn socket_mode_is_as_configured_under_any_umask() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("sidegate.toml");
        for wanted in [0o660, 0o622, 0o600] {
            let listener = AdminListener::bind(
                &settings("admin.sock", wanted, None),
                &config,
                &PassedSockets::default(),
                None,
            )
            .unwrap()
            .unwrap();
            assert_eq!(mode(&listener.path), wanted);
        }
    }

    #[test]
    fn the_group_is_given_by_name_or_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let bind = |group: &str| {
            let settings = settings("admin.sock", 0o660, Some(group));
            AdminListener::bind(
                &settings,
                &folder.path().join("sidegate.toml"),
                &PassedSockets::default(),
                None,
            )
        };
        let own = rustix::process::getgid().as_raw();
        let listener = bind(&own.to_string()).unwrap().unwrap();
        assert_eq!(fs::metadata(&listener.path).unwrap().gid(), own);
        drop(listener);
        let error = bind("no-such-group").err().unwrap().to_string();
        assert!(error.contains("this host has no group `no-such-group`"), "{error}");
        assert!(!folder.path().join("admin.sock").exists(), "nothing is left behind");
    }

    #[test]
    fn bind_fails_when_a_live_socket_has_the_path() {
        check_taken(|path| StdListener::bind(path).unwrap(), "another agent listens there");
        check_taken(|path| UnixDatagram::bind(path).unwrap(), "another program");
        check_taken(|path| fs::write(path, "mine").unwrap(), "other than a socket");
        check_taken(
            |path| std::os::unix::fs::symlink("elsewhere", path).unwrap(),
            "other than a socket",
        );
    }

    #[test]
    fn live_socket_with_a_full_queue_counts_as_live() {
        let full = |path: &Path| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
            socket.listen(0).unwrap();
            (StdStream::connect(path).unwrap(), socket)
        };
        check_taken(full, "another agent listens there");
    }

    #[test]
    fn dead_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(StdListener::bind(&path).unwrap());
        let listener = bind(folder.path()).unwrap();
        StdStream::connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }
}

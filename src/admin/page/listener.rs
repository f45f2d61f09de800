//! The socket of the page, and the course of a connection to it.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use crate::addresses::SocketPlace;
use crate::admin::connection::{CONNECTION_TIMEOUT, ConnectionTimeouts, serve_connection};
use crate::admin::connection_cap::{ConnectionGuard, EvictingCap, accept_loop};
use crate::admin::linger::{reset_on_close, wait_for_ack};
use crate::admin::page::service::PageService;
use crate::admin::page::viewers::{STREAM_LIFETIME, StreamProgress};
use crate::admin::state::AdminContext;
use crate::admin::swappable::{AdminService, ServedSockets, ServingEnd};
use crate::control::config::{PageAddress, PageSettings, users};
use crate::data::listener::{overlap, socket};
use crate::inherited_sockets::{InheritedSockets, SharedSocket, SocketPurpose};
use crate::socket_file::{self, SocketAccess, SocketFile};

/// Most connections at one time, open pages included.
const MAX_CONNECTIONS: usize = 64;

/// Length of the queue of a Unix socket (listen(2)).
const BACKLOG: i32 = 128;

/// Most bytes that the kernel keeps for a reader, before it doubles them (SO_SNDBUF). Without a
/// bound it would keep megabytes for a reader that reads nothing.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// Interval of the looks at a stream that may have stalled.
const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The bound socket of the page.
pub struct PageListener {
    socket: PageSocket,
    at: PageAddress,
}

enum PageSocket {
    Tcp(StdTcpListener),
    Unix {
        socket: StdUnixListener,
        file: SocketFile,
        /// Whether the file still has its temporary name.
        aside: bool,
    },
}

impl PageListener {
    /// Binds the socket of `settings`. `None` means off. If its path equals that of `now`, the
    /// current socket, it has a temporary name until [`commit`](PageListener::commit).
    ///
    /// # Errors
    /// The address is in use or not local, or the path cannot be created.
    pub fn bind(
        settings: &PageSettings,
        inherited: &InheritedSockets,
        now: Option<&PageAddress>,
    ) -> io::Result<Option<Self>> {
        let Some(at) = &settings.listen else { return Ok(None) };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("on {at}: {error}"));
        let bound = match at {
            PageAddress::Tcp(address) => {
                let taken = inherited.take_tcp(&SocketPurpose::Page, *address).into_iter().next();
                taken.map_or_else(|| bind_tcp(*address, now), Self::adopt).map_err(named)?
            }
            PageAddress::Unix(path)
                if let Some((socket, file)) = inherited.take_unix(path).map_err(named)? =>
            {
                let socket = PageSocket::Unix { socket, file, aside: false };
                PageListener { socket, at: at.clone() }
            }
            PageAddress::Unix(path) => {
                let aside = now == Some(at);
                let bind = if aside { socket_file::bind_aside } else { socket_file::bind };
                let access = access(settings).map_err(named)?;
                let (socket, file) = bind(path, access, BACKLOG).map_err(named)?;
                socket.set_nonblocking(true)?;
                let socket = PageSocket::Unix { socket, file, aside };
                PageListener { socket, at: at.clone() }
            }
        };
        Ok(Some(bound))
    }

    fn adopt(socket: StdTcpListener) -> io::Result<Self> {
        let at = PageAddress::Tcp(socket.local_addr()?);
        Ok(PageListener { socket: PageSocket::Tcp(socket), at })
    }

    /// Renames a socket with a temporary name over the current one. The rename is atomic, so
    /// callers always find a socket.
    pub fn commit(self) -> Self {
        if let PageSocket::Unix { file, aside: true, .. } = &self.socket
            && let PageAddress::Unix(path) = &self.at
            && let Err(error) = file.move_to(path)
        {
            // It serves all the same, but under a temporary name.
            let socket = self.at.to_string();
            tracing::error!(%error, socket, "the page's socket cannot be moved to its path");
        }
        self
    }
}

fn bind_tcp(address: SocketAddr, now: Option<&PageAddress>) -> io::Result<PageListener> {
    let replaces = matches!(now, Some(PageAddress::Tcp(now)) if overlap(*now, address));
    let socket = socket(address, replaces)?;
    socket.set_nonblocking(true)?;
    PageListener::adopt(socket)
}

/// The users that `page_mode` and `page_group` admit.
fn access(settings: &PageSettings) -> io::Result<SocketAccess> {
    let id = |group: &String| {
        users::group_id(group).ok_or_else(|| {
            io::Error::other(format!(
                "this host has no group `{group}`: create the group, or change [admin] page_group"
            ))
        })
    };
    Ok(SocketAccess { mode: settings.mode, group: settings.group.as_ref().map(id).transpose()? })
}

impl AdminService for PageListener {
    type At = PageAddress;

    fn at(&self) -> Option<PageAddress> {
        Some(self.at.clone())
    }

    fn share(&self) -> io::Result<ServedSockets> {
        let (place, socket, files) = match &self.socket {
            PageSocket::Tcp(socket) => {
                let place = SocketPlace::Tcp(socket.local_addr()?);
                (place, socket.try_clone()?.into(), Vec::new())
            }
            PageSocket::Unix { socket, file, .. } => {
                let path = file.path();
                (SocketPlace::Unix((*path).into()), socket.try_clone()?.into(), vec![path])
            }
        };
        let sockets = vec![SharedSocket { purpose: SocketPurpose::Page, place, socket }];
        Ok(ServedSockets { sockets, files })
    }

    async fn serve(self, admin: Arc<AdminContext>, ServingEnd { stop, .. }: ServingEnd) {
        // `_file` lives until serving ends; its drop removes the socket's file.
        let (socket, _file) = match self.socket {
            PageSocket::Tcp(socket) => (TcpListener::from_std(socket).map(Listening::Tcp), None),
            PageSocket::Unix { socket, file, .. } => {
                (UnixListener::from_std(socket).map(Listening::Unix), Some(file))
            }
        };
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(%error, "the page cannot be served"),
        };
        let service = Arc::new(PageService::new(admin, self.at, stop.clone()));
        let accept = |context: &mut Context<'_>| {
            // No key: over loopback, all callers are one peer.
            socket.poll_accept(context).map_ok(|stream| (stream, None))
        };
        let answer = |stream, place| serve_reader(Arc::clone(&service), stream, place);
        tokio::select! {
            () = accept_loop(EvictingCap::new(MAX_CONNECTIONS), accept, answer, stop) => {}
            // Never ends by itself.
            () = service.update_viewers() => {}
        }
    }
}

/// The socket that readers connect to.
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Reader>> {
        Poll::Ready(match self {
            Listening::Tcp(socket) => {
                ready!(socket.poll_accept(context)).map(|(stream, _)| Reader::Tcp(stream))
            }
            Listening::Unix(socket) => {
                ready!(socket.poll_accept(context)).map(|(stream, _)| Reader::Unix(stream))
            }
        })
    }
}

/// A connection that was accepted.
enum Reader {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn serve_reader(service: Arc<PageService>, reader: Reader, place: ConnectionGuard) {
    match reader {
        Reader::Tcp(mut stream) => {
            // A failure leaves the kernel's own bound, which is larger.
            let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES);
            let last = Instant::now() + CONNECTION_TIMEOUT;
            let is_delivered = serve_one(&service, &mut stream, &place).await
                && wait_for_ack(&stream, last.max(Instant::now() + STALL_CHECK_INTERVAL)).await;
            if !is_delivered {
                reset_on_close(&stream);
            }
        }
        Reader::Unix(mut stream) => {
            serve_one(&service, &mut stream, &place).await;
        }
    }
}

/// Answers the request of one connection. Returns whether the connection ended in order.
async fn serve_one(
    service: &PageService,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    place: &ConnectionGuard,
) -> bool {
    let progress = Arc::new(StreamProgress::default());
    let timeouts = ConnectionTimeouts::new(STREAM_LIFETIME + CONNECTION_TIMEOUT);
    let answered = serve_connection(stream, timeouts, |request| {
        let answer = service.answer(&request, &progress);
        async { answer }
    });
    tokio::select! {
        in_order = answered => in_order,
        () = place.evicted() => false,
        () = overdue(&progress, place) => false,
    }
}

/// Waits until a connection has had its time: a short one for an answer, and as long as updates are
/// read for a stream, which then keeps its place.
async fn overdue(progress: &StreamProgress, place: &ConnectionGuard) {
    if timeout(CONNECTION_TIMEOUT, progress.began()).await.is_err() {
        return;
    }
    let _busy = place.mark_busy();
    while !progress.is_stalled() {
        sleep(STALL_CHECK_INTERVAL).await;
    }
}

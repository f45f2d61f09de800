//! Where metrics are asked: the sockets of the metrics listener, and which of them serve now.
//!
//! A reload may put another listener in the place of the one that serves. What is answered is in `metrics`.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use rustix::fs::Mode;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::metrics::{Guests, answer_one};
use crate::admin::unix::{self, SocketFile};
use crate::admin::{Admin, attend};
use crate::control::config::MetricsAddress;
use crate::control::systemd::Sockets;
use crate::policy::network::Peer;

/// The metrics listener, bound: one socket, or all that systemd passed under its name.
pub struct MetricsListener {
    tcp: Vec<StdTcpListener>,
    unix: Vec<StdUnixListener>,
    file: Option<SocketFile>,
}

impl MetricsListener {
    /// Binds `address`, or takes it from those `passed`. A Unix socket of ours is open to our user and group.
    ///
    /// # Errors
    /// The address is taken or not ours, or no descriptor is left.
    pub fn bind(address: &MetricsAddress, passed: &Sockets) -> io::Result<Self> {
        let at = |error: io::Error| io::Error::new(error.kind(), format!("on {address}: {error}"));
        let (mut tcp, mut unix, mut file) = (Vec::new(), Vec::new(), None);
        match address {
            MetricsAddress::Tcp(address) => tcp.push(StdTcpListener::bind(address).map_err(at)?),
            MetricsAddress::Unix(path) => {
                let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
                let (socket, own) = unix::bind(path, mode).map_err(at)?;
                unix.push(socket);
                file = Some(own);
            }
            MetricsAddress::Systemd(name) => (tcp, unix) = (passed.tcp(name).map_err(at)?, passed.unix(name).map_err(at)?),
        }
        tcp.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
        unix.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
        Ok(MetricsListener { tcp, unix, file })
    }

    /// The first address that was bound; `None`: it has Unix sockets only.
    fn address(&self) -> Option<SocketAddr> {
        self.tcp.first().and_then(|socket| socket.local_addr().ok())
    }

    /// Answers until `stop`.
    async fn serve(self, admin: Arc<Admin>, stop: CancellationToken) {
        let MetricsListener { tcp, unix, file: _file } = self;
        let tcp: io::Result<Vec<_>> = tcp.into_iter().map(TcpListener::from_std).collect();
        let unix: io::Result<Vec<_>> = unix.into_iter().map(UnixListener::from_std).collect();
        let (tcp, unix) = match (tcp, unix) {
            (Ok(tcp), Ok(unix)) => (tcp, unix),
            (Err(error), _) | (_, Err(error)) => return tracing::error!(%error, "the metrics listener cannot be served"),
        };
        let accept = |context: &mut Context<'_>| poll_accept(&tcp, &unix, context);
        let guests = Arc::new(Guests::default());
        let answer = |stream: Asker| {
            let (admin, guests) = (Arc::clone(&admin), Arc::clone(&guests));
            async move {
                match stream {
                    Asker::Tcp(stream, peer) => answer_one(&admin, &guests, stream, Some(peer)).await,
                    Asker::Unix(stream) => answer_one(&admin, &guests, stream, None).await,
                }
            }
        };
        attend(accept, answer, stop).await;
    }
}

/// One who asks.
enum Asker {
    Tcp(TcpStream, Peer),
    /// Whom the socket's file let in.
    Unix(UnixStream),
}

fn poll_accept(tcp: &[TcpListener], unix: &[UnixListener], context: &mut Context<'_>) -> Poll<io::Result<Asker>> {
    for socket in tcp {
        if let Poll::Ready(accepted) = socket.poll_accept(context) {
            return Poll::Ready(accepted.map(|(stream, address)| Asker::Tcp(stream, Peer::new(address.ip()))));
        }
    }
    for socket in unix {
        if let Poll::Ready(accepted) = socket.poll_accept(context) {
            return Poll::Ready(accepted.map(|(stream, _)| Asker::Unix(stream)));
        }
    }
    Poll::Pending
}

/// The metrics listener that serves, whichever it is by now.
pub struct Scrapes {
    admin: Arc<Admin>,
    now: Mutex<Now>,
}

struct Now {
    address: Option<SocketAddr>,
    /// Bound, and not yet served.
    waits: Option<MetricsListener>,
    /// Who serves it, and until when, from [`Scrapes::begin`] on.
    plane: Option<(TaskTracker, CancellationToken)>,
    stop: CancellationToken,
}

impl Scrapes {
    /// With this one to begin with; `None`: metrics are off.
    pub fn new(admin: Arc<Admin>, first: Option<MetricsListener>) -> Arc<Self> {
        let address = first.as_ref().and_then(MetricsListener::address);
        let now = Now { address, waits: first, plane: None, stop: CancellationToken::new() };
        Arc::new(Scrapes { admin, now: Mutex::new(now) })
    }

    /// Where metrics are asked over TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        self.lock().address
    }

    /// Serves, on `tracker` and until `stop`.
    pub fn begin(&self, tracker: &TaskTracker, stop: &CancellationToken) {
        let mut now = self.lock();
        now.plane = Some((tracker.clone(), stop.clone()));
        let first = now.waits.take();
        self.serve(&mut now, first);
    }

    /// Serves on `next` alone from now on. Who is being answered by the one before has its answer.
    pub fn replace(&self, next: Option<MetricsListener>) {
        let mut now = self.lock();
        now.address = next.as_ref().and_then(MetricsListener::address);
        now.stop.cancel();
        self.serve(&mut now, next);
    }

    fn serve(&self, now: &mut Now, listener: Option<MetricsListener>) {
        let (Some(listener), Some((tracker, stop))) = (listener, &now.plane) else { return };
        now.stop = stop.child_token();
        tracker.spawn(listener.serve(Arc::clone(&self.admin), now.stop.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Fake backends, each on a thread of its own, so that nothing a test does holds it up.
//!
//! Each backend keeps the heads that it receives, unchanged. A panic in a backend fails the test
//! when the backend is dropped.

use std::future::{Future, pending};
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use futures_util::FutureExt;
use rustls::{HandshakeKind, ServerConfig};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;

use crate::harness::wire::{End, Frame, Head, Wire};
use crate::harness::within;

/// Speaks WebSocket and sends each frame back unchanged; chooses the first subprotocol offered.
/// Plain HTTP gets a 200.
pub fn echo() -> Builder {
    raw(|wire| echo_all(wire, ""))
}

/// [`echo`] with more header lines in its 101, each ended by CRLF.
pub fn echo_with(lines: &'static str) -> Builder {
    raw(move |wire| echo_all(wire, lines))
}

/// Runs `script` on each connection, and closes the connection when it returns.
pub fn raw<F, S>(script: S) -> Builder
where
    F: Future<Output = ()> + Send + 'static,
    S: Fn(Wire) -> F + Send + Sync + 'static,
{
    Builder {
        script: Script::Does(Arc::new(move |wire| Box::pin(script(wire)))),
        unix: false,
        tls: None,
        instead: None,
    }
}

/// Serves plain HTTP with keep-alive; `answer` computes the reply to each request.
pub fn http(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Builder {
    let answer = Arc::new(answer);
    raw(move |wire| answer_all(wire, Arc::clone(&answer)))
}

/// Accepts connections, reads, and sends nothing.
pub fn silent() -> Builder {
    raw(|wire| async move {
        let _open = wire;
        pending::<()>().await;
    })
}

/// Hands each connection to the test: [`Backend::accepted`].
pub fn manual() -> Builder {
    Builder { script: Script::HandsOver, unix: false, tls: None, instead: None }
}

/// Takes a port that refuses connections for as long as the backend lives.
pub fn refusing() -> Backend {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = format!("http://{}", socket.local_addr().unwrap().as_socket().unwrap());
    let mut backend = Backend::at(address);
    backend.socket = Some(socket);
    backend
}

/// Takes a port that answers no connection attempt: its queue is full.
pub fn full() -> Backend {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let waiting = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            waiting.set_nonblocking(true).unwrap();
            // In progress, or in the queue.
            let _ = waiting.connect(&address);
            waiting
        })
        .collect();
    let address = format!("http://{}", address.as_socket().unwrap());
    let mut backend = Backend::at(address);
    (backend.socket, backend._waiting) = (Some(socket), waiting);
    backend
}

type Done = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Clone)]
enum Script {
    Does(Arc<dyn Fn(Wire) -> Done + Send + Sync>),
    HandsOver,
}

/// A backend that isn't started yet.
pub struct Builder {
    script: Script,
    unix: bool,
    tls: Option<Arc<ServerConfig>>,
    instead: Option<std::net::TcpListener>,
}

impl Builder {
    /// Listens on a Unix socket instead of a port.
    pub fn unix(mut self) -> Self {
        self.unix = true;
        self
    }

    /// Serves TLS with this configuration; not for a [`manual`] backend.
    pub fn tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Takes over the port of a [`refusing`] backend, which accepts from then on.
    pub fn instead_of(mut self, refusing: &Backend) -> Self {
        refusing.listen();
        self.instead = Some(refusing.socket.as_ref().unwrap().try_clone().unwrap().into());
        self
    }

    /// Listens at this address instead of a free port of 127.0.0.1.
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.instead = Some(std::net::TcpListener::bind(address).unwrap());
        self
    }

    /// Starts the backend.
    pub async fn run(self) -> Backend {
        let folder = self.unix.then(|| tempfile::tempdir().unwrap());
        let (listener, address) = match &folder {
            None => {
                let listener = self.instead.unwrap_or_else(|| {
                    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
                });
                listener.set_nonblocking(true).unwrap();
                let scheme = if self.tls.is_some() { "https" } else { "http" };
                let address = format!("{scheme}://{}", listener.local_addr().unwrap());
                (Listener::Tcp(listener, self.tls), address)
            }
            Some(folder) => {
                let path: PathBuf = folder.path().join("app.sock");
                let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
                listener.set_nonblocking(true).unwrap();
                (Listener::Unix(listener), format!("unix:{}", path.display()))
            }
        };
        let mut backend = Backend::at(address);
        backend._folder = folder;
        let (seen, stop, script, over) = (
            Arc::clone(&backend.seen),
            backend.stop.clone(),
            self.script,
            backend.hand_over.clone(),
        );
        backend.thread = Some(std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(stop.run_until_cancelled(serve(listener, script, &seen, &over)));
        }));
        backend
    }
}

enum Listener {
    Tcp(std::net::TcpListener, Option<Arc<ServerConfig>>),
    Unix(std::os::unix::net::UnixListener),
}

/// A running backend.
pub struct Backend {
    address: String,
    seen: Arc<Seen>,
    looked_at: AtomicUsize,
    hand_over: mpsc::UnboundedSender<std::net::TcpStream>,
    handed: tokio::sync::Mutex<mpsc::UnboundedReceiver<std::net::TcpStream>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    _folder: Option<TempDir>,
    socket: Option<Socket>,
    _waiting: Vec<Socket>,
}

/// Record of what a backend has received.
#[derive(Default)]
struct Seen {
    accepted: AtomicUsize,
    resumed: AtomicUsize,
    over: AtomicUsize,
    heads: Mutex<Vec<Head>>,
    panic: Mutex<Option<String>>,
    news: Notify,
}

impl Backend {
    fn at(address: String) -> Self {
        let (hand_over, handed) = mpsc::unbounded_channel();
        Backend {
            address,
            seen: Arc::default(),
            looked_at: AtomicUsize::new(0),
            hand_over,
            handed: tokio::sync::Mutex::new(handed),
            stop: CancellationToken::new(),
            thread: None,
            _folder: None,
            socket: None,
            _waiting: Vec::new(),
        }
    }

    /// Returns its address in the form of a route's `backend`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the port that it listens at.
    pub fn port(&self) -> u16 {
        self.address.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// Returns how many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.seen.accepted.load(Ordering::SeqCst)
    }

    /// Returns how many connections resumed a TLS session.
    pub fn resumed(&self) -> usize {
        self.seen.resumed.load(Ordering::SeqCst)
    }

    /// Returns every head received so far.
    pub fn heads(&self) -> Vec<Head> {
        self.seen.heads.lock().unwrap().clone()
    }

    /// Waits for the next head, each once, in order of arrival.
    pub async fn head(&self) -> Head {
        let index = self.looked_at.fetch_add(1, Ordering::SeqCst);
        self.wait("a head at the backend", |seen| seen.heads.lock().unwrap().get(index).cloned())
            .await
    }

    /// Waits for the next connection to a [`manual`] backend, for the test to drive.
    pub async fn accepted(&self) -> Wire {
        let mut handed = self.handed.lock().await;
        let stream = within("a connection at the backend", handed.recv()).await.unwrap();
        let seen = Arc::clone(&self.seen);
        Wire::new(
            TcpStream::from_std(stream).unwrap(),
            End::Server,
            Some(Arc::new(move |head| seen.note(head))),
        )
    }

    /// Waits until `count` connections have been served to their end.
    pub async fn expect_done(&self, count: usize) {
        self.wait("the end of the backend's connections", |seen| {
            (seen.over.load(Ordering::SeqCst) >= count).then_some(())
        })
        .await;
    }

    /// Makes a [`refusing`] backend accept from now on; it answers nothing.
    pub fn listen(&self) {
        self.socket.as_ref().unwrap().listen(16).unwrap();
    }

    /// Asserts that no client has connected.
    #[track_caller]
    pub fn expect_untouched(&self) {
        assert_eq!(self.connections(), 0, "connections to the backend; heads: {:?}", self.heads());
    }

    async fn wait<T>(&self, what: &str, look: impl Fn(&Seen) -> Option<T>) -> T {
        let looked = async {
            loop {
                let news = self.seen.news.notified();
                if let Some(found) = look(&self.seen) {
                    return found;
                }
                if let Some(panic) = self.seen.panic.lock().unwrap().take() {
                    panic!("in the backend: {panic}");
                }
                news.await;
            }
        };
        within(what, looked).await
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if std::thread::panicking() {
                return;
            }
            assert!(ended.is_ok(), "the backend's thread panicked");
        }
        if let Some(panic) = self.seen.panic.lock().unwrap().take()
            && !std::thread::panicking()
        {
            panic!("in the backend: {panic}");
        }
    }
}

impl Seen {
    fn note(&self, head: &Head) {
        self.heads.lock().unwrap().push(head.clone());
        self.news.notify_waiters();
    }
}

async fn serve(
    listener: Listener,
    script: Script,
    seen: &Arc<Seen>,
    hand_over: &mpsc::UnboundedSender<std::net::TcpStream>,
) {
    let mut connections = JoinSet::new();
    let mut serve = |wire: Pin<Box<dyn Future<Output = Option<Wire>> + Send>>| {
        let Script::Does(script) = &script else { return };
        let (script, seen) = (Arc::clone(script), Arc::clone(seen));
        connections.spawn(async move {
            let done = async {
                if let Some(wire) = wire.await {
                    script(wire).await;
                }
            };
            if let Err(panic) = AssertUnwindSafe(done).catch_unwind().await {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                *seen.panic.lock().unwrap() = Some(text.unwrap_or_default());
            }
            seen.over.fetch_add(1, Ordering::SeqCst);
            seen.news.notify_waiters();
        });
    };
    let note = || {
        let seen = Arc::clone(seen);
        Some(Arc::new(move |head: &Head| seen.note(head)) as Arc<_>)
    };
    match listener {
        Listener::Tcp(listener, tls) => {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                seen.accepted.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).unwrap();
                let note = note();
                match (&script, &tls) {
                    (Script::HandsOver, _) => drop(hand_over.send(stream.into_std().unwrap())),
                    (Script::Does(_), None) => {
                        serve(Box::pin(async { Some(Wire::new(stream, End::Server, note)) }));
                    }
                    (Script::Does(_), Some(config)) => {
                        let shaken = TlsAcceptor::from(Arc::clone(config)).accept(stream);
                        let seen = Arc::clone(seen);
                        serve(Box::pin(async move {
                            let shaken = shaken.await.ok()?;
                            let resumed =
                                shaken.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                            seen.resumed.fetch_add(usize::from(resumed), Ordering::SeqCst);
                            Some(Wire::new(shaken, End::Server, note))
                        }));
                    }
                }
            }
        }
        Listener::Unix(listener) => {
            let listener = UnixListener::from_std(listener).unwrap();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                seen.accepted.fetch_add(1, Ordering::SeqCst);
                let note = note();
                serve(Box::pin(async { Some(Wire::new(stream, End::Server, note)) }));
            }
        }
    }
}

/// Reads an attempt's head and grants it, with more header `lines`, each ended by CRLF; returns the
/// head.
pub async fn grant(wire: &mut Wire, lines: &str) -> Head {
    let head = wire.head().await;
    wire.send(granted(&head, lines)).await;
    head
}

/// Returns the 101 that answers `head`, with more header `lines`.
pub fn granted(head: &Head, lines: &str) -> String {
    let accept = derive_accept_key(head.header("sec-websocket-key").unwrap().as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{lines}\r\n"
    )
}

async fn echo_all(mut wire: Wire, lines: &str) {
    let Some(head) = wire.try_head().await else { return };
    if head.header("upgrade").is_none() {
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nplain").await;
        return;
    }
    let first = head
        .all("sec-websocket-protocol")
        .first()
        .and_then(|offered| offered.split(',').next().map(str::trim));
    let chosen =
        first.map(|first| format!("Sec-WebSocket-Protocol: {first}\r\n")).unwrap_or_default();
    wire.send(granted(&head, &format!("{chosen}{lines}"))).await;
    while let Some(frame) = unhurried(&mut wire).await {
        let reply = match frame.opcode() {
            9 => Frame::pong(frame.payload),
            10 => continue,
            _ => frame,
        };
        let closes = reply.opcode() == 8;
        wire.send_frame(reply).await;
        if closes {
            return;
        }
    }
}

/// Waits for the next frame without a limit: a backend may be idle for the whole test.
async fn unhurried(wire: &mut Wire) -> Option<Frame> {
    wire.readable().await;
    wire.try_frame().await
}

/// A request to an [`http`] backend.
pub struct Asked {
    pub head: Head,
    pub body: Vec<u8>,
}

/// The reply of an [`http`] backend.
pub struct Reply {
    status: u16,
    lines: String,
    body: Vec<u8>,
}

/// Creates a reply with this status, without headers or body.
pub fn reply(status: u16) -> Reply {
    Reply { status, lines: String::new(), body: Vec::new() }
}

impl Reply {
    /// Adds a header line.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.lines += &format!("{name}: {value}\r\n");
        self
    }

    /// Sets the body, and its Content-Length.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

async fn answer_all(mut wire: Wire, answer: Arc<impl Fn(&Asked) -> Reply>) {
    loop {
        wire.readable().await;
        let Some(head) = wire.try_head().await else { return };
        let body = wire.body(&head, false).await;
        let asked = Asked { head, body };
        let Reply { status, lines, body } = answer(&asked);
        wire.send(format!(
            "HTTP/1.1 {status} Some Reason\r\n{lines}Content-Length: {}\r\n\r\n",
            body.len()
        ))
        .await;
        if asked.head.method() != "HEAD" {
            wire.send(&body).await;
        }
        if lines.to_ascii_lowercase().contains("connection: close") {
            return;
        }
    }
}

//! The demo's backend: an echo at `/websocket`, and the page that talks to it at `/`.
//!
//! The backend plays an ordinary WebSocket server. It knows nothing of Sidegate, speaks plain HTTP
//! on a loopback port, and runs on its own thread and runtime.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most bytes of a message or a frame.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The running backend; dropping it stops it.
pub struct Echo {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts the backend on a free loopback port; it serves `page` at `/`.
    ///
    /// # Errors
    /// No port or no thread is available.
    pub fn start(page: String) -> io::Result<Echo> {
        // Bound here, not in the thread, so that the caller sees a failure and the port.
        let socket = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("echo".into()).spawn(move || {
            // Connections that are still open at the end are dropped with the runtime.
            if let Some(Err(error)) =
                runtime.block_on(stopped.run_until_cancelled(serve(socket, page.into())))
            {
                tracing::error!(%error, "the echo backend ended");
            }
        })?;
        Ok(Echo { address, stop, thread: Some(thread) })
    }

    /// The loopback address that the backend listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(socket: StdListener, page: Bytes) -> io::Result<Infallible> {
    let socket = TcpListener::from_std(socket)?;
    let tasks = TaskTracker::new();
    loop {
        let (stream, _) = socket.accept().await?;
        let (page, echoes) = (page.clone(), tasks.clone());
        let service = service_fn(move |request| {
            let answer = answer(request, &page, &echoes);
            async { Ok::<_, Infallible>(answer) }
        });
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the echo backend failed");
            }
        });
    }
}

fn answer(
    mut request: Request<Incoming>,
    page: &Bytes,
    echoes: &TaskTracker,
) -> Response<Full<Bytes>> {
    let key = request
        .headers()
        .get(header::SEC_WEBSOCKET_KEY)
        .map(|key| derive_accept_key(key.as_bytes()));
    match (request.uri().path(), key) {
        ("/websocket", Some(accept)) => {
            echoes.spawn(echo(hyper::upgrade::on(&mut request)));
            switching(&accept)
        }
        ("/", _) => {
            let mut answer = Response::new(Full::new(page.clone()));
            let headers = answer.headers_mut();
            headers
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            answer
        }
        _ => {
            let mut answer = Response::new(Full::new(Bytes::from_static(
                b"The page is at /, the echo at /websocket.\n",
            )));
            *answer.status_mut() = StatusCode::NOT_FOUND;
            answer
        }
    }
}

/// The answer 101 with its `Sec-WebSocket-Accept` (RFC 6455 §4.2.2).
fn switching(accept: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    answer
}

/// Sends every message back until either side closes. tungstenite answers Close and Ping.
async fn echo(on: OnUpgrade) {
    let Ok(upgraded) = on.await else { return };
    let mut config = WebSocketConfig::default();
    config.read_buffer_size = 16 << 10;
    config.write_buffer_size = 16 << 10;
    config.max_message_size = Some(MAX_MESSAGE_BYTES);
    config.max_frame_size = Some(MAX_MESSAGE_BYTES);
    let mut socket =
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

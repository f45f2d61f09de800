//! The metrics listener: `/metrics`, `/livez` and `/readyz`, for those in `[metrics] allow`.
//!
//! A rejected reload or degraded watching stands in the body of `/readyz` and never takes a
//! serving host out of its load balancer: 503 is for a drain alone.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Context;

use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, Answer, PATIENCE, attend, converse, json as json_answer, text, with_type};
use crate::control::config::diagnostic::Diagnostic;
use crate::policy::network::Peer;

/// The format that Prometheus scrapes.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The bound socket.
pub struct MetricsListener {
    socket: std::net::TcpListener,
    address: SocketAddr,
}

impl MetricsListener {
    /// Binds `address`.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let at = |error: io::Error| io::Error::new(error.kind(), format!("on {address}: {error}"));
        let socket = std::net::TcpListener::bind(address).map_err(at)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(MetricsListener { socket, address })
    }

    /// What was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`.
    pub async fn serve(self, admin: Arc<Admin>, stop: CancellationToken) {
        let socket = match TcpListener::from_std(self.socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(%error, "the metrics listener cannot be served"),
        };
        let accept = |context: &mut Context<'_>| socket.poll_accept(context);
        let answer = |(stream, address): (TcpStream, SocketAddr)| {
            let admin = Arc::clone(&admin);
            async move { answer_all(&admin, stream, Peer::new(address.ip())).await }
        };
        attend(accept, answer, stop).await;
    }
}

async fn answer_all(admin: &Admin, stream: TcpStream, peer: Peer) {
    let allowed = admin.standing.settings.load().metrics.allow.longest(peer.ip()).is_some();
    converse(stream, PATIENCE, |request| {
        if !allowed {
            admin.metrics.scrape_refused();
        }
        let answer = if allowed { answer(admin, &request) } else { text(StatusCode::FORBIDDEN, "not in [metrics] allow\n") };
        async { answer }
    })
    .await;
}

fn answer(admin: &Admin, request: &Request<Incoming>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET only: what changes something is asked on the admin socket\n");
    }
    match request.uri().path() {
        "/metrics" => {
            let body = admin.metrics.scrape(&admin.live.load(), admin.drops.count(), Timestamp::now());
            with_type(StatusCode::OK, body, EXPOSITION)
        }
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" => readyz(admin, request),
        _ => text(StatusCode::NOT_FOUND, "here are /metrics, /livez and /readyz\n"),
    }
}

fn readyz(admin: &Admin, request: &Request<Incoming>) -> Answer {
    let draining = admin.tunnels.is_draining() || admin.metrics.is_draining();
    let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let word = if draining { "draining" } else { "ready" };
    let live = admin.live.load();
    let rejected = admin.standing.rejected.load_full();
    let lines: Vec<String> =
        rejected.iter().flat_map(|errors| errors.iter()).filter(|one| one.is_error()).map(Diagnostic::one_line).collect();
    let wants_json =
        request.headers().get(header::ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"application/json"));
    if wants_json {
        let body = json!({
            "status": word,
            "generation": live.generation,
            "digest": &*live.digest,
            "last_reload_rejected": lines,
            "watch_degraded": admin.metrics.is_watch_degraded(),
        });
        return json_answer(status, &body);
    }
    let mut body = format!("{word}: generation {} ({})\n", live.generation, live.digest);
    if !lines.is_empty() {
        body.push_str("the last reload was rejected, what runs was kept:\n");
        body.extend(lines.iter().map(|line| format!("  {line}\n")));
    }
    if admin.metrics.is_watch_degraded() {
        body.push_str("files are polled every 2 s, because they cannot be watched\n");
    }
    text(status, body)
}

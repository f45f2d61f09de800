//! The client of the admin socket, for every verb that needs the running agent.
//!
//! The client looks where the agent puts its socket, talks only to a process that may be the agent,
//! and returns only an answer that parses completely.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request as HttpRequest, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep, timeout};

use crate::cli::trust::{SocketError, SocketSite, TrustedUsers};
use sidegate::admin::socket_paths;
use sidegate::admin::wire::{AdminRequest, ReadError, Received, read};
use sidegate::control::config::{named_socket, reads_whole};

/// Time to wait for room in the accept queue of a busy agent.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two attempts to connect to a busy agent.
const BUSY_INTERVAL: Duration = Duration::from_millis(50);

/// Most bytes of an answer. The status of 10,000 routes takes about 8 MiB.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Why there is no usable answer.
#[derive(Debug)]
pub enum AskError {
    /// No agent runs: no path has a socket, or no process listens there.
    NoAgent(String),
    /// An agent may run, but its state is unknown.
    Unknown(String),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::NoAgent(sentence) | AskError::Unknown(sentence) => f.write_str(sentence),
        }
    }
}

/// Sends `request` to the agent of `config`, and returns its answer if it comes within `patience`.
///
/// # Errors
/// No process can be trusted, none answers in time, the answer doesn't parse, or the agent refuses
/// the request.
pub fn ask<R: AdminRequest>(
    config: &Path,
    request: &R,
    patience: Duration,
) -> Result<R::Answer, AskError> {
    hold(config, request, patience).map(|held| held.answer)
}

/// Like [`ask`], with a connection that stays open until the result is dropped.
///
/// # Errors
/// Those of [`ask`].
pub fn hold<R: AdminRequest>(
    config: &Path,
    request: &R,
    patience: Duration,
) -> Result<HeldAnswer<R::Answer>, AskError> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| AskError::Unknown(error.to_string()))?;
    let exchanged = runtime.block_on(async {
        let (path, stream) = connect(config).await?;
        let late = |_| late::<R>(&path, patience);
        let answered = timeout(patience, exchange(stream, &path, request)).await.map_err(late);
        answered.and_then(|answered| answered).map_err(AskError::Unknown)
    });
    let (answer, connection) = exchanged?;
    Ok(HeldAnswer { answer, _connection: connection, _runtime: runtime })
}

/// An answer, and the open connection that it came over.
pub struct HeldAnswer<A> {
    /// The answer.
    pub answer: A,
    // Before the runtime, whose reactor knows its socket.
    _connection: OpenConnection,
    _runtime: Runtime,
}

/// An idle connection to the agent.
struct OpenConnection {
    _sender: http1::SendRequest<Full<Bytes>>,
    _connection: http1::Connection<TokioIo<UnixStream>, Full<Bytes>>,
}

/// The sentence about an agent that has not answered in time.
fn late<R: AdminRequest>(path: &Path, patience: Duration) -> String {
    let (path, seconds) = (path.display(), patience.as_secs());
    // The agent drops an order whose caller has left. It may be in the middle of it, though.
    let open = match R::METHOD == Method::GET {
        true => "",
        false => {
            "; it drops what it has not begun, and completes the rest: look before you ask again"
        }
    };
    format!("the agent at {path} did not answer within {seconds} s: it hangs, or is stopped{open}")
}

/// Connects to the first trusted socket at which a process listens, and checks the process's user.
async fn connect(config: &Path) -> Result<(PathBuf, UnixStream), AskError> {
    let absolute = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let trust = TrustedUsers::new(config);
    let mut tried = TriedPaths::default();
    for path in candidates(&absolute) {
        let site = match trust.site(&path) {
            Ok(site) => site,
            // Only the first is kept: it is the likeliest path, and one remedy is enough.
            Err(SocketError::Untrusted(sentence)) => {
                tried.distrusted.get_or_insert(sentence);
                continue;
            }
            Err(SocketError::Io(error)) => {
                tried.add(path, &error);
                continue;
            }
        };
        // The path may have changed since its check, so the listening process is checked as well.
        match connect_to(&site.path).await {
            Ok(stream) => return check_peer(&trust, &site, stream).map(|stream| (path, stream)),
            // A full queue has an agent behind it, so no other path is tried.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(AskError::Unknown(busy(&path)));
            }
            Err(error) => tried.add(path, &error),
        }
    }
    Err(tried.failure(config))
}

fn check_peer(
    trust: &TrustedUsers,
    site: &SocketSite,
    stream: UnixStream,
) -> Result<UnixStream, AskError> {
    let unknown = |error| {
        format!("the process that listens at {} cannot be identified: {error}", site.path.display())
    };
    let peer = stream.peer_cred().map_err(|error| AskError::Unknown(unknown(error)))?;
    trust.check_peer(site, peer.uid()).map_err(AskError::Unknown)?;
    Ok(stream)
}

/// The paths tried so far, at which no agent answered.
#[derive(Default)]
struct TriedPaths {
    lines: String,
    /// The first path with permission denied; `None` means there was none.
    denied: Option<PathBuf>,
    /// The sentence about the first distrusted path; `None` means there was none.
    distrusted: Option<String>,
    /// Whether any path failed for another reason than that no agent is there.
    is_unclear: bool,
}

impl TriedPaths {
    fn add(&mut self, path: PathBuf, error: &std::io::Error) {
        let why = match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => "no socket".to_owned(),
            ErrorKind::ConnectionRefused => "a stale socket: its agent has ended".to_owned(),
            _ => {
                self.is_unclear = true;
                error.to_string()
            }
        };
        self.lines.push_str(&format!("\n  {}: {why}", path.display()));
        if error.kind() == ErrorKind::PermissionDenied {
            self.denied.get_or_insert(path);
        }
    }

    fn failure(self, config: &Path) -> AskError {
        let shown = config.display();
        // Before all else: an agent that no path has may still run at the distrusted one.
        if let Some(sentence) = self.distrusted {
            return AskError::Unknown(sentence);
        }
        if let Some(path) = self.denied {
            return AskError::Unknown(format!(
                "permission denied at {}: {}",
                path.display(),
                permission_remedy(&path)
            ));
        }
        // Only checked, not opened: the open of a FIFO could block.
        if access(config, Access::READ_OK) == Err(Errno::ACCESS) {
            let sentence = "which names the socket: run this command as root (sudo)";
            return AskError::Unknown(format!("permission denied at {shown}, {sentence}"));
        }
        let question = match reads_whole(config) {
            true => "is `sidegate run` running with it? Tried:",
            false => {
                "the file cannot be read, so an [admin] socket in it is not known; mend it, or \
                 give --config a file whose [admin] socket is the agent's. Tried:"
            }
        };
        let sentence = format!("no agent answers for {shown}: {question}{}", self.lines);
        if self.is_unclear { AskError::Unknown(sentence) } else { AskError::NoAgent(sentence) }
    }
}

/// Connects to the socket at `path`. While the accept queue is full, the kernel refuses with
/// `WouldBlock` (EAGAIN), and this tries again.
async fn connect_to(path: &Path) -> std::io::Result<UnixStream> {
    let began = Instant::now();
    loop {
        match UnixStream::connect(path).await {
            Err(error)
                if error.kind() == ErrorKind::WouldBlock && began.elapsed() < BUSY_TIMEOUT =>
            {
                sleep(BUSY_INTERVAL).await;
            }
            connected => return connected,
        }
    }
}

fn busy(path: &Path) -> String {
    format!(
        "the agent at {} is busy, or is stopped: its accept queue has been full for {} s",
        path.display(),
        BUSY_TIMEOUT.as_secs()
    )
}

/// Where the agent's socket may be: the path that the file names, and those of `auto`.
fn candidates(config: &Path) -> Vec<PathBuf> {
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    named_socket(config).into_iter().chain(socket_paths(config)).map(absolute).collect()
}

/// What to do if permission is denied at `path`.
fn permission_remedy(path: &Path) -> String {
    let group = fs::metadata(path)
        .ok()
        .filter(|socket| socket.mode() & 0o020 != 0)
        .map(|socket| socket.gid());
    match group.filter(|group| *group != 0) {
        Some(group) => {
            format!(
                "run this command as a member of the group {}, or as root (sudo)",
                group_name(group)
            )
        }
        None => "run this command as root (sudo), or give a group access with [admin] group".into(),
    }
}

/// The name of a group from /etc/group, or else its number.
fn group_name(id: u32) -> String {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let own = id.to_string();
    let line = groups.lines().find(|line| line.split(':').nth(2) == Some(&own));
    line.and_then(|line| line.split(':').next()).map_or(own.clone(), |name| format!("`{name}`"))
}

/// Sends one request over `stream` and reads its answer, of at most [`MAX_ANSWER_BYTES`] bytes.
async fn exchange<R: AdminRequest>(
    stream: UnixStream,
    path: &Path,
    request: &R,
) -> Result<(R::Answer, OpenConnection), String> {
    let shown = path.display();
    let broke =
        |error: hyper::Error| format!("the agent at {shown} closed the connection: {error}");
    let (mut sender, mut connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let http = HttpRequest::builder()
        .method(R::METHOD)
        .uri(request.target())
        .header(header::HOST, "sidegate");
    // A body without bytes is none: the request then has no Content-Length.
    let body = Full::new(Bytes::from(request.body().unwrap_or_default()));
    let http = http.body(body).map_err(|error| error.to_string())?;
    let asked = async {
        let (head, body) = sender.send_request(http).await.map_err(broke)?.into_parts();
        let too_long = |error: &dyn fmt::Display| {
            format!("the answer of the agent at {shown} is incomplete or too long: {error}")
        };
        // A declared length beyond the limit is refused before any byte of the body is read.
        // The lower bound is Content-Length; for a chunked body it is 0, and `Limited` has to hold.
        if body.size_hint().lower() > MAX_ANSWER_BYTES as u64 {
            return Err(too_long(&format_args!("{} bytes", body.size_hint().lower())));
        }
        let body = Limited::new(body, MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| too_long(&error))?;
        let server = head.headers.get(header::SERVER).and_then(|server| server.to_str().ok());
        let body = body.to_bytes();
        let answer = read(request, &Received { status: head.status, server, body: &body });
        answer.map_err(|error| match error {
            ReadError::Refused(_) => error.to_string(),
            ReadError::Foreign { .. } => format!("the agent at {shown} gave {error}"),
        })
    };
    let answer = {
        tokio::pin!(asked);
        tokio::select! {
            biased;
            answer = &mut asked => answer,
            // The connection may end first, when the answer has arrived but was not yet polled.
            _ = &mut connection => asked.await,
        }
    }?;
    Ok((answer, OpenConnection { _sender: sender, _connection: connection }))
}

#[cfg(test)]
mod tests {
    use sidegate::admin::wire::{DrainRequest, StatusRequest};

    use super::*;

    #[test]
    fn late_order_may_have_been_begun() {
        let (path, patience) = (Path::new("/run/a.sock"), Duration::from_secs(5));
        assert!(late::<StatusRequest>(path, patience).ends_with("it hangs, or is stopped"));
        let said = late::<DrainRequest>(path, patience);
        assert!(said.contains("within 5 s") && said.contains("look before"), "{said}");
    }
}

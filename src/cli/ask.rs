//! Asks the running agent over its admin socket: what the verbs that need one have in common.
//!
//! It finds the socket as the agent did; why nobody answers is a sentence that names every path it tried.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, timeout};

use sidegate::admin::socket_paths;
use sidegate::control::config::named_socket;

/// How long to wait for room in the queue of an agent that is busy.
const BUSY: Duration = Duration::from_secs(5);

/// How long between two looks whether there is room.
const BETWEEN: Duration = Duration::from_millis(50);

/// What the agent of `config` answers within `patience`.
///
/// # Errors
/// A sentence: nobody answers, or not in time, or we may not ask, or what the agent says is wrong with the request.
pub fn ask(config: &Path, method: &Method, target: &str, patience: Duration) -> Result<Value, String> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let (path, stream) = connect(config).await?;
        let late = |_| {
            format!("the agent at {} has given no answer for {} s: it hangs, or is stopped", path.display(), patience.as_secs())
        };
        timeout(patience, exchange(stream, method, target)).await.map_err(late)?
    })
}

/// A path with `parameters`, percent-encoded (RFC 3986 §2.1).
pub fn target(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut target = path.to_owned();
    for (at, (name, value)) in parameters.iter().enumerate() {
        target.push(if at == 0 { '?' } else { '&' });
        target.push_str(name);
        target.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => target.push(char::from(byte)),
                _ => target.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    target
}

/// The first socket at which somebody answers.
async fn connect(config: &Path) -> Result<(PathBuf, UnixStream), String> {
    let (mut denied, mut tried) = (None, String::new());
    for path in candidates(config) {
        let error = match connect_to(&path).await {
            Ok(stream) => return Ok((path, stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(busy(&path)),
            Err(error) => error,
        };
        let why = match error.kind() {
            ErrorKind::NotFound => "no socket".to_owned(),
            ErrorKind::ConnectionRefused => "a socket at which nobody answers: its agent is gone".to_owned(),
            _ => error.to_string(),
        };
        tried.push_str(&format!("\n  {}: {why}", path.display()));
        if error.kind() == ErrorKind::PermissionDenied {
            denied.get_or_insert(path);
        }
    }
    Err(match denied {
        Some(path) => format!("permission denied at {}: {}", path.display(), remedy(&path)),
        // Not opened: it may be a FIFO.
        None if access(config, Access::READ_OK) == Err(Errno::ACCESS) => {
            format!("permission denied at {}, which says where the socket is: ask as root (sudo)", config.display())
        }
        None => format!("no agent answers for {}: is `sidegate run` running with it? Tried:{tried}", config.display()),
    })
}

/// A connection to the socket at `path`. The kernel refuses with `WouldBlock` while the socket's queue is full.
async fn connect_to(path: &Path) -> std::io::Result<UnixStream> {
    let began = Instant::now();
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == ErrorKind::WouldBlock && began.elapsed() < BUSY => sleep(BETWEEN).await,
            connected => return connected,
        }
    }
}

fn busy(path: &Path) -> String {
    format!(
        "the agent at {} is busy, or is stopped: its queue has been full for {} s of others that wait for an answer",
        path.display(),
        BUSY.as_secs()
    )
}

/// Where the agent's socket may be: as the file says, and where `auto` puts it.
fn candidates(config: &Path) -> Vec<PathBuf> {
    let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    named_socket(&config).into_iter().chain(socket_paths(&config)).collect()
}

/// Who may ask at `path`, for one who may not.
fn remedy(path: &Path) -> String {
    let group = fs::metadata(path).ok().filter(|socket| socket.mode() & 0o020 != 0).map(|socket| socket.gid());
    match group.filter(|group| *group != 0) {
        Some(group) => format!("ask as a member of the group {}, or as root (sudo)", group_name(group)),
        None => "ask as root (sudo), or let a group in with [admin] group".into(),
    }
}

/// The name of a group as /etc/group has it, else its number.
fn group_name(id: u32) -> String {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let own = id.to_string();
    let line = groups.lines().find(|line| line.split(':').nth(2) == Some(&own));
    line.and_then(|line| line.split(':').next()).map_or(own.clone(), |name| format!("`{name}`"))
}

async fn exchange(stream: UnixStream, method: &Method, target: &str) -> Result<Value, String> {
    let broke = |error: hyper::Error| format!("the agent broke off: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let request = Request::builder().method(method).uri(target).header("host", "sidegate");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    // The sender goes with it, which ends the connection.
    let asked = async move {
        let answer = sender.send_request(request).await.map_err(broke)?;
        let body = answer.into_body().collect().await.map_err(broke)?.to_bytes();
        let other = |_| format!("what answers is no agent of this version: {}", String::from_utf8_lossy(&body).escape_debug());
        let answer: Value = serde_json::from_slice(&body).map_err(other)?;
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    };
    let (answer, _) = tokio::join!(asked, connection);
    answer
}

//! The admin socket: HTTP over a Unix socket, the only place where anything can be changed.
//!
//! Who may connect is the file system's decision: the socket's mode and group. Each command's
//! log line says which user gave it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, Answer, Order, attend, converse, json as answer_json, text};
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::{AdminSettings, AdminSocket};
use crate::control::reload::{Cause, Outcome};

/// How long a command may take: a reload waits for files that are being written.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bound socket; its file is removed on drop.
pub struct AdminListener {
    socket: Option<StdListener>,
    path: PathBuf,
}

impl AdminListener {
    /// Binds the socket that `settings` want; `None`: it is off, or no folder of `auto` is usable (a warning).
    ///
    /// # Errors
    /// The path is taken by something alive, or cannot be made.
    pub fn bind(settings: &AdminSettings, config: &Path) -> io::Result<Option<Self>> {
        let path = match &settings.socket {
            AdminSocket::Off => return Ok(None),
            AdminSocket::Path(path) => config.parent().unwrap_or(Path::new("")).join(path),
            AdminSocket::Auto => match folders().into_iter().find(|folder| is_usable(folder)) {
                Some(folder) => folder.join(file_name(config)),
                None => {
                    tracing::warn!("no folder for the admin socket is usable: name one with [admin] socket");
                    return Ok(None);
                }
            },
        };
        let at = |error: io::Error| io::Error::new(error.kind(), format!("at {}: {error}", path.display()));
        clear(&path).map_err(at)?;
        let socket = StdListener::bind(&path).map_err(at)?;
        fs::set_permissions(&path, Permissions::from_mode(settings.mode)).map_err(at)?;
        if let Some(group) = &settings.group {
            let id = group_id(group).ok_or_else(|| at(io::Error::new(io::ErrorKind::NotFound, format!("no group `{group}`"))))?;
            std::os::unix::fs::chown(&path, None, Some(id)).map_err(at)?;
        }
        socket.set_nonblocking(true)?;
        Ok(Some(AdminListener { socket: Some(socket), path }))
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
        attend(accept, |(stream, _)| answer_all(Arc::clone(&admin), stream), stop).await;
    }
}

impl Drop for AdminListener {
    fn drop(&mut self) {
        // It may be gone already, with its folder.
        let _ = fs::remove_file(&self.path);
    }
}

/// The paths at which the agent of `config` may have its `auto` socket, the likeliest first.
pub fn socket_paths(config: &Path) -> Vec<PathBuf> {
    let name = file_name(config);
    let mut paths: Vec<PathBuf> = folders().into_iter().map(|folder| folder.join(&name)).collect();
    let runtime = fs::read_dir("/run").into_iter().flatten().flatten();
    let ours = runtime.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"sidegate"));
    paths.extend(ours.map(|entry| entry.path().join(&name)));
    paths
}

/// The folders of `auto`, the first usable one wins.
fn folders() -> Vec<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // systemd may name several, separated by colons.
    let runtime = from("RUNTIME_DIRECTORY").and_then(|all| std::env::split_paths(&all).next());
    let session = from("XDG_RUNTIME_DIR").map(|folder| folder.join("sidegate"));
    let own = std::env::temp_dir().join(format!("sidegate-{}", rustix::process::getuid().as_raw()));
    runtime.into_iter().chain([PathBuf::from("/run/sidegate")]).chain(session).chain([own]).collect()
}

/// Whether we may put a socket there: a directory of ours, made if its parent lets us, that nobody else may write.
fn is_usable(folder: &Path) -> bool {
    let own = rustix::process::getuid().as_raw();
    let made = || folder.starts_with("/run/sidegate") || fs::DirBuilder::new().mode(0o700).create(folder).is_ok();
    if !folder.exists() && !made() {
        return false;
    }
    let Ok(metadata) = fs::symlink_metadata(folder) else { return false };
    let safe = metadata.is_dir() && metadata.mode() & 0o002 == 0;
    let writable = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok();
    safe && writable && (metadata.uid() == own || !folder.starts_with(std::env::temp_dir()))
}

fn file_name(config: &Path) -> String {
    let path = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{hash}.sock")
}

/// Makes room at `path`: a socket that nobody answers is removed, one that is alive is an error.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(metadata) if !std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something other than a socket is there"));
        }
        Ok(_) => {}
    }
    if StdStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent answers there"));
    }
    fs::remove_file(path)
}

/// The id of a group by name, as /etc/group has it.
fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

async fn answer_all(admin: Arc<Admin>, stream: UnixStream) {
    let uid = stream.peer_cred().map(|peer| peer.uid()).ok();
    converse(stream, PATIENCE, |request| answer(Arc::clone(&admin), request, uid)).await;
}

async fn answer(admin: Arc<Admin>, request: Request<Incoming>, uid: Option<u32>) -> Answer {
    let path = request.uri().path().to_owned();
    tracing::info!(uid, method = %request.method(), path, "admin");
    match (request.method().clone(), path.as_str()) {
        (Method::GET, "/v1/status") => answer_json(StatusCode::OK, &status(&admin)),
        (Method::POST, "/v1/reload") => reload(&admin, request.uri().query()).await,
        (Method::POST, "/v1/drain") => {
            let _ = admin.orders.send(Order::Drain).await;
            answer_json(StatusCode::ACCEPTED, &json!({ "outcome": "draining" }))
        }
        (_, "/v1/status" | "/v1/reload" | "/v1/drain") => text(StatusCode::METHOD_NOT_ALLOWED, "GET to ask, POST to change\n"),
        _ => text(StatusCode::NOT_FOUND, "here are GET /v1/status, POST /v1/reload and POST /v1/drain\n"),
    }
}

async fn reload(admin: &Admin, query: Option<&str>) -> Answer {
    if query == Some("wait=false") {
        admin.requests.nudge(Cause::Asked);
        return answer_json(StatusCode::ACCEPTED, &json!({ "outcome": "asked" }));
    }
    match admin.requests.reload(Cause::Asked).await {
        None => text(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending\n"),
        Some(Outcome::Published { generation, digest, revoked, warnings }) => answer_json(
            StatusCode::OK,
            &json!({ "outcome": "published", "generation": generation, "digest": &*digest, "revoked": revoked, "diagnostics": told(&warnings) }),
        ),
        Some(Outcome::Unchanged { generation }) => {
            answer_json(StatusCode::OK, &json!({ "outcome": "unchanged", "generation": generation }))
        }
        Some(Outcome::Rejected { errors }) => {
            answer_json(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "outcome": "rejected", "diagnostics": told(&errors) }))
        }
    }
}

fn status(admin: &Admin) -> Value {
    let live = admin.live.load();
    let rejected = admin.standing.rejected.load_full();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generation": live.generation,
        "digest": &*live.digest,
        "draining": admin.metrics.is_draining(),
        "tunnels": admin.tunnels.len(),
        "rejected": rejected.map(|errors| told(&errors)),
        "warnings": told(&admin.standing.warnings.load()),
    })
}

fn told(diagnostics: &[Diagnostic]) -> Vec<Value> {
    let one = |diagnostic: &Diagnostic| {
        json!({
            "level": if diagnostic.is_error() { "error" } else { "warning" },
            "file": &*diagnostic.file,
            "line": diagnostic.line,
            "column": diagnostic.column,
            "message": &diagnostic.message,
            "remedy": &diagnostic.remedy,
            "text": diagnostic.render(false),
        })
    };
    diagnostics.iter().map(one).collect()
}

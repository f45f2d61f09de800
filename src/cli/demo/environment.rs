//! The demo's environment: a folder with configuration, policy and certificates, the backend, and
//! free ports.

use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::cli::certificate::issue;
use crate::cli::demo::echo::Echo;
use sidegate::control::config::schema;

/// The shipped demo policy.
const POLICY: &str = include_str!("../../../policies/demo.toml");

/// The shipped list of the demo policy.
pub const LIST: &str = include_str!("../../../policies/lists/demo.cidr");

const CONFIG: &str = include_str!("sidegate.toml");
const PAGE: &str = include_str!("page.html");

/// The policy of the page, which the list of the demo does not affect.
const PAGE_POLICY: &str = include_str!("page.toml");

/// The preferred ports, and how many further ones are tried.
const HTTPS_PORT: u16 = 8443;
const METRICS_PORT: u16 = 10464;
const STATUS_PORT: u16 = 10564;
const MAX_PORT_PROBES: u16 = 100;

/// Validity of the certificate, in days. It is short, so that a forgotten demo doesn't stay
/// trusted.
const CERTIFICATE_DAYS: i32 = 7;

/// Name of the admin socket.
const SOCKET: &str = "sidegate.sock";

/// Most bytes of a Unix socket's path (unix(7): 108 with the final NUL).
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The prepared environment. Dropping it stops the backend and removes the folder.
pub struct DemoEnvironment {
    backend: Echo,
    folder: TempDir,
    /// A folder with a short path for the admin socket. `None` means that `folder` has one.
    short: Option<TempDir>,
    v6: bool,
}

/// Ports that were free a moment ago; another process may still take them.
pub struct DemoPorts {
    /// Port of the page and the WebSocket.
    pub https: u16,
    /// Port of the metrics listener.
    pub metrics: u16,
    /// Port of the live page.
    pub status: u16,
}

impl DemoEnvironment {
    /// Creates the folder and all files that don't name a port, and starts the backend.
    pub fn create() -> io::Result<DemoEnvironment> {
        let folder = tempfile::Builder::new().prefix("sidegate-demo-").tempdir()?;
        let path = folder.path();
        fs::create_dir_all(path.join("policies/lists"))?;
        fs::create_dir(path.join("certs"))?;
        fs::create_dir(path.join(".schema"))?;
        fs::write(path.join(".schema/config.json"), schema::CONFIG)?;
        fs::write(path.join(".schema/policy.json"), schema::POLICY)?;
        fs::write(list(path), LIST)?;
        fs::write(path.join("policies/page.toml"), PAGE_POLICY)?;
        let (authority, pair) =
            issue("Sidegate demo", CERTIFICATE_DAYS).map_err(io::Error::other)?;
        fs::write(authority_of(path), authority)?;
        fs::write(path.join("certs/localhost.pem"), pair.chain)?;
        let key = path.join("certs/localhost.key");
        fs::write(&key, pair.key)?;
        // Not too late: the folder itself admits only this user.
        fs::set_permissions(key, Permissions::from_mode(0o600))?;
        let backend = Echo::start(PAGE.replace("{list}", &html_escaped(&list(path))))?;
        // Containers often have no ::1, and a listener there would keep the agent from starting.
        let v6 = is_free((Ipv6Addr::LOCALHOST, 0).into());
        let is_deep = path.join(SOCKET).as_os_str().len() > MAX_SOCKET_PATH_BYTES;
        let short = tempfile::Builder::new().prefix("sidegate-demo-").tempdir_in("/tmp");
        // Without either, the demo does without the socket.
        let short = short.ok().filter(|_| is_deep);
        Ok(DemoEnvironment { backend, folder, short, v6 })
    }

    /// Finds free ports, and writes `sidegate.toml` and the policy with them.
    pub fn write(&self) -> io::Result<DemoPorts> {
        let https = next_free(HTTPS_PORT, |port| {
            is_free((Ipv4Addr::LOCALHOST, port).into())
                && (!self.v6 || is_free((Ipv6Addr::LOCALHOST, port).into()))
        })?;
        let metrics = next_free(METRICS_PORT, |port| is_free((Ipv4Addr::LOCALHOST, port).into()))?;
        let status = next_free(STATUS_PORT, |port| is_free((Ipv4Addr::LOCALHOST, port).into()))?;
        let admin = self.socket().map_or("off".into(), |path| path.display().to_string());
        let mut config = CONFIG
            .replace("{https}", &https.to_string())
            .replace("{metrics}", &metrics.to_string())
            .replace("{status}", &status.to_string())
            .replace("{admin}", &admin)
            .replace("{backend}", &self.backend().to_string());
        if self.v6 {
            config.push_str(&format!(
                "\n[[listener]]\nname   = \"public-v6\"\nlisten = \"[::1]:{https}\"\n"
            ));
        }
        let ports = DemoPorts { https, metrics, status };
        fs::write(self.config(), config)?;
        fs::write(self.folder().join("policies/demo.toml"), ports.policy())?;
        Ok(ports)
    }

    /// The temporary folder with all files of the demo.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Path of the admin socket, relative to the configuration if it is beside it. `None` means
    /// that no folder has a path short enough.
    fn socket(&self) -> Option<PathBuf> {
        let short = self.short.as_ref().map(|folder| folder.path().join(SOCKET));
        let is_short = self.folder().join(SOCKET).as_os_str().len() <= MAX_SOCKET_PATH_BYTES;
        short.or_else(|| is_short.then(|| SOCKET.into()))
    }

    /// Path of the demo's `sidegate.toml`.
    pub fn config(&self) -> PathBuf {
        self.folder().join("sidegate.toml")
    }

    /// Path of the authority's certificate.
    pub fn authority(&self) -> PathBuf {
        authority_of(self.folder())
    }

    /// Path of the list of admitted networks.
    pub fn list(&self) -> PathBuf {
        list(self.folder())
    }

    /// Address of the backend.
    pub fn backend(&self) -> SocketAddr {
        self.backend.address()
    }
}

impl DemoPorts {
    /// The policy's text. It admits the page by its origin, which includes the port.
    pub fn policy(&self) -> String {
        POLICY.replace(&format!(":{HTTPS_PORT}"), &format!(":{}", self.https))
    }

    /// Lines about the preferred ports that are taken; empty if none is.
    pub fn taken_notice(&self) -> String {
        let told = |wanted, got| match wanted == got {
            true => String::new(),
            false => format!("Port {wanted} is taken: {got} instead.\n"),
        };
        let all = told(HTTPS_PORT, self.https)
            + &told(METRICS_PORT, self.metrics)
            + &told(STATUS_PORT, self.status);
        if all.is_empty() { all } else { all + "\n" }
    }
}

fn list(folder: &Path) -> PathBuf {
    folder.join("policies/lists/demo.cidr")
}

fn authority_of(folder: &Path) -> PathBuf {
    folder.join("certs/ca.pem")
}

fn next_free(first: u16, is_free: impl Fn(u16) -> bool) -> io::Result<u16> {
    let last = first + MAX_PORT_PROBES;
    let taken = || {
        io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("every port from {first} to {last} is taken"),
        )
    };
    (first..=last).find(|port| is_free(*port)).ok_or_else(taken)
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// A path, escaped for HTML.
fn html_escaped(path: &Path) -> String {
    path.display().to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

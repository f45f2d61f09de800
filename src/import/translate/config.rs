//! One configuration of Sidegate, as values that `write` turns into files.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::import::nginx::listen::NginxAddress;
use crate::import::translate::policy::OutputPolicy;
use crate::import::translate::route::OutputRoute;
use sidegate::policy::peers::PeerPattern;

/// One `sidegate.toml` with its policies.
#[derive(Debug)]
pub struct OutputConfig {
    /// Directory of its own, relative to the output. `None` means the output directory itself.
    pub folder: Option<String>,
    /// The `[[listener]]` tables, one per socket.
    pub listeners: Vec<OutputListener>,
    /// Chain and key of each certificate, the default one first.
    pub certificates: Vec<(PathBuf, PathBuf)>,
    /// The `[[route]]` tables in the order in which they are written.
    pub routes: Vec<OutputRoute>,
    /// The policies that its routes name.
    pub policies: Vec<OutputPolicy>,
    /// The hosts of its routes as `server_name` writes them; `_` means every other host.
    pub hosts: Vec<String>,
}

impl OutputConfig {
    /// Returns its path, listeners and hosts as JSON for the report.
    pub fn json(&self, path: &Path) -> Value {
        let listen: Vec<_> =
            self.listeners.iter().map(|listener| listener.address.to_string()).collect();
        json!({ "file": path.display().to_string(), "listen": listen, "hosts": self.hosts })
    }
}

/// A `[[listener]]` table of `sidegate.toml`.
#[derive(Debug)]
pub struct OutputListener {
    /// Unique name, such as `tls-443`.
    pub name: String,
    /// Address or path of its socket.
    pub address: NginxAddress,
    /// The protocol spoken on it.
    pub speaks: OutputProtocol,
    /// `proxy_protocol.from`. Empty means no such key.
    pub proxies: Vec<PeerPattern>,
    /// `forwarded.from`, for the header `x-forwarded-for`. Empty means no such key.
    pub forwarders: Vec<PeerPattern>,
}

/// The protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputProtocol {
    /// TLS, with the listener's settings.
    Tls {
        /// `tls_min = "1.3"`: TLS 1.2 is refused.
        only_13: bool,
        /// `strict_sni = true`: unknown names get no certificate.
        strict_sni: bool,
    },
    /// Plain HTTP and WebSocket.
    Plain,
    /// Plain HTTP that redirects every request to https.
    Redirect,
}

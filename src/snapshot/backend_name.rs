//! Backends that are named instead of addressed, and the addresses that their names have.
//!
//! The control plane resolves the names and stores the answers here. The data plane reads the last
//! answer, and never waits for one.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use rustls::pki_types::ServerName;
use tokio::sync::Notify;

/// The backend of a URL whose host is a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackendName {
    /// The host in lower case; a trailing dot is kept, since it keeps search domains out.
    pub host: Box<str>,
    /// The port, 80 or 443 by default.
    pub port: u16,
    /// The name that the backend's certificate has to hold. `None` means plain `http://`.
    pub server_name: Option<ServerName<'static>>,
}

impl BackendName {
    /// The host without a trailing dot, as Host and SNI have it (RFC 6066 §3).
    pub fn bare_host(&self) -> &str {
        self.host.strip_suffix('.').unwrap_or(&self.host)
    }

    /// Whether the name always means this host: `localhost`, and all names below it (RFC 6761
    /// §6.3).
    pub fn is_localhost(&self) -> bool {
        let host = self.bare_host();
        host == "localhost" || host.ends_with(".localhost")
    }

    /// The addresses of a name that always means this host. Empty means that the name has to be
    /// resolved.
    pub fn fixed_addresses(&self) -> Vec<SocketAddr> {
        if !self.is_localhost() {
            return Vec::new();
        }
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        [v4, v6].map(|ip| SocketAddr::new(ip, self.port)).into()
    }

    /// Whether the name has one label, as names of container networks have.
    pub fn is_single_label(&self) -> bool {
        !self.host.contains('.')
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.server_name.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// The addresses of one name and port. All routes that name them share it, over reloads too.
#[derive(Debug)]
pub struct NameState {
    host: Box<str>,
    port: u16,
    answer: ArcSwap<NameAnswer>,
    /// Number of changes of the addresses.
    changes: AtomicU64,
    /// Whether no look-up has ended yet.
    is_pending: AtomicBool,
    /// Whether an early resolution is wanted.
    is_wanted: AtomicBool,
    wake: Arc<Notify>,
}

/// The latest result of resolving a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameAnswer {
    /// The addresses to dial: IPv4 first, each once.
    pub addresses: Arc<[SocketAddr]>,
    /// Why the latest look-up gave no address; `addresses` are older then. `None` means that it
    /// succeeded.
    pub fault: Option<Arc<str>>,
}

impl NameState {
    /// The state of a name before its first look-up. `wake` wakes the task that resolves.
    pub(super) fn new(name: &BackendName, wake: Arc<Notify>) -> Self {
        let addresses: Arc<[SocketAddr]> = name.fixed_addresses().into();
        let is_pending = addresses.is_empty();
        let fault = is_pending.then(|| "not resolved yet".into());
        NameState {
            host: name.host.clone(),
            port: name.port,
            answer: ArcSwap::from_pointee(NameAnswer { addresses, fault }),
            changes: AtomicU64::new(0),
            is_pending: AtomicBool::new(is_pending),
            is_wanted: AtomicBool::new(false),
            wake,
        }
    }

    /// Whether the state is that of `name`, whatever its scheme.
    pub(super) fn is_of(&self, name: &BackendName) -> bool {
        self.host == name.host && self.port == name.port
    }

    /// The host as the resolver gets it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port of the backend.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The answer of the latest look-up, and the addresses in use.
    pub fn answer(&self) -> Arc<NameAnswer> {
        self.answer.load_full()
    }

    /// A sentence about the latest look-up and the addresses in use. `None` means that it gave
    /// addresses.
    pub fn fault_sentence(&self) -> Option<String> {
        let answer = self.answer.load();
        let fault = answer.fault.as_ref()?;
        let in_use = match answer.addresses.len() {
            0 => "no address is known".to_owned(),
            1 => "the last address stays in use".into(),
            several => format!("the last {several} addresses stay in use"),
        };
        Some(format!("the name {self} does not resolve: {fault}; {in_use}"))
    }

    /// Stores the result of a look-up, and returns the answer before it.
    pub fn store(&self, next: NameAnswer) -> Arc<NameAnswer> {
        let addresses = Arc::clone(&next.addresses);
        let before = self.answer.swap(Arc::new(next));
        self.is_pending.store(false, Ordering::Relaxed);
        if before.addresses != addresses {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        before
    }

    /// Number of changes of the addresses so far.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Whether no look-up has ended yet.
    pub fn is_pending(&self) -> bool {
        self.is_pending.load(Ordering::Relaxed)
    }

    /// Asks for an early resolution, since no address serves.
    pub fn want(&self) {
        if !self.is_wanted.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Wakes the task that resolves: a look-up of the name has ended.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Takes back the wish for an early resolution, and says whether there was one.
    pub fn take_wish(&self) -> bool {
        self.is_wanted.swap(false, Ordering::Relaxed)
    }

    /// Whether there is a wish for an early resolution.
    pub fn has_wish(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }
}

impl fmt::Display for NameState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

//! Sockets that a reload binds before it publishes and hands over after: listeners, the metrics
//! listener and the admin socket. An unchanged socket is not touched. If one of them cannot be
//! bound, all stay as they are.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::addresses::BoundAddresses;
use crate::admin::{AdminListener, MetricsListener, Served};
use crate::agent::listeners::{Listeners, Unavailable};
use crate::control::config::diagnostic::{Diagnostic, Place};
use crate::control::config::{MetricsAddress, Settings};
use crate::control::reload::{Bind, Takeover};
use crate::control::systemd::sockets::Sockets;
use crate::data::listener::overlap;
use crate::snapshot::listener::{Address, Listener};

/// Binds the sockets that a reload adds.
pub struct Rebind {
    /// Absolute path of `sidegate.toml`.
    pub config: PathBuf,
    /// Sockets passed by systemd.
    pub passed: Arc<Sockets>,
    /// The listeners of the data plane.
    pub listeners: Arc<Listeners>,
    /// Published addresses of those listeners.
    pub addresses: Arc<BoundAddresses>,
    /// The metrics listener, replaced on a change.
    pub scrapes: Arc<Served<MetricsListener>>,
    /// The admin socket, replaced on a change.
    pub asks: Arc<Served<AdminListener>>,
}

impl Rebind {
    /// Returns the function that the reloader calls.
    pub fn into_bind(self) -> Bind {
        Arc::new(move |now, next| self.rebind(now, next))
    }

    fn rebind(&self, now: &Settings, next: &Settings) -> Result<Takeover, Vec<Diagnostic>> {
        // All three are tried before any error returns, so that one reload reports every socket in
        // the way.
        let accepting =
            self.listeners.prepare(&next.listeners).map_err(|Unavailable { listener, error }| {
                let taken = address(&listener)
                    .zip(self.scrapes.at())
                    .is_some_and(|(one, other)| overlap(one, other));
                rejected(
                    next.written.listener(&listener.name),
                    &cannot_listen(&listener),
                    &error,
                    taken,
                )
            });
        let scraped =
            (now.metrics.listen != next.metrics.listen).then(|| self.metrics(next)).transpose();
        let asked = (now.admin != next.admin).then(|| self.admin(next)).transpose();
        let (accepting, scraped, asked) = match (accepting, scraped, asked) {
            (Ok(accepting), Ok(scraped), Ok(asked)) => (accepting, scraped, asked),
            (accepting, scraped, asked) => {
                let all = [accepting.err(), scraped.err(), asked.err()];
                return Err(all.into_iter().flatten().flatten().collect());
            }
        };
        let (listeners, scrapes, asks) =
            (Arc::clone(&self.listeners), Arc::clone(&self.scrapes), Arc::clone(&self.asks));
        Ok(Box::new(move || {
            listeners.take_over(accepting);
            if let Some(scraped) = scraped {
                scrapes.replace(scraped);
            }
            if let Some(asked) = asked {
                asks.replace(asked.map(AdminListener::settle));
            }
        }))
    }

    fn metrics(&self, next: &Settings) -> Result<Option<MetricsListener>, Vec<Diagnostic>> {
        let Some(wanted) = &next.metrics.listen else { return Ok(None) };
        let bound = MetricsListener::bind(wanted, &self.passed, self.scrapes.at());
        bound.map(Some).map_err(|error| {
            let taken = match wanted {
                MetricsAddress::Tcp(wanted) => {
                    self.addresses.load().iter().any(|one| overlap(one.address, *wanted))
                }
                MetricsAddress::Unix(_) | MetricsAddress::Systemd(_) => false,
            };
            rejected(next.written.metrics(), METRICS, &error, taken)
        })
    }

    fn admin(&self, next: &Settings) -> Result<Option<AdminListener>, Vec<Diagnostic>> {
        let bound =
            AdminListener::bind(&next.admin, &self.config, &self.passed, self.asks.at().as_deref());
        bound.map_err(|error| rejected(next.written.admin(), ADMIN, &error, false))
    }
}

/// Messages for a socket that cannot listen: of `[metrics]`, of `[admin]`, of a listener.
pub const METRICS: &str = "[metrics] cannot listen";
pub const ADMIN: &str = "[admin] cannot listen";
pub fn cannot_listen(listener: &Listener) -> String {
    format!("listener `{}` cannot listen on {}", listener.name, listener.address)
}

fn address(listener: &Listener) -> Option<SocketAddr> {
    match listener.address {
        Address::Tcp(address) => Some(address),
        Address::Systemd(_) => None,
    }
}

/// The diagnostic for a failed bind. `ours` means that another socket of this process has the
/// address.
fn rejected(place: Place, what: &str, error: &io::Error, ours: bool) -> Vec<Diagnostic> {
    let (what, remedy) = told(what, error);
    let remedy = if ours && error.kind() == io::ErrorKind::AddrInUse {
        Some(
            "sidegate itself uses that port until this reload: move the other socket in one \
             reload, and this one in the next",
        )
    } else {
        remedy
    };
    vec![Diagnostic::error(place, what, remedy.map(str::to_owned))]
}

/// The message for a socket that is not available, and a remedy if there is one.
pub fn told(what: &str, error: &io::Error) -> (String, Option<&'static str>) {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => {
            Some("another program listens on this address; stop it, or choose another address")
        }
        io::ErrorKind::PermissionDenied => {
            Some("not permitted; ports below 1024 need CAP_NET_BIND_SERVICE")
        }
        io::ErrorKind::AddrNotAvailable => Some("no interface has this address"),
        _ => None,
    };
    (format!("{what}: {error}"), remedy)
}

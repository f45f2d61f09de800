//! Sockets that a reload binds before it publishes and hands over after: listeners, the metrics
//! listener, the admin socket and that of the page. An unchanged socket is not touched. If one of
//! them cannot be bound, all stay as they are.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::addresses::BoundAddresses;
use crate::admin::{AdminListener, MetricsListener, PageListener};
use crate::agent::admin_listeners::AdminListeners;
use crate::agent::listeners::{BindError, Listeners};
use crate::control::config::diagnostic::{Diagnostic, Span};
use crate::control::config::{MetricsAddress, PageAddress, Settings};
use crate::control::reload::{BindFn, TakeoverFn};
use crate::control::systemd::sockets::PassedSockets;
use crate::data::listener::overlap;
use crate::snapshot::listener::{ListenAddress, Listener};

/// Binds the sockets that a reload adds.
pub struct SocketBinder {
    /// Absolute path of `sidegate.toml`.
    pub config: PathBuf,
    /// Sockets passed by systemd.
    pub passed: Arc<PassedSockets>,
    /// The listeners of the data plane.
    pub listeners: Arc<Listeners>,
    /// Published addresses of those listeners.
    pub addresses: Arc<BoundAddresses>,
    /// The sockets of `admin`, replaced on a change.
    pub admin: AdminListeners,
}

impl SocketBinder {
    /// Returns the function that the reloader calls.
    pub fn into_bind(self) -> BindFn {
        Arc::new(move |now, next| self.rebind(now, next))
    }

    fn rebind(&self, now: &Settings, next: &Settings) -> Result<TakeoverFn, Vec<Diagnostic>> {
        // All are tried before any error returns, so that one reload reports every socket in
        // the way.
        let accepting =
            self.listeners.prepare(&next.listeners).map_err(|BindError { listener, error }| {
                let taken = address(&listener).is_some_and(|wanted| self.is_read_only(wanted));
                bind_diagnostic(
                    next.written.listener(&listener.name),
                    &listener_bind_failed(&listener),
                    &error,
                    taken,
                )
            });
        let scraped =
            (now.metrics.listen != next.metrics.listen).then(|| self.metrics(next)).transpose();
        let keeps_socket = now.admin.has_socket_of(&next.admin);
        let asked = (!keeps_socket).then(|| self.admin_socket(next)).transpose();
        let keeps_page = now.admin.page.has_socket_of(&next.admin.page);
        let shown = (!keeps_page).then(|| self.page(next)).transpose();
        let (accepting, scraped, asked, shown) = match (accepting, scraped, asked, shown) {
            (Ok(accepting), Ok(scraped), Ok(asked), Ok(shown)) => {
                (accepting, scraped, asked, shown)
            }
            (accepting, scraped, asked, shown) => {
                let all = [accepting.err(), scraped.err(), asked.err(), shown.err()];
                return Err(all.into_iter().flatten().flatten().collect());
            }
        };
        let (listeners, admin) = (Arc::clone(&self.listeners), self.admin.clone());
        Ok(Box::new(move || {
            // Nothing here can fail: all sockets are bound, and the generation runs already.
            listeners.take_over(accepting);
            if let Some(scraped) = scraped {
                admin.scrapes.replace(scraped);
            }
            if let Some(asked) = asked {
                admin.asks.replace(asked.map(AdminListener::commit));
            }
            if let Some(shown) = shown {
                admin.pages.replace(shown.map(PageListener::commit));
            }
        }))
    }

    fn metrics(&self, next: &Settings) -> Result<Option<MetricsListener>, Vec<Diagnostic>> {
        let Some(wanted) = &next.metrics.listen else { return Ok(None) };
        let bound = MetricsListener::bind(wanted, &self.passed, self.admin.scrapes.address());
        bound.map(Some).map_err(|error| {
            let taken = match wanted {
                MetricsAddress::Tcp(wanted) => self.is_own(*wanted),
                MetricsAddress::Unix(_) | MetricsAddress::Systemd(_) => false,
            };
            bind_diagnostic(next.written.metrics(), METRICS_BIND_FAILED, &error, taken)
        })
    }

    fn page(&self, next: &Settings) -> Result<Option<PageListener>, Vec<Diagnostic>> {
        let bound = PageListener::bind(
            &next.admin.page,
            self.passed.inherited(),
            self.admin.pages.address().as_ref(),
        );
        bound.map_err(|error| {
            let taken = match next.admin.page.listen {
                Some(PageAddress::Tcp(wanted)) => self.is_own(wanted),
                Some(PageAddress::Unix(_)) | None => false,
            };
            bind_diagnostic(next.written.page(), PAGE_BIND_FAILED, &error, taken)
        })
    }

    /// Whether a socket of this process listens on the port now.
    fn is_own(&self, wanted: SocketAddr) -> bool {
        let addresses = self.addresses.load();
        let mut listeners = addresses.iter().filter_map(|one| one.address.tcp());
        listeners.any(|one| overlap(one, wanted)) || self.is_read_only(wanted)
    }

    /// Whether the metrics listener or that of the page has the port now.
    fn is_read_only(&self, wanted: SocketAddr) -> bool {
        let page = match self.admin.pages.address() {
            Some(PageAddress::Tcp(page)) => Some(page),
            Some(PageAddress::Unix(_)) | None => None,
        };
        self.admin.scrapes.address().into_iter().chain(page).any(|one| overlap(one, wanted))
    }

    fn admin_socket(&self, next: &Settings) -> Result<Option<AdminListener>, Vec<Diagnostic>> {
        let bound = AdminListener::bind(
            &next.admin,
            &self.config,
            &self.passed,
            self.admin.asks.address().as_deref(),
        );
        bound.map_err(|error| {
            bind_diagnostic(next.written.admin(), ADMIN_BIND_FAILED, &error, false)
        })
    }
}

/// Messages for a socket that cannot listen: of `[metrics]`, of `[admin]`, of the page, of a
/// listener.
pub const METRICS_BIND_FAILED: &str = "[metrics] cannot listen";
pub const ADMIN_BIND_FAILED: &str = "[admin] cannot listen";
pub const PAGE_BIND_FAILED: &str = "[admin] page_listen cannot listen";
pub fn listener_bind_failed(listener: &Listener) -> String {
    format!("listener `{}` cannot listen on {}", listener.name, listener.address)
}

fn address(listener: &Listener) -> Option<SocketAddr> {
    match listener.address {
        ListenAddress::Tcp(address) => Some(address),
        ListenAddress::Unix(_) | ListenAddress::Systemd(_) => None,
    }
}

/// The diagnostic for a failed bind. `ours` means that another socket of this process has the
/// address.
fn bind_diagnostic(place: Span, what: &str, error: &io::Error, ours: bool) -> Vec<Diagnostic> {
    let (what, remedy) = bind_error_message(what, error);
    // The kernel reports both cases alike, but no other program has to be stopped here.
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
pub fn bind_error_message(what: &str, error: &io::Error) -> (String, Option<&'static str>) {
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

//! Caps the log lines about one client: the first few of each window, then one line with the number
//! left out.
//!
//! Each data-plane thread has a cap of its own, so a client whose connections spread gets that many
//! lines on each. Memory is bounded: clients beyond the table share one window. Only refusals and
//! delays are capped. Permitted requests are bounded by rules (`upgrades`, `requests`), not by the
//! log.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::policy::network::{Client, ClientKey};
use crate::sync::lock;

/// Length of the window in which a client's refusals are counted together.
const WINDOW_LENGTH: Duration = Duration::from_secs(10);

/// Lines shown in each window of a client.
const MAX_WINDOW_LINES: u64 = 10;

/// Most clients with a window of their own; further ones share `ThrottleWindows::others`.
const MAX_CLIENTS: usize = 1024;

/// One thread's cap. The number of lines left out is logged when a window ends, or when the cap is
/// dropped.
#[derive(Default)]
pub struct LogThrottle {
    lines: LineKind,
    windows: Mutex<ThrottleWindows>,
}

/// The kind of lines that a cap counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LineKind {
    /// Refusals of connections and requests.
    #[default]
    Refusals,
    /// TLS handshakes that wait for their client's rate.
    Delays,
}

/// The facts of a line that its summary repeats.
#[derive(Debug, Clone, Copy)]
pub struct SummaryFields<'a> {
    /// The route, or `-`.
    pub route: &'a str,
    /// Name of the listener.
    pub listener: &'a str,
    /// Word of the refusal or of the candidate's difference, or `delayed`.
    pub reason: &'static str,
}

impl LogThrottle {
    /// Creates a cap for lines of this kind.
    pub fn new(lines: LineKind) -> Self {
        LogThrottle { lines, windows: Mutex::default() }
    }

    /// Counts a line about `client` at `now`; returns whether to log it.
    pub fn admits(&self, client: Client, about: SummaryFields<'_>, now: Instant) -> bool {
        let (is_shown, before) = self.lock().count(client.key(), about, now);
        // The lock is released here: writing a line takes longer than counting it.
        before.into_iter().for_each(|summary| summary.log(self.lines));
        is_shown
    }

    /// Logs summaries of the windows that have ended. The caller does this about once a second.
    pub fn flush_ended(&self, now: Instant) {
        let ended = self.lock().take_ended(now);
        ended.into_iter().for_each(|summary| summary.log(self.lines));
    }

    fn lock(&self) -> MutexGuard<'_, ThrottleWindows> {
        lock(&self.windows)
    }
}

impl Drop for LogThrottle {
    fn drop(&mut self) {
        let left = self.lock().take_all();
        left.into_iter().for_each(|summary| summary.log(self.lines));
    }
}

#[derive(Default)]
struct ThrottleWindows {
    clients: HashMap<ClientKey, ThrottleWindow>,
    /// The window that clients beyond `MAX_CLIENTS` share; `None` means not yet used.
    others: Option<ThrottleWindow>,
}

struct ThrottleWindow {
    began: Instant,
    refused: u64,
    route: Box<str>,
    listener: Box<str>,
    reason: &'static str,
}

/// Number of lines left out of one window. Route, listener and reason are those of the last one.
#[derive(Debug, PartialEq, Eq)]
struct ThrottleSummary {
    client: WindowClient,
    left_out: u64,
    route: Box<str>,
    listener: Box<str>,
    reason: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WindowClient {
    One(ClientKey),
    Others,
}

impl ThrottleWindows {
    /// Counts a line. Returns whether to show it, and the summary of the client's previous window
    /// if that has just ended.
    fn count(
        &mut self,
        key: ClientKey,
        about: SummaryFields<'_>,
        now: Instant,
    ) -> (bool, Option<ThrottleSummary>) {
        let has_room = self.clients.len() < MAX_CLIENTS || self.clients.contains_key(&key);
        let (whom, window) = if has_room {
            (
                WindowClient::One(key),
                self.clients.entry(key).or_insert_with(|| ThrottleWindow::new(about, now)),
            )
        } else {
            (
                WindowClient::Others,
                self.others.get_or_insert_with(|| ThrottleWindow::new(about, now)),
            )
        };
        let before = window
            .has_ended(now)
            .then(|| std::mem::replace(window, ThrottleWindow::new(about, now)));
        (window.count(about), before.and_then(|before| before.summary(whom)))
    }

    fn take_ended(&mut self, now: Instant) -> Vec<ThrottleSummary> {
        let clients = self.clients.extract_if(|_, window| window.has_ended(now));
        let clients = clients.filter_map(|(key, window)| window.summary(WindowClient::One(key)));
        let others = self.others.take_if(|window| window.has_ended(now));
        clients.chain(others.and_then(|window| window.summary(WindowClient::Others))).collect()
    }

    fn take_all(&mut self) -> Vec<ThrottleSummary> {
        let clients =
            self.clients.drain().filter_map(|(key, window)| window.summary(WindowClient::One(key)));
        clients
            .chain(self.others.take().and_then(|window| window.summary(WindowClient::Others)))
            .collect()
    }
}

impl ThrottleWindow {
    fn new(about: SummaryFields<'_>, began: Instant) -> Self {
        ThrottleWindow {
            began,
            refused: 0,
            route: about.route.into(),
            listener: about.listener.into(),
            reason: about.reason,
        }
    }

    fn has_ended(&self, now: Instant) -> bool {
        now.duration_since(self.began) >= WINDOW_LENGTH
    }

    fn count(&mut self, about: SummaryFields<'_>) -> bool {
        self.refused += 1;
        self.reason = about.reason;
        // Mostly nothing changes, and the comparison spares an allocation.
        for (last, this) in [(&mut self.route, about.route), (&mut self.listener, about.listener)] {
            if **last != *this {
                *last = this.into();
            }
        }
        self.refused <= MAX_WINDOW_LINES
    }

    fn summary(self, client: WindowClient) -> Option<ThrottleSummary> {
        let left_out =
            self.refused.checked_sub(MAX_WINDOW_LINES).filter(|left_out| *left_out > 0)?;
        Some(ThrottleSummary {
            client,
            left_out,
            route: self.route,
            listener: self.listener,
            reason: self.reason,
        })
    }
}

impl ThrottleSummary {
    fn log(self, lines: LineKind) {
        let ThrottleSummary { client, left_out, route, listener, reason } = self;
        match lines {
            LineKind::Refusals => {
                tracing::info!(route, listener, %client, result = "refused", reason, left_out, "refusals left out");
            }
            LineKind::Delays => {
                tracing::info!(listener, %client, left_out, "delayed TLS handshakes left out");
            }
        }
    }
}

impl fmt::Display for WindowClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WindowClient::One(key) => key.fmt(f),
            WindowClient::Others => f.write_str("others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: SummaryFields<'_> =
        SummaryFields { route: "ticks", listener: "public", reason: "network" };
    const RATE: SummaryFields<'_> =
        SummaryFields { route: "chat", listener: "public", reason: "rate" };

    fn key(address: &str) -> ClientKey {
        Client::new(address.parse().unwrap()).key()
    }

    /// Refuses `address` so many times; how many of them are shown.
    fn check(
        windows: &mut ThrottleWindows,
        address: &str,
        times: usize,
        now: Instant,
        shown: usize,
    ) {
        let counted = (0..times).filter(|_| windows.count(key(address), NETWORK, now).0).count();
        assert_eq!(counted, shown, "{address}");
    }

    fn said(summaries: Vec<ThrottleSummary>) -> Vec<String> {
        let mut said: Vec<_> = summaries
            .iter()
            .map(|one| {
                format!(
                    "{} {} {} {} {}",
                    one.client, one.left_out, one.route, one.listener, one.reason
                )
            })
            .collect();
        said.sort();
        said
    }

    #[test]
    fn flood_shows_ten_lines_and_counts_the_rest() {
        let (mut windows, began) = (ThrottleWindows::default(), Instant::now());
        check(&mut windows, "192.0.2.1", 1000, began, 10);
        assert_eq!(windows.count(key("192.0.2.1"), RATE, began), (false, None));
        check(&mut windows, "192.0.2.2", 3, began, 3);
        assert_eq!(said(windows.take_ended(began + WINDOW_LENGTH / 2)), [""; 0]);
        assert_eq!(
            said(windows.take_ended(began + WINDOW_LENGTH)),
            ["192.0.2.1 991 chat public rate"]
        );
        assert!(windows.clients.is_empty());
    }

    #[test]
    fn continuing_flood_is_counted_per_window() {
        let (mut windows, began) = (ThrottleWindows::default(), Instant::now());
        check(&mut windows, "192.0.2.1", 30, began, 10);
        let (is_shown, before) = windows.count(key("192.0.2.1"), NETWORK, began + WINDOW_LENGTH);
        assert_eq!(
            (is_shown, said(before.into_iter().collect())),
            (true, vec!["192.0.2.1 20 ticks public network".into()])
        );
        check(&mut windows, "192.0.2.1", 10, began + WINDOW_LENGTH, 9);
        assert_eq!(said(windows.take_all()), ["192.0.2.1 1 ticks public network"]);
    }

    #[test]
    fn an_ipv6_client_is_its_64() {
        let (mut windows, now) = (ThrottleWindows::default(), Instant::now());
        check(&mut windows, "2001:db8::1", 8, now, 8);
        check(&mut windows, "2001:db8::ffff:1", 8, now, 2);
        check(&mut windows, "2001:db8:0:1::1", 8, now, 8);
        assert_eq!(said(windows.take_all()), ["2001:db8::/64 6 ticks public network"]);
    }

    #[test]
    fn clients_beyond_the_bound_share_a_window() {
        let (mut windows, now) = (ThrottleWindows::default(), Instant::now());
        for client in 0..5000_u32 {
            windows.count(ClientKey::V4(client), NETWORK, now);
        }
        assert_eq!(windows.clients.len(), MAX_CLIENTS);
        let left_out = 5000 - MAX_CLIENTS as u64 - MAX_WINDOW_LINES;
        assert_eq!(
            said(windows.take_ended(now + WINDOW_LENGTH)),
            [format!("others {left_out} ticks public network")]
        );
        assert!(windows.clients.is_empty() && windows.others.is_none());
    }
}

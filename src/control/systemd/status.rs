//! The sentence that `systemctl status` shows.
//!
//! Made of facts that the log and the metrics report too. Decides nothing.

use std::fmt::Write;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::control::reload::ConfigStatus;
use crate::lifecycle::Stage;
use crate::observe::metrics::Metrics;
use crate::snapshot::CurrentSnapshot;
use crate::tunnels::Tunnels;

/// Most bytes of the sentence: systemd takes 4096, people a line or two.
const MAX_STATUS_BYTES: usize = 600;

/// Sources of the sentence.
pub struct StatusSources {
    /// The running generation, for its number, digest and routes.
    pub live: Arc<CurrentSnapshot>,
    /// The live tunnels and exchanges, for their numbers.
    pub tunnels: Arc<Tunnels>,
    /// State of the files: rejections, and whether they are polled.
    pub config_status: Arc<ConfigStatus>,
    /// Whether the clients of each listener can be told apart.
    pub metrics: Arc<Metrics>,
}

impl StatusSources {
    /// One line about the state of the process at `now`.
    pub(super) fn sentence(&self, now: Instant, stage: Stage, stalled: &[Arc<str>]) -> String {
        let mut tunnels = count(self.tunnels.len());
        match self.tunnels.exchanges_len() {
            0 => {}
            1 => tunnels.push_str(" and 1 exchange"),
            exchanges => drop(write!(tunnels, " and {exchanges} exchanges")),
        }
        let mut said = match stage {
            Stage::Draining(drain) => {
                let left = drain.deadline.saturating_duration_since(now).as_secs_f64().ceil();
                format!("draining: {tunnels} left, cut in {left} s")
            }
            Stage::Ended => format!("ended: {tunnels} left"),
            Stage::Starting | Stage::Serving => {
                let live = self.live.load();
                let since = self.config_status.since.load().strftime("%Y-%m-%d %H:%M UTC");
                let routes = live.route_list.len();
                let routes =
                    if routes == 1 { "1 route".to_owned() } else { format!("{routes} routes") };
                format!(
                    "generation {} ({}) since {since}, {tunnels} on {routes}",
                    live.generation, live.digest
                )
            }
        };
        for name in stalled {
            let _ = write!(said, "; {name} has stopped turning");
        }
        if let Some(rejected) = self.config_status.rejected.load_full() {
            let mut errors = rejected.iter().filter(|one| one.is_error());
            if let Some(first) = errors.next() {
                let _ = write!(said, "; last reload rejected: {} {}", first.place(), first.message);
            }
            match errors.count() {
                0 => {}
                1 => said.push_str(" (and 1 more)"),
                more => drop(write!(said, " (and {more} more)")),
            }
        }
        let pending = self.config_status.hold.pending.load_full();
        let pending = pending.map(|pending| pending.sentence());
        let sentences = pending.into_iter().chain(self.config_status.unwatched_sentence());
        for sentence in sentences.chain(self.live.load().expired_crls(Timestamp::now())) {
            let _ = write!(said, "; {sentence}");
        }
        for sentence in self.metrics.collapsed_identities() {
            let _ = write!(said, "; {sentence}");
        }
        line(&said)
    }
}

/// The number with thousands separators and its noun: "1 tunnel", "3,102 tunnels".
fn count(tunnels: usize) -> String {
    let digits = tunnels.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{grouped} tunnel{}", if tunnels == 1 { "" } else { "s" })
}

/// `text` without control characters, cut at `MAX_STATUS_BYTES` bytes.
fn line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let end = plain.floor_char_boundary(MAX_STATUS_BYTES);
    if end == plain.len() { plain } else { format!("{}…", &plain[..end]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        let check = |tunnels, expected| assert_eq!(count(tunnels), expected);
        check(0, "0 tunnels");
        check(1, "1 tunnel");
        check(999, "999 tunnels");
        check(3102, "3,102 tunnels");
        check(1_234_567, "1,234,567 tunnels");
    }

    #[test]
    fn status_is_one_line_of_bounded_length() {
        assert_eq!(line("a\nb\x1b[0m"), "a b [0m");
        let long = line(&"é".repeat(1000));
        assert!(
            long.ends_with("é…") && long.len() <= MAX_STATUS_BYTES + "…".len(),
            "{}",
            long.len()
        );
    }
}

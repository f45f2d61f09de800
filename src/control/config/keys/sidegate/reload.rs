//! `[reload]`.

use std::time::Duration;

use crate::control::config::document::unit::ShareOrCount;
use crate::control::config::keys::key::{Key, KeyTable, KeyWithDefault};
use crate::control::config::keys::kind::{choice, duration, positive_duration, share_or_number};
use crate::control::config::settings::WatchMode;

pub static TABLE: KeyTable = KeyTable {
    keys: &[&WATCH, &POLL_INTERVAL, &REVOKE_SPREAD, &MAX_REVOKED, &MAX_WIDENED],
    reload: "`max_revoked`, `max_widened` and `revoke_spread` hold for this reload already, the \
             other keys from it on.",
    ..KeyTable::EMPTY
};

pub static WATCH: KeyWithDefault<WatchMode> = Key::new(
    "watch",
    choice(&[
        ("auto", WatchMode::Auto),
        ("poll", WatchMode::Poll),
        ("off", WatchMode::Off),
        ("hold", WatchMode::Hold),
    ]),
    "\"auto\": inotify, and polling where that fails; \"poll\": every 2 s; \"off\": SIGHUP and \
     `sidegate reload` alone; \"hold\": like \"auto\", but a save is checked and reported, and \
     counts only after `sidegate reload`. Certificates and lists marked `live` are never held.",
)
.default(|| WatchMode::Auto);

pub static POLL_INTERVAL: KeyWithDefault<Duration> = Key::new(
    "poll",
    positive_duration(),
    "Interval of the poll beside inotify; 2 s while watching is degraded.",
)
.default(|| Duration::from_secs(30));

pub static REVOKE_SPREAD: KeyWithDefault<Duration> = Key::new(
    "revoke_spread",
    duration(),
    "Newly refused tunnels are closed over this time; \"0s\" closes them at once.",
)
.default(|| Duration::from_secs(2));

pub static MAX_REVOKED: KeyWithDefault<ShareOrCount> = Key::new(
    "max_revoked",
    share_or_number(),
    "A reload that would close more of the open tunnels and streams, as a share or a number, is \
     rejected until `sidegate reload --accept-revocations`.",
)
.default(|| ShareOrCount::Percent(100));

pub static MAX_WIDENED: KeyWithDefault<ShareOrCount> = Key::new(
    "max_widened",
    share_or_number(),
    "A reload that would let in more new addresses, as a share of IPv4 or of IPv6, or more \
     networks and wider rules, as a number, is rejected until `sidegate reload \
     --accept-widening`.",
)
.default(|| ShareOrCount::Percent(100));

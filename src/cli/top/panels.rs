//! The panels: each table of an overview with its heads, in an order.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::cli::status::format::{bytes, day, duration, number, rate};
use crate::cli::status::table::Tone;
use crate::cli::top::table::PanelTable;
use crate::cli::top::text::TextPiece;
use sidegate::admin::wire::{
    BusyClient, CandidateHits, DiagnosticReport, EXPIRY_WARNING_DAYS, OverviewAnswer,
    RouteActivity, Severity, Time,
};

/// A table of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Panel {
    /// Open tunnels and rates by route.
    Routes,
    /// Counts of refusals by reason.
    Reasons,
    /// Clients with open tunnels.
    Clients,
    /// Clients that were refused.
    Refused,
    /// Candidates, with what they would change.
    Candidates,
    /// Certificates by their expiry.
    Certificates,
    /// Bans by their end.
    Bans,
    /// Errors of the last reload, and warnings.
    Notes,
    /// Backends with their state.
    Backends,
    /// Entries that lapse soon.
    Lapsing,
}

/// The order of a panel's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By number of open tunnels.
    Tunnels,
    /// By bytes each second.
    Rate,
    /// By bytes since each tunnel opened.
    Bytes,
    /// By refusals in the last fifteen minutes, or each second.
    Refused,
    /// By refusals since the start.
    Total,
    /// By the time of the last refusal.
    Latest,
    /// By name, from A on.
    Name,
    /// As the agent sends it.
    Given,
}

impl Order {
    /// The word of the help line.
    pub const fn word(self) -> &'static str {
        match self {
            Order::Tunnels => "tunnels",
            Order::Rate => "bytes/s",
            Order::Bytes => "bytes",
            Order::Refused => "refused",
            Order::Total => "since start",
            Order::Latest => "last",
            Order::Name => "name",
            Order::Given => "urgency",
        }
    }
}

impl Panel {
    /// All variants, in the order of their keys 1 to 9 and 0.
    pub const ALL: [Panel; 10] = [
        Panel::Routes,
        Panel::Reasons,
        Panel::Clients,
        Panel::Refused,
        Panel::Candidates,
        Panel::Certificates,
        Panel::Bans,
        Panel::Notes,
        Panel::Backends,
        Panel::Lapsing,
    ];

    /// The orders that the panel has; the first is the default.
    pub const fn orders(self) -> &'static [Order] {
        match self {
            Panel::Routes => &[Order::Tunnels, Order::Rate, Order::Refused, Order::Name],
            Panel::Reasons => &[Order::Refused, Order::Total, Order::Name],
            Panel::Clients => &[Order::Tunnels, Order::Rate, Order::Bytes, Order::Name],
            Panel::Refused => &[Order::Refused, Order::Latest, Order::Name],
            Panel::Candidates
            | Panel::Certificates
            | Panel::Bans
            | Panel::Notes
            | Panel::Backends
            | Panel::Lapsing => &[Order::Given],
        }
    }
}

/// The bytes each second of clients, from two overviews.
pub type ClientRates = HashMap<String, f64>;

/// The table of a panel, in the given order.
pub fn table(
    panel: Panel,
    overview: &OverviewAnswer,
    rates: &ClientRates,
    order: Order,
) -> PanelTable {
    match panel {
        Panel::Routes => routes(overview, order),
        Panel::Reasons => reasons(overview, order),
        Panel::Clients => clients(overview, rates, order),
        Panel::Refused => refused(overview, order),
        Panel::Candidates => candidates(overview),
        Panel::Certificates => certificates(overview),
        Panel::Bans => bans(overview),
        Panel::Notes => notes(overview),
        Panel::Backends => backends(overview),
        Panel::Lapsing => lapsing(overview),
    }
}

fn count(value: u64) -> TextPiece {
    TextPiece::plain(&number(value))
}

/// A number that calls for attention unless it is 0.
fn alarming(value: u64) -> TextPiece {
    TextPiece::new(&number(value), if value > 0 { Tone::Warning } else { Tone::Plain })
}

/// A number of bytes each second. `None` means not yet known.
fn byte_rate(value: Option<f64>) -> TextPiece {
    TextPiece::plain(&value.map_or_else(|| "-".into(), bytes))
}

fn text_or_dash(text: Option<&str>) -> TextPiece {
    TextPiece::plain(text.unwrap_or("-"))
}

/// The seconds from `at` to `now`.
fn seconds(at: Time, now: Time) -> i64 {
    now.0.duration_since(at.0).as_secs()
}

/// A number by which floating-point rates are ordered: the most first.
fn descending(rate: f64) -> Reverse<u64> {
    // Rates are never negative; thousandths are all that the agent sends.
    Reverse((rate * 1000.0) as u64)
}

fn routes(overview: &OverviewAnswer, order: Order) -> PanelTable {
    let traffic = |route: &RouteActivity| {
        let rates = route.per_second.as_ref();
        rates.map(|rates| rates.from_client.bytes + rates.from_backend.bytes)
    };
    let per_second = |route: &RouteActivity, of: fn((f64, f64)) -> f64| {
        let rates = route.per_second.as_ref();
        rates.map(|rates| of((rates.opened, rates.refused)))
    };
    let mut all: Vec<_> = overview.routes.iter().collect();
    match order {
        Order::Rate => all.sort_by_key(|one| descending(traffic(one).unwrap_or_default())),
        Order::Refused => {
            all.sort_by_key(|one| descending(per_second(one, |both| both.1).unwrap_or_default()));
        }
        Order::Name => all.sort_by(|one, other| one.name.cmp(&other.name)),
        _ => {}
    }
    let shown = |value: Option<f64>| TextPiece::plain(&value.map_or_else(|| "-".into(), rate));
    let row = |route: &&RouteActivity| {
        vec![
            TextPiece::plain(&route.name),
            count(route.tunnels),
            shown(per_second(route, |both| both.0)),
            shown(per_second(route, |both| both.1)),
            byte_rate(traffic(route)),
            TextPiece::plain(&route.policy),
        ]
    };
    PanelTable {
        heads: vec!["ROUTES", ">TUNNELS", ">OPENED/S", ">REFUSED/S", ">BYTES/S", "POLICY"],
        essential: 2,
        rows: all.iter().map(row).collect(),
        total: overview.route_count,
        empty: "no route",
    }
}

fn reasons(overview: &OverviewAnswer, order: Order) -> PanelTable {
    let mut all: Vec<_> = overview.reasons.iter().collect();
    match order {
        Order::Total => all.sort_by_key(|one| Reverse(one.refused)),
        Order::Name => all.sort_by(|one, other| one.reason.cmp(&other.reason)),
        _ => {}
    }
    let row = |one: &&sidegate::admin::wire::ReasonCount| {
        vec![TextPiece::plain(&one.reason), alarming(one.recently), count(one.refused)]
    };
    PanelTable {
        heads: vec!["REFUSALS", ">IN 15 MIN", ">SINCE START"],
        essential: 3,
        rows: all.iter().map(row).collect(),
        total: overview.reasons.len() as u64,
        empty: "no refusal since the start",
    }
}

fn clients(overview: &OverviewAnswer, rates: &ClientRates, order: Order) -> PanelTable {
    // The agent sends two lists, each with the first of its order.
    let mut all: Vec<&BusyClient> = overview.most_tunnels.iter().collect();
    let known: std::collections::HashSet<_> = all.iter().map(|one| &one.client).collect();
    let more: Vec<_> =
        overview.most_bytes.iter().filter(|one| !known.contains(&one.client)).collect();
    all.extend(more);
    let total = |one: &BusyClient| one.bytes_from_client.saturating_add(one.bytes_from_backend);
    match order {
        Order::Rate => {
            all.sort_by_key(|one| descending(rates.get(&one.client).copied().unwrap_or_default()));
        }
        Order::Bytes => all.sort_by_key(|one| Reverse(total(one))),
        Order::Name => all.sort_by(|one, other| one.client.cmp(&other.client)),
        _ => all.sort_by_key(|one| Reverse(one.tunnels)),
    }
    let row = |one: &&BusyClient| {
        vec![
            TextPiece::plain(&one.client),
            count(one.tunnels),
            byte_rate(rates.get(&one.client).copied()),
            TextPiece::plain(&bytes(one.bytes_from_client as f64)),
            TextPiece::plain(&bytes(one.bytes_from_backend as f64)),
            text_or_dash(one.identity.as_deref()),
        ]
    };
    PanelTable {
        heads: vec!["CLIENTS", ">TUNNELS", ">BYTES/S", ">FROM CLIENT", ">FROM BACKEND", "IDENTITY"],
        essential: 3,
        rows: all.iter().map(row).collect(),
        total: overview.client_count,
        empty: "no open tunnel",
    }
}

fn refused(overview: &OverviewAnswer, order: Order) -> PanelTable {
    let Some(refused) = &overview.refused_clients else {
        return PanelTable {
            heads: vec!["REFUSED CLIENTS"],
            essential: 1,
            rows: Vec::new(),
            total: 0,
            empty: "off: set [admin] recent_decisions and recent_bytes",
        };
    };
    let mut all: Vec<_> = refused.clients.iter().collect();
    match order {
        Order::Latest => all.sort_by_key(|one| Reverse(one.last)),
        Order::Name => all.sort_by(|one, other| one.client.cmp(&other.client)),
        _ => {}
    }
    let row = |one: &&sidegate::admin::wire::RefusedRow| {
        let place = one.entry_at.as_deref().or(one.rule_at.as_deref());
        vec![
            TextPiece::plain(&one.client),
            count(one.refused),
            TextPiece::plain(&one.reason),
            text_or_dash(one.entry.as_deref()),
            text_or_dash(place),
            TextPiece::plain(&format!("{} ago", duration(seconds(one.last, overview.now)))),
            text_or_dash(one.identity.as_deref()),
            text_or_dash(one.request_id.as_deref()),
        ]
    };
    PanelTable {
        heads: vec![
            "REFUSED CLIENTS",
            ">TIMES",
            "REASON",
            "ENTRY",
            "AT",
            ">LAST",
            "IDENTITY",
            "REQUEST ID",
        ],
        essential: 3,
        rows: all.iter().map(row).collect(),
        total: refused.client_count,
        empty: "no refused client in 15 min",
    }
}

fn candidates(overview: &OverviewAnswer) -> PanelTable {
    let names = |one: &CandidateHits| {
        let first: Vec<_> = one.clients.iter().take(5).map(|hit| hit.client.as_str()).collect();
        let more = one.client_count.saturating_sub(first.len() as u64);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        if first.is_empty() { "-".into() } else { format!("{}{rest}", first.join(" ")) }
    };
    let row = |one: &CandidateHits| {
        vec![
            TextPiece::plain(&one.policy),
            alarming(one.would_refuse),
            one.would_revoke.map_or_else(|| TextPiece::plain("-"), alarming),
            alarming(one.would_admit),
            TextPiece::plain(&names(one)),
            TextPiece::plain(&one.file),
        ]
    };
    PanelTable {
        heads: vec!["CANDIDATES", ">REFUSE", ">CLOSE", ">ADMIT", "CLIENTS", "FILE"],
        essential: 4,
        rows: overview.candidates.iter().map(row).collect(),
        total: overview.candidate_count,
        empty: "no candidate",
    }
}

fn certificates(overview: &OverviewAnswer) -> PanelTable {
    let row = |one: &sidegate::admin::wire::CertificateStatus| {
        let tone = match one.days_left {
            ..0 => Tone::Error,
            0..EXPIRY_WARNING_DAYS => Tone::Warning,
            _ => Tone::Plain,
        };
        let left =
            if one.days_left < 0 { "expired".into() } else { format!("{} d", one.days_left) };
        vec![
            TextPiece::plain(&one.chain),
            TextPiece::new(&left, tone),
            TextPiece::plain(&day(one.not_after)),
            TextPiece::plain(&one.names.join(" ")),
        ]
    };
    PanelTable {
        heads: vec!["CERTIFICATES", ">LEFT", "EXPIRES", "NAMES"],
        essential: 2,
        rows: overview.certificates.iter().map(row).collect(),
        total: overview.certificate_count,
        empty: "no certificate",
    }
}

fn bans(overview: &OverviewAnswer) -> PanelTable {
    let row = |one: &sidegate::admin::wire::BanStatus| {
        let ends = one.until.map_or_else(
            || "never".into(),
            |until| format!("in {}", duration(seconds(overview.now, until))),
        );
        vec![
            TextPiece::plain(&one.target),
            TextPiece::plain(&ends),
            TextPiece::plain(&one.origin),
            TextPiece::plain(&one.why),
        ]
    };
    PanelTable {
        heads: vec!["BANS", ">END", "ORIGIN", "WHY"],
        essential: 2,
        rows: overview.bans.iter().map(row).collect(),
        total: overview.ban_count,
        empty: "no ban in force",
    }
}

fn notes(overview: &OverviewAnswer) -> PanelTable {
    let warnings = overview.warnings.iter();
    let warnings = warnings.map(|one| TextPiece::new(&one.sentence, Tone::Warning));
    let files = overview.diagnostics.iter().map(|one| TextPiece::new(&note(one), Tone::Warning));
    let errors = errors(overview).map(|one| TextPiece::new(&note(one), Tone::Error));
    PanelTable {
        heads: vec!["RELOAD ERRORS AND WARNINGS"],
        essential: 1,
        rows: errors.chain(warnings).chain(files).map(|piece| vec![piece]).collect(),
        total: overview.error_count + overview.warning_count + overview.diagnostic_count,
        empty: "none",
    }
}

/// The errors that rejected the last reload.
pub fn errors(overview: &OverviewAnswer) -> impl Iterator<Item = &DiagnosticReport> {
    let all = overview.last_reload.iter().flat_map(|last| &last.diagnostics);
    all.filter(|one| one.level == Severity::Error)
}

/// A diagnostic as `policies/chat.toml:2:8: fault (remedy)`.
pub fn note(one: &DiagnosticReport) -> String {
    let DiagnosticReport { file, line, column, message, remedy, .. } = one;
    // From the folder of the policies on, as in `sidegate status`; the screen is narrow.
    let start = file.rfind("/policies/").or_else(|| file.rfind('/'));
    let name = start.map_or(&**file, |start| &file[start + 1..]);
    let remedy = remedy.as_ref().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
    format!("{name}:{line}:{column}: {message}{remedy}")
}

fn backends(overview: &OverviewAnswer) -> PanelTable {
    let row = |one: &sidegate::admin::wire::BackendStatus| {
        let state = match one.up {
            true => TextPiece::new("up", Tone::Good),
            false => TextPiece::new("down", Tone::Error),
        };
        let addresses = one.addresses.as_ref().map(|all| all.join(" "));
        let why = one.unresolved.as_deref().or(addresses.as_deref());
        vec![TextPiece::plain(&one.address), state, text_or_dash(why)]
    };
    PanelTable {
        heads: vec!["BACKENDS", "STATE", "ADDRESSES"],
        essential: 2,
        rows: overview.backends.iter().map(row).collect(),
        total: overview.backend_count,
        empty: "no backend",
    }
}

fn lapsing(overview: &OverviewAnswer) -> PanelTable {
    let row = |one: &sidegate::admin::wire::LapsingEntry| {
        vec![
            TextPiece::plain(&one.entry),
            TextPiece::plain(&format!("in {}", duration(seconds(overview.now, one.lapses)))),
            TextPiece::plain(&one.place),
            text_or_dash(one.owner.as_deref()),
            text_or_dash(one.ticket.as_deref()),
        ]
    };
    PanelTable {
        heads: vec!["ENTRIES THAT LAPSE", ">LAPSE", "AT", "OWNER", "TICKET"],
        essential: 2,
        rows: overview.lapsing.iter().map(row).collect(),
        total: overview.lapsing_count,
        empty: "none within 30 days",
    }
}

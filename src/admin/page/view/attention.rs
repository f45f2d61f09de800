//! What needs an action, the worst first, and the sentence that a screen reader says when it
//! changes.

use maud::{Markup, html};

use super::text::{Foreign, counted, until};
use crate::admin::wire::{LapsingEntry, OverviewAnswer, StageWord, Warning, WarningKind};

/// Hours before entries of lists lapse in which they need attention.
const LAPSING_HOURS: u64 = 24;

/// Something that needs an action.
struct Item {
    level: Level,
    /// A name of few words.
    name: String,
    sentence: String,
    /// The command that shows or mends it. Empty means none.
    command: &'static str,
    /// The section that has more about it. Empty means none.
    section: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// A part of the service is broken.
    Error,
    /// A part will break, or may surprise.
    Warning,
    /// A decision is due.
    Notice,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Notice => "notice",
        }
    }
}

/// The list of everything that needs an action.
pub fn attention(overview: &OverviewAnswer) -> Markup {
    let items = items(overview);
    html! {
        @if items.is_empty() {
            section #attention hidden {}
        } @else {
            section #attention aria-labelledby="attention-title" {
                h2 #attention-title { "Needs action" }
                ul { @for item in &items { (entry(item)) } }
                (more(overview))
            }
        }
    }
}

fn entry(item: &Item) -> Markup {
    html! {
        li class=(item.level.word()) {
            span.level { (item.level.word()) }
            div {
                strong { (Foreign(&item.name)) }
                p { (Foreign(&item.sentence)) }
            }
            @if !item.command.is_empty() { code { (item.command) } }
            @if !item.section.is_empty() {
                a href={ "#" (item.section) } { "Details" span.hidden { " of " (item.name) } }
            }
        }
    }
}

/// Says that there are more warnings than the overview has rows.
fn more(overview: &OverviewAnswer) -> Markup {
    let more = overview.warning_count.saturating_sub(overview.warnings.len() as u64);
    html! { @if more > 0 { p.more { "And " (counted(more, "more warning")) } } }
}

/// The stage and the number of items in one sentence. It holds no number that changes by itself, so
/// that a screen reader says it when something happened.
/// The script takes the title of the window from it.
pub fn summary(overview: &OverviewAnswer, title: &str) -> Markup {
    // Seen only where the list below it is not.
    let class = (number(overview) > 0).then_some("hidden");
    html! {
        p #summary role="status" class=[class] data-title=(title) { (summary_text(overview)) }
    }
}

/// The sentence of [`summary`].
pub fn summary_text(overview: &OverviewAnswer) -> String {
    let stage = match &overview.stage {
        StageWord::Starting => "Starting",
        StageWord::Serving => "Serving",
        StageWord::Draining => "Draining",
        StageWord::Ended => "Ended",
        StageWord::Other(_) => "In an unknown stage",
    };
    let items = items(overview);
    let mut names: Vec<_> = items.iter().map(|item| &*item.name).collect();
    names.dedup();
    match (names.len(), items.len()) {
        (0, _) => format!("{stage}. Nothing needs an action."),
        (_, 1) => format!("{stage}. One thing needs an action: {}.", names.join(", ")),
        (_, all) => format!("{stage}. {all} things need an action: {}.", names.join(", ")),
    }
}

/// Counts the things that need an action.
pub fn number(overview: &OverviewAnswer) -> usize {
    items(overview).len()
}

fn items(overview: &OverviewAnswer) -> Vec<Item> {
    let mut items: Vec<Item> = overview.warnings.iter().map(of_warning).collect();
    let diagnostics = overview.diagnostics.len() as u64;
    if diagnostics > 0 {
        items.push(Item {
            level: Level::Warning,
            name: "Warnings about the files".into(),
            sentence: format!("{} about the files that run", counted(diagnostics, "warning")),
            command: "sidegate check",
            section: "files",
        });
    }
    let hit = overview.candidates.iter().filter(|one| one.would_revoke.is_some_and(|all| all > 0));
    items.extend(hit.map(|candidate| Item {
        level: Level::Notice,
        name: format!("Candidate of {}", candidate.policy),
        sentence: format!(
            "It would close {} once it is promoted",
            counted(candidate.would_revoke.unwrap_or_default(), "open tunnel")
        ),
        command: "",
        section: "candidates",
    }));
    let soon =
        |entry: &&LapsingEntry| until(overview.now, entry.lapses).as_secs() < LAPSING_HOURS * 3600;
    // An entry of a candidate is not in force, and mostly one of its policy as well.
    let in_force = overview.lapsing.iter().filter(|entry| !entry.candidate);
    let soon = in_force.filter(soon).count() as u64;
    if soon > 0 {
        let verb = if soon == 1 { "lapses" } else { "lapse" };
        let entries = if soon == 1 { "1 entry".to_owned() } else { format!("{soon} entries") };
        items.push(Item {
            level: Level::Notice,
            name: "Lapsing entries".into(),
            sentence: format!("{entries} of lists {verb} within a day"),
            command: "sidegate lapsing",
            section: "lapsing",
        });
    }
    items.sort_by_key(|item| item.level);
    items
}

fn of_warning(Warning { word, sentence }: &Warning) -> Item {
    use Level::{Error, Notice, Warning};
    let (level, name, command, section) = match word {
        WarningKind::Draining => (Notice, "Draining", "", "routes"),
        WarningKind::Rejected => (Error, "Reload rejected", "sidegate check", "files"),
        WarningKind::Pending => (Notice, "Saves pending", "sidegate diff", "files"),
        WarningKind::Overridden => (Warning, "Test overridden", "sidegate status", "files"),
        WarningKind::WatchDegraded => (Warning, "Watching degraded", "", "files"),
        WarningKind::IdentityCollapsed => (Warning, "Clients look alike", "", "clients"),
        WarningKind::BackendDown => (Error, "Backend down", "", "backends"),
        WarningKind::Unresolved => (Warning, "Name does not resolve", "", "backends"),
        WarningKind::Certificate => (Warning, "Certificate expires", "", "certificates"),
        WarningKind::CrlExpired => (Error, "Revocation list expired", "", ""),
        WarningKind::State => (Warning, "State not kept", "sidegate status", "files"),
        WarningKind::Crowdsec => (Warning, "CrowdSec", "sidegate bans --refused", "bans"),
        WarningKind::Stale => (Warning, "List is stale", "", ""),
        WarningKind::Capacity => (Warning, "Policy nearly full", "sidegate tunnels", "routes"),
        WarningKind::OneClient => (Warning, "One client", "sidegate tunnels", "clients"),
        WarningKind::LogDrops => (Warning, "Log lines dropped", "", ""),
        WarningKind::Panics => (Error, "Bug in Sidegate", "", ""),
        WarningKind::Other(_) => (Warning, "Warning", "sidegate status", ""),
    };
    Item { level, name: name.into(), sentence: sentence.clone(), command, section }
}

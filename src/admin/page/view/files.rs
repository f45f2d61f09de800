//! The files: the last reload, warnings, candidates, entries that lapse.

use maud::{Markup, html};

use super::table::{Column, numbers, table, words};
use super::text::{Foreign, count, counted, moment, or_dash, span, until};
use crate::admin::wire::{
    CandidateHits, DiagnosticReport, HitClient, LapsingEntry, LastOutcome, LastReload,
    OverviewAnswer, Severity,
};
use crate::observe::printable;

/// The last reload, its errors, and the warnings about the files that run.
pub fn files(overview: &OverviewAnswer) -> Markup {
    html! {
        section #files aria-labelledby="files-title" {
            h2 #files-title { "Files" }
            p { (last_reload(overview)) }
            @if let Some(last) = &overview.last_reload { (diagnostics(&last.diagnostics)) }
            @if !overview.diagnostics.is_empty() {
                h3 { "Warnings about the generation that runs" }
                (diagnostics(&overview.diagnostics))
            }
        }
    }
}

fn last_reload(overview: &OverviewAnswer) -> Markup {
    let generation = overview.generation;
    html! {
        @match &overview.last_reload {
            None => { "No reload since the start. Generation " (generation) " runs." }
            Some(LastReload { outcome, cause, at, .. }) => {
                @let at = moment(*at, overview.now);
                @match outcome {
                    LastOutcome::Published => {
                        strong.ok { "Published" } " at " (at) ", " (cause.to_string()) "."
                    }
                    LastOutcome::Unchanged => {
                        strong.ok { "Unchanged" } " at " (at) ", " (cause.to_string()) "."
                    }
                    LastOutcome::Rejected => {
                        strong.bad { "Rejected" } " at " (at) ", " (cause.to_string())
                        ". Generation " (generation) " keeps running."
                    }
                }
            }
        }
    }
}

fn diagnostics(reports: &[DiagnosticReport]) -> Markup {
    html! {
        @if !reports.is_empty() {
            ul.diagnostics { @for report in reports { (diagnostic(report)) } }
        }
    }
}

fn diagnostic(report: &DiagnosticReport) -> Markup {
    let level = match report.level {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    html! {
        li class=(level) {
            span.level { (level) }
            div {
                p { (Foreign(&report.message)) }
                @if let Some(remedy) = &report.remedy { p.remedy { (Foreign(remedy)) } }
                p.place { (Foreign(&format!("{}:{}:{}", report.file, report.line, report.column))) }
                details {
                    summary { "As the command prints it" }
                    // Lines that others wrote: their controls become marks, but for the newlines.
                    pre { (*printable::lines(&report.text)) }
                }
            }
        }
    }
}

/// The candidates, with what they would change.
pub fn candidates(overview: &OverviewAnswer) -> Markup {
    const COLUMNS: [Column; 5] = [
        words("Policy"),
        numbers("Would close"),
        numbers("Would refuse"),
        numbers("Would admit"),
        words("Clients"),
    ];
    let row = |one: &CandidateHits| {
        vec![
            html! { (Foreign(&one.policy)) " " span.place { (Foreign(&one.file)) } },
            or_dash(one.would_revoke.map(count).as_deref()),
            html! { (count(one.would_refuse)) },
            html! { (count(one.would_admit)) },
            hits(one),
        ]
    };
    html! {
        @if overview.candidates.is_empty() {
            section #candidates hidden {}
        } @else {
            section #candidates aria-labelledby="candidates-title" {
                h2 #candidates-title { "Candidates" }
                (table(
                    "Open tunnels that a promotion would close, and requests since the start that \
                     would be judged otherwise",
                    &COLUMNS,
                    overview.candidates.iter().map(row),
                    overview.candidate_count,
                ))
            }
        }
    }
}

fn hits(candidate: &CandidateHits) -> Markup {
    html! {
        @if candidate.clients.is_empty() { (or_dash(None)) }
        @for (index, hit) in candidate.clients.iter().enumerate() {
            @if index > 0 { ", " }
            code { (Foreign(&hit.client)) } " (" (affected(hit)) ")"
        }
        @let more = candidate.client_count.saturating_sub(candidate.clients.len() as u64);
        @if more > 0 { " and " (counted(more, "more client")) }
    }
}

/// What of a client a candidate would end or refuse.
fn affected(hit: &HitClient) -> String {
    let counts = [(hit.tunnels, "tunnel"), (hit.requests, "request")];
    let some = counts.into_iter().filter(|(number, _)| *number > 0);
    some.map(|(number, noun)| counted(number, noun)).collect::<Vec<_>>().join(", ")
}

/// The entries of lists that lapse soon.
pub fn lapsing(overview: &OverviewAnswer) -> Markup {
    const COLUMNS: [Column; 5] = [
        words("Entry"),
        words("Lapses in"),
        words("List"),
        words("Owner and ticket"),
        words("Place"),
    ];
    let row = |entry: &LapsingEntry| {
        let about: Vec<&str> =
            [&entry.owner, &entry.ticket].into_iter().filter_map(|one| one.as_deref()).collect();
        vec![
            html! { code { (Foreign(&entry.entry)) } },
            html! { (span(until(overview.now, entry.lapses))) },
            html! {
                (Foreign(&entry.list)) " of " (Foreign(&entry.policy))
                @if entry.candidate { " (candidate)" }
            },
            or_dash((!about.is_empty()).then(|| about.join(", ")).as_deref()),
            html! { span.place { (Foreign(&entry.place)) } },
        ]
    };
    html! {
        @if overview.lapsing.is_empty() {
            section #lapsing hidden {}
        } @else {
            section #lapsing aria-labelledby="lapsing-title" {
                h2 #lapsing-title { "Entries that lapse" }
                (table(
                    "Within 30 days, the earliest first",
                    &COLUMNS,
                    overview.lapsing.iter().map(row),
                    overview.lapsing_count,
                ))
            }
        }
    }
}

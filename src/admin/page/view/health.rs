//! Backends, certificates and bans.

use maud::{Markup, html};

use super::table::{Column, numbers, table, words};
use super::text::{Foreign, count, counted, moment, or_dash, span, until};
use crate::admin::wire::{
    BackendStatus, BanStatus, CertificateStatus, EXPIRY_WARNING_DAYS, OverviewAnswer,
};

/// The backends, with the broken ones first.
pub fn backends(overview: &OverviewAnswer) -> Markup {
    const COLUMNS: [Column; 2] = [words("Backend"), words("State")];
    let row = |one: &BackendStatus| {
        vec![
            html! {
                code { (Foreign(&one.address)) }
                @if let Some(all) = &one.addresses { " " span.place { (Foreign(&all.join(", "))) } }
            },
            html! {
                @if one.up { span.ok { "up" } } @else { strong.bad { "down" } }
                @if let Some(why) = &one.unresolved { " " (Foreign(why)) }
            },
        ]
    };
    html! {
        section #backends aria-labelledby="backends-title" {
            h2 #backends-title { "Backends" }
            @if overview.backends.is_empty() {
                p.empty { "No route has a backend" }
            } @else {
                (table(
                    &format!("{} of {} down", count(overview.backends_down),
                        count(overview.backend_count)),
                    &COLUMNS,
                    overview.backends.iter().map(row),
                    overview.backend_count,
                ))
            }
        }
    }
}

/// The certificates; the first to expire is first.
pub fn certificates(overview: &OverviewAnswer) -> Markup {
    const COLUMNS: [Column; 4] =
        [words("Certificate"), numbers("Days left"), words("Expires"), words("Names")];
    let row = |one: &CertificateStatus| {
        vec![
            html! { code { (Foreign(&one.chain)) } },
            html! {
                @if one.days_left < EXPIRY_WARNING_DAYS { strong.bad { (one.days_left) } }
                @else { (one.days_left) }
            },
            moment(one.not_after, overview.now),
            html! { (Foreign(&one.names.join(", "))) },
        ]
    };
    html! {
        section #certificates aria-labelledby="certificates-title" {
            h2 #certificates-title { "Certificates" }
            @if overview.certificates.is_empty() {
                p.empty { "No listener speaks TLS" }
            } @else {
                (table(
                    "The first to expire is first",
                    &COLUMNS,
                    overview.certificates.iter().map(row),
                    overview.certificate_count,
                ))
            }
        }
    }
}

/// The bans; the first to end is first.
pub fn bans(overview: &OverviewAnswer) -> Markup {
    const COLUMNS: [Column; 4] =
        [words("Banned"), words("Ends in"), words("Origin"), words("Reason")];
    let row = |one: &BanStatus| {
        vec![
            html! { code { (Foreign(&one.target)) } },
            or_dash(one.until.map(|end| span(until(overview.now, end))).as_deref()),
            html! { (Foreign(&one.origin)) },
            html! { (Foreign(&one.why)) },
        ]
    };
    html! {
        section #bans aria-labelledby="bans-title" {
            h2 #bans-title { "Bans" }
            @if overview.bans.is_empty() {
                p.empty { "No ban is in force" }
            } @else {
                (table(
                    &format!("{} in force", counted(overview.ban_count, "ban")),
                    &COLUMNS,
                    overview.bans.iter().map(row),
                    overview.ban_count,
                ))
            }
        }
    }
}

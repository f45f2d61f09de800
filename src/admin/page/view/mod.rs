//! The overview as HTML: one element for each section of the page.
//!
//! Text from outside goes through [`text::Foreign`] only. The elements have no style and no script
//! of their own, which the headers of the page forbid.

mod attention;
mod chart;
mod clients;
mod files;
mod health;
mod table;
mod text;

use std::time::Duration;

use maud::{Markup, html};

use self::text::{Foreign, moment, span};
use crate::admin::page::rendering::{FOOT, HEAD, Rendering, Section};
use crate::admin::wire::{OverviewAnswer, StageWord};
use crate::control::config::PageAddresses;

/// Characters of the digest that tell generations apart.
const DIGEST_CHARS: usize = 12;

/// Renders `overview`, in which clients have the form of `addresses`.
pub fn render(
    overview: &OverviewAnswer,
    addresses: PageAddresses,
    before: Option<&Rendering>,
) -> Rendering {
    let title = title(overview);
    let sections = vec![
        Section { id: HEAD, html: top(overview) },
        Section { id: "summary", html: attention::summary(overview, &title) },
        Section { id: "attention", html: attention::attention(overview) },
        Section { id: "activity", html: chart::activity(overview) },
        Section { id: "routes", html: clients::routes(overview) },
        Section { id: "reasons", html: clients::reasons(overview) },
        Section { id: "refused", html: clients::refused(overview) },
        Section { id: "clients", html: clients::talkers(overview) },
        Section { id: "candidates", html: files::candidates(overview) },
        Section { id: "files", html: files::files(overview) },
        Section { id: "backends", html: health::backends(overview) },
        Section { id: "certificates", html: health::certificates(overview) },
        Section { id: "lapsing", html: files::lapsing(overview) },
        Section { id: "bans", html: health::bans(overview) },
        Section { id: FOOT, html: notes(overview, addresses) },
    ];
    Rendering::new(title, sections, before)
}

/// The title of the window, which begins with the number of things to do.
fn title(overview: &OverviewAnswer) -> String {
    let host = crate::observe::printable::line(&overview.host);
    match attention::number(overview) {
        0 => format!("{host} – Sidegate"),
        number => format!("({number}) {host} – Sidegate"),
    }
}

/// The host, the stage and the generation.
fn top(overview: &OverviewAnswer) -> Markup {
    let is_serving = overview.stage == StageWord::Serving;
    let digest: String = overview.digest.chars().take(DIGEST_CHARS).collect();
    html! {
        div #top {
            p.brand { "Sidegate" }
            h1 { (Foreign(&overview.host)) }
            p class=(if is_serving { "stage ok" } else { "stage bad" }) {
                (overview.stage.to_string())
            }
            dl {
                div { dt { "Generation" } dd { (overview.generation) } }
                div { dt { "Digest" } dd { code { (Foreign(&digest)) } } }
                div { dt { "Published" } dd { (moment(overview.since, overview.now)) } }
                div { dt { "Up" } dd { (span(Duration::from_secs(overview.uptime_seconds))) } }
                div { dt { "As of (UTC)" } dd { (moment(overview.now, overview.now)) } }
            }
        }
    }
}

/// How to read the page.
fn notes(overview: &OverviewAnswer, addresses: PageAddresses) -> Markup {
    html! {
        footer #notes {
            p {
                "Sidegate " (Foreign(&overview.version)) ". This page changes nothing: commands go \
                 to the admin socket. "
                @match addresses {
                    PageAddresses::Short => {
                        "Clients are shown as their /24 or /48; "
                        code { "page = \"full\"" } " in " code { "[admin]" }
                        " shows whole addresses."
                    }
                    PageAddresses::Full => { "Clients are shown with their whole addresses." }
                }
            }
        }
    }
}

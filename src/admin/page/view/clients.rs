//! Routes, refusals and clients.

use maud::{Markup, html};

use super::table::{Column, numbers, table, words};
use super::text::{Foreign, bytes, count, counted, moment, or_dash, rate};
use crate::admin::wire::{BusyClient, OverviewAnswer, RefusedOverview, RefusedRow, RouteActivity};

/// The routes with their tunnels and rates.
pub fn routes(overview: &OverviewAnswer) -> Markup {
    const COLUMNS: [Column; 7] = [
        words("Route"),
        words("Policy"),
        numbers("Open tunnels"),
        numbers("Opened/s"),
        numbers("Refused/s"),
        numbers("From clients"),
        numbers("From backends"),
    ];
    html! {
        section #routes aria-labelledby="routes-title" {
            h2 #routes-title { "Routes" }
            @if overview.routes.is_empty() {
                p.empty { "No route: every request is answered 404" }
            } @else {
                (table(
                    "Open tunnels now, and rates of the last minute",
                    &COLUMNS,
                    overview.routes.iter().map(route),
                    overview.route_count,
                ))
            }
        }
    }
}

fn route(route: &RouteActivity) -> Vec<Markup> {
    let rates = route.per_second.as_ref();
    let number =
        |of: fn(&crate::admin::wire::RouteRates) -> String| or_dash(rates.map(of).as_deref());
    vec![
        html! { (Foreign(&route.name)) },
        html! { (Foreign(&route.policy)) },
        html! { (count(route.tunnels)) },
        number(|rates| rate(rates.opened)),
        number(|rates| rate(rates.refused)),
        number(|rates| format!("{}/s", bytes(rates.from_client.bytes))),
        number(|rates| format!("{}/s", bytes(rates.from_backend.bytes))),
    ]
}

/// The refusals by their reason.
pub fn reasons(overview: &OverviewAnswer) -> Markup {
    const COLUMNS: [Column; 3] = [words("Reason"), numbers("15 min"), numbers("Since start")];
    let row = |one: &crate::admin::wire::ReasonCount| {
        vec![
            html! { code.short { (Foreign(&one.reason)) } },
            html! { (count(one.recently)) },
            html! { (count(one.refused)) },
        ]
    };
    html! {
        section #reasons aria-labelledby="reasons-title" {
            h2 #reasons-title { "Refusals and failures by reason" }
            @if overview.reasons.is_empty() {
                p.empty { "Nothing was refused or has failed since the start" }
            } @else {
                (table(
                    "Requests and connections that were refused, or failed at the backend",
                    &COLUMNS,
                    overview.reasons.iter().map(row),
                    overview.reasons.len() as u64,
                ))
            }
        }
    }
}

/// The clients that were refused most, each with the entry that refused it.
pub fn refused(overview: &OverviewAnswer) -> Markup {
    html! {
        section #refused aria-labelledby="refused-title" {
            h2 #refused-title { "Most refused clients" }
            @match &overview.refused_clients {
                None => { p.empty { "Decisions are not kept: see " code { "recent_decisions" } } }
                Some(refused) if refused.clients.is_empty() => {
                    p.empty { "None since " (moment(refused.since, overview.now)) }
                }
                Some(refused) => { (refused_table(refused, overview)) }
            }
        }
    }
}

fn refused_table(refused: &RefusedOverview, overview: &OverviewAnswer) -> Markup {
    const COLUMNS: [Column; 5] = [
        words("Client"),
        numbers("Refused"),
        words("Reason"),
        words("Rule or entry"),
        words("Last, and its request"),
    ];
    let row = |row: &RefusedRow| {
        vec![
            client(&row.client, row.identity.as_deref()),
            html! { (count(row.refused)) },
            html! { code.short { (Foreign(&row.reason)) } },
            rule(row),
            html! {
                (moment(row.last, overview.now))
                @if let Some(id) = &row.request_id { " " code.id { (Foreign(id)) } }
            },
        ]
    };
    html! {
        (table(
            "The reason, the rule and the request are those of the last refusal",
            &COLUMNS,
            refused.clients.iter().map(row),
            refused.client_count,
        ))
        p.more {
            (counted(refused.refused, "refusal")) " since " (moment(refused.since, overview.now))
        }
    }
}

/// The entry that refused a client, else the rule, with its place.
fn rule(row: &RefusedRow) -> Markup {
    html! {
        @if let Some(entry) = &row.entry { code { (Foreign(entry)) } " " }
        @else if let Some(policy) = &row.policy { "policy " (Foreign(policy)) " " }
        @match row.entry_at.as_ref().or(row.rule_at.as_ref()) {
            Some(place) => { span.place { (Foreign(place)) } }
            None if row.entry.is_none() && row.policy.is_none() => { (or_dash(None)) }
            None => {}
        }
    }
}

/// The clients with the most tunnels, and with the most traffic.
pub fn talkers(overview: &OverviewAnswer) -> Markup {
    let total = overview.client_count;
    html! {
        section #clients aria-labelledby="clients-title" {
            h2 #clients-title { "Top talkers" }
            @if overview.most_tunnels.is_empty() && overview.most_bytes.is_empty() {
                p.empty { "No tunnel is open" }
            } @else {
                div.pair {
                    div { (talkers_table("The most open tunnels", &overview.most_tunnels, total)) }
                    div { (talkers_table("The most bytes", &overview.most_bytes, total)) }
                }
            }
        }
    }
}

fn talkers_table(caption: &str, clients: &[BusyClient], total: u64) -> Markup {
    const COLUMNS: [Column; 4] =
        [words("Client"), numbers("Tunnels"), numbers("Sent"), numbers("Received")];
    let row = |one: &BusyClient| {
        vec![
            client(&one.client, one.identity.as_deref()),
            html! { (count(one.tunnels)) },
            html! { (bytes(one.bytes_from_client as f64)) },
            html! { (bytes(one.bytes_from_backend as f64)) },
        ]
    };
    table(caption, &COLUMNS, clients.iter().map(row), total.max(clients.len() as u64))
}

fn client(address: &str, identity: Option<&str>) -> Markup {
    html! {
        code.short { (Foreign(address)) }
        @if let Some(identity) = identity { " " span.identity { (Foreign(identity)) } }
    }
}

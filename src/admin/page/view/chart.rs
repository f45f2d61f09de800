//! The last fifteen minutes as small charts, and as a table for readers who see none.

use maud::{Markup, html};

use super::table::{Column, numbers, table, words};
use super::text::{bytes, count, counted, moment, rate};
use crate::admin::wire::{ActivityPoint, OverviewAnswer, Time};

/// Size of a chart in units of its own, which its box stretches.
const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 60.0;

/// Seconds from its left end to its right one.
const PERIOD_SECONDS: f64 = 900.0;

/// Rows of the table are a minute apart: twelve samples of 5 s.
const ROW_SECONDS: i64 = 60;

/// One value over time.
struct Series {
    id: &'static str,
    name: &'static str,
    /// What a value is, in words behind the number.
    unit: &'static str,
    now: String,
    note: String,
    of: fn(&ActivityPoint) -> f64,
    shown: fn(f64) -> String,
}

/// The figures of the moment, each above its history.
pub fn activity(overview: &OverviewAnswer) -> Markup {
    let history = &overview.history;
    html! {
        section #activity aria-labelledby="activity-title" {
            h2 #activity-title { "Last fifteen minutes" }
            div.figures {
                @for series in all(overview) { (figure(&series, history, overview.now)) }
            }
            @if !history.is_empty() {
                details #history {
                    summary { "These charts as a table" }
                    (as_table(history, overview.now))
                }
            }
        }
    }
}

fn all(overview: &OverviewAnswer) -> [Series; 4] {
    let now = |of: fn(&crate::admin::wire::ActivityRates) -> f64, shown: fn(f64) -> String| {
        overview.rates.as_ref().map_or_else(|| "–".to_owned(), |rates| shown(of(rates)))
    };
    let traffic = |rates: &crate::admin::wire::ActivityRates| {
        rates.bytes_from_client + rates.bytes_from_backend
    };
    let directions = overview.rates.as_ref().map_or_else(String::new, |rates| {
        let [client, backend] = [rates.bytes_from_client, rates.bytes_from_backend].map(bytes);
        format!("{client} from clients, {backend} from backends")
    });
    [
        Series {
            id: "tunnels",
            name: "Open tunnels",
            unit: "open tunnels",
            now: count(overview.tunnels),
            note: holders(overview),
            of: |point| point.tunnels as f64,
            shown: |tunnels| count(tunnels as u64),
        },
        Series {
            id: "opened",
            name: "Opened each second",
            unit: "opened each second",
            now: now(|rates| rates.opened, rate),
            note: arrivals(overview),
            of: |point| point.rates.opened,
            shown: rate,
        },
        Series {
            id: "refused",
            name: "Refused or failed each second",
            unit: "refused or failed each second",
            now: now(|rates| rates.refused, rate),
            note: format!("{} in fifteen minutes", count(overview.refused_recently)),
            of: |point| point.rates.refused,
            shown: rate,
        },
        Series {
            id: "traffic",
            name: "Traffic each second",
            unit: "each second",
            now: now(traffic, bytes),
            note: directions,
            of: |point| point.rates.bytes_from_client + point.rates.bytes_from_backend,
            shown: bytes,
        },
    ]
}

/// The clients of the open tunnels, and the plain requests beside them.
fn holders(overview: &OverviewAnswer) -> String {
    let clients = counted(overview.client_count, "client");
    format!("from {clients}; {}", counted(overview.exchanges, "open plain request"))
}

/// What came beside the tunnels, each second. Empty means not yet known.
fn arrivals(overview: &OverviewAnswer) -> String {
    let Some(rates) = &overview.rates else { return String::new() };
    let [connections, plain] = [rates.connections, rates.plain].map(rate);
    format!("{connections} connections, {plain} plain requests")
}

fn figure(series: &Series, history: &[ActivityPoint], now: Time) -> Markup {
    html! {
        figure.chart #{ "chart-" (series.id) } {
            figcaption {
                span.name { (series.name) }
                strong.value { (series.now) }
                span.note { (series.note) }
            }
            @if history.is_empty() {
                p.empty { "No sample yet: the first is due 5 s after the start" }
            } @else {
                (drawing(series, history, now))
            }
        }
    }
}

fn drawing(series: &Series, history: &[ActivityPoint], now: Time) -> Markup {
    let values: Vec<f64> = history.iter().map(series.of).collect();
    let most = values.iter().copied().fold(0.0, f64::max);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let last = values.last().copied().unwrap_or_default();
    let [least, shown, last] = [least, most, last].map(series.shown);
    let unit = series.unit;
    let (title, desc) = (format!("{}-title", series.id), format!("{}-desc", series.id));
    let line = line(&values, history, now, most);
    html! {
        div.plot {
            svg role="img" aria-labelledby={ (title) " " (desc) } preserveAspectRatio="none"
                viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } {
                title id=(title) { (series.name) ", the last fifteen minutes" }
                desc id=(desc) {
                    "From " (least) " to " (shown) " " (unit) "; " (last) " at the end."
                }
                path.area d={ (line.path) "V" (HEIGHT) "H" (line.left) "Z" } {}
                path.line d=(line.path) {}
            }
            span.most aria-hidden="true" { (shown) }
        }
        p.axis aria-hidden="true" { span { "15 min ago" } span { "now" } }
    }
}

/// The path of a chart's line.
struct Line {
    path: String,
    /// The left end, where the history begins.
    left: String,
}

fn line(values: &[f64], history: &[ActivityPoint], now: Time, most: f64) -> Line {
    let x = |at: Time| {
        let ago = now.0.duration_since(at.0).as_secs_f64().clamp(0.0, PERIOD_SECONDS);
        WIDTH * (1.0 - ago / PERIOD_SECONDS)
    };
    // A unit is left above, so that the line of the highest value is seen whole. Without any value
    // above zero, the line lies on the ground.
    let y =
        |value: f64| HEIGHT - (HEIGHT - 2.0) * if most > 0.0 { value / most } else { 0.0 } - 1.0;
    let mut path = String::new();
    for (point, value) in history.iter().zip(values) {
        let step = if path.is_empty() { 'M' } else { 'L' };
        path.push_str(&format!("{step}{:.1} {:.1}", x(point.at), y(*value)));
    }
    let left = history.first().map_or(0.0, |first| x(first.at));
    Line { path, left: format!("{left:.1}") }
}

fn as_table(history: &[ActivityPoint], now: Time) -> Markup {
    const COLUMNS: [Column; 6] = [
        words("Time (UTC)"),
        numbers("Open tunnels"),
        numbers("Opened/s"),
        numbers("Refused/s"),
        numbers("From clients"),
        numbers("From backends"),
    ];
    // One sample of each minute, the newest first.
    let mut rows: Vec<&ActivityPoint> = Vec::new();
    for point in history.iter().rev() {
        let next = rows.last().map(|last| last.at.0.duration_since(point.at.0).as_secs());
        if next.is_none_or(|apart| apart >= ROW_SECONDS) {
            rows.push(point);
        }
    }
    let total = rows.len() as u64;
    let cells = |point: &ActivityPoint| {
        let rates = &point.rates;
        let [client, backend] = [rates.bytes_from_client, rates.bytes_from_backend].map(bytes);
        vec![
            moment(point.at, now),
            html! { (count(point.tunnels)) },
            html! { (rate(rates.opened)) },
            html! { (rate(rates.refused)) },
            html! { (client) "/s" },
            html! { (backend) "/s" },
        ]
    };
    table("One sample of each minute", &COLUMNS, rows.into_iter().map(cells), total)
}

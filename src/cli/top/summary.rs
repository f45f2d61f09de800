//! The lines above the panels: the agent, its files, and its rates with their history.

use crate::cli::output::count_u64;
use crate::cli::status::format::{bytes, duration, number, rate};
use crate::cli::status::table::Tone;
use crate::cli::top::panels::{errors, note};
use crate::cli::top::spark::{bars, columns};
use crate::cli::top::text::{TextPiece, cut, cut_line, width};
use sidegate::admin::wire::{
    ActivityRates, FilesState, LastOutcome, OverviewAnswer, ReloadCause, StageWord,
};

/// The least columns of a history beside its rate.
const MIN_BARS: usize = 8;

/// The most columns of a history: one for each interval.
const MAX_BARS: usize = 180;

/// Columns of a rate's name and number.
const RATE_WIDTH: usize = 21;

/// The lines about the agent and its files.
pub fn lines(overview: &OverviewAnswer, columns: usize) -> Vec<Vec<TextPiece>> {
    let all = [agent(overview), files(overview), first_note(overview), totals(overview)];
    all.into_iter().map(|line| cut_line(line, columns)).collect()
}

fn agent(overview: &OverviewAnswer) -> Vec<TextPiece> {
    let (word, tone) = match &overview.stage {
        StageWord::Starting => ("starting", Tone::Plain),
        StageWord::Serving => ("serving", Tone::Good),
        StageWord::Draining => ("draining", Tone::Warning),
        StageWord::Ended => ("ended", Tone::Error),
        StageWord::Other(word) => (word.as_str(), Tone::Plain),
    };
    let up = duration(i64::try_from(overview.uptime_seconds).unwrap_or(i64::MAX));
    let now = overview.now.0.strftime("%H:%M:%S UTC");
    vec![
        TextPiece::new(&format!("sidegate {}", overview.version), Tone::Head),
        TextPiece::plain(&format!(" on {}, ", overview.host)),
        TextPiece::new(word, tone),
        TextPiece::plain(&format!(", up {up}, {now}")),
    ]
}

fn files(overview: &OverviewAnswer) -> Vec<TextPiece> {
    let ago =
        |at: sidegate::admin::wire::Time| duration(overview.now.0.duration_since(at.0).as_secs());
    let OverviewAnswer { generation, digest, since, .. } = overview;
    let mut line = vec![TextPiece::plain(&format!(
        "generation {generation} ({digest}) for {}; ",
        ago(*since)
    ))];
    match &overview.last_reload {
        None => line.push(TextPiece::plain("no reload since the start")),
        Some(last) => {
            let (outcome, tone) = match last.outcome {
                LastOutcome::Published => ("published", Tone::Good),
                LastOutcome::Unchanged => ("unchanged", Tone::Good),
                LastOutcome::Rejected => ("rejected", Tone::Error),
            };
            let cause = match &last.cause {
                ReloadCause::Saved => "saved",
                ReloadCause::Poll => "poll",
                ReloadCause::Signal => "SIGHUP",
                ReloadCause::Asked => "by command",
                ReloadCause::Other(word) => word.as_str(),
            };
            line.push(TextPiece::plain("reload "));
            line.push(TextPiece::new(outcome, tone));
            line.push(TextPiece::plain(&format!(" {} ago ({cause})", ago(last.at))));
        }
    }
    match &overview.files {
        FilesState::Pending => line.push(TextPiece::new("; files pending", Tone::Warning)),
        FilesState::Other(word) => {
            line.push(TextPiece::new(&format!("; files: {word}"), Tone::Warning));
        }
        FilesState::Current | FilesState::Rejected => {}
    }
    line
}

/// The first error or warning, with the number of the others.
fn first_note(overview: &OverviewAnswer) -> Vec<TextPiece> {
    let all = overview.error_count + overview.warning_count + overview.diagnostic_count;
    let warnings = overview.warnings.iter().map(|one| one.sentence.clone());
    let warnings = warnings.chain(overview.diagnostics.iter().map(note));
    let mut texts = errors(overview)
        .map(|one| (note(one), Tone::Error))
        .chain(warnings.map(|text| (text, Tone::Warning)));
    let Some((text, tone)) = texts.next() else {
        return vec![TextPiece::new("no errors or warnings", Tone::Quiet)];
    };
    let more = if all > 1 { format!("{all} notes (key 8): ") } else { String::new() };
    vec![TextPiece::new(&more, Tone::Head), TextPiece::new(&text, tone)]
}

fn totals(overview: &OverviewAnswer) -> Vec<TextPiece> {
    let OverviewAnswer { tunnels, client_count, exchanges, backends_down, .. } = overview;
    let tunnels =
        format!("{} of {}", counted(*tunnels, "tunnel"), counted(*client_count, "client"));
    let mut line =
        vec![TextPiece::plain(&format!("{tunnels}, {}", counted(*exchanges, "exchange")))];
    let (down, all) = (number(*backends_down), number(overview.backend_count));
    let down = format!(", {down} of {all} backends down");
    let tone = if *backends_down > 0 { Tone::Error } else { Tone::Plain };
    line.push(TextPiece::new(&down, tone));
    line.push(TextPiece::plain(&format!(", {}", counted(overview.ban_count, "ban"))));
    if overview.lapsing_count > 0 {
        let text = format!(", lapsing: {}", number(overview.lapsing_count));
        line.push(TextPiece::new(&text, Tone::Warning));
    }
    line
}

fn counted(count: u64, noun: &str) -> String {
    let text = count_u64(count, noun);
    text.replacen(&count.to_string(), &number(count), 1)
}

/// A rate of the agent, with its name and unit.
struct NamedRate {
    name: &'static str,
    of: fn(&ActivityRates) -> f64,
    shown: fn(f64) -> String,
    tone: Tone,
}

/// The rates, in the order of the screen.
const RATES: [NamedRate; 6] = [
    NamedRate { name: "connections", of: |all| all.connections, shown: rate, tone: Tone::Plain },
    NamedRate { name: "opened", of: |all| all.opened, shown: rate, tone: Tone::Good },
    NamedRate { name: "refused", of: |all| all.refused, shown: rate, tone: Tone::Warning },
    NamedRate { name: "plain", of: |all| all.plain, shown: rate, tone: Tone::Plain },
    NamedRate { name: "in", of: |all| all.bytes_from_client, shown: bytes, tone: Tone::Plain },
    NamedRate { name: "out", of: |all| all.bytes_from_backend, shown: bytes, tone: Tone::Plain },
];

/// The rates with their history, in at most `columns` columns: two beside each other if they fit.
pub fn rates(overview: &OverviewAnswer, columns: usize) -> Vec<Vec<TextPiece>> {
    let beside = if columns >= 2 * (RATE_WIDTH + MIN_BARS) + 2 { 2 } else { 1 };
    let each = (columns + 2) / beside - 2;
    let rows = RATES.len() / beside;
    let line = |row: usize| {
        let mut line = Vec::new();
        for column in 0..beside {
            if column > 0 {
                line.push(TextPiece::plain("  "));
            }
            line.extend(one_rate(overview, &RATES[row + column * rows], each));
        }
        cut_line(line, columns)
    };
    (0..rows).map(line).collect()
}

fn one_rate(overview: &OverviewAnswer, named: &NamedRate, room: usize) -> Vec<TextPiece> {
    let now =
        overview.rates.as_ref().map_or_else(|| "-".into(), |all| (named.shown)((named.of)(all)));
    let text = format!("{:<11} {:>7}/s", named.name, now);
    let text = format!("{text}{}", " ".repeat(RATE_WIDTH.saturating_sub(width(&text))));
    let room = room.saturating_sub(width(&text)).min(MAX_BARS);
    let history = match room >= MIN_BARS {
        true => bars(&columns(&overview.history, overview.now, room, named.of)),
        false => String::new(),
    };
    vec![TextPiece::plain(&text), TextPiece { text: history, tone: named.tone }]
}

/// The rates as a line of text, for screens without room for a history.
pub fn short_rates(overview: &OverviewAnswer, columns: usize) -> String {
    let Some(all) = &overview.rates else { return "rates are not yet known".into() };
    let text = |one: &NamedRate| format!("{} {}/s", one.name, (one.shown)((one.of)(all)));
    // By importance in an incident: what doesn't fit is cut.
    let parts = [&RATES[2], &RATES[1], &RATES[0], &RATES[4], &RATES[5]].map(text);
    cut(&parts.join(", "), columns)
}

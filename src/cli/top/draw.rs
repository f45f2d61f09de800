//! Draws the screen, for any size.

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use crate::cli::status::format::duration;
use crate::cli::status::table::Tone;
use crate::cli::top::app::{AgentOutage, App, TopView};
use crate::cli::top::layout::{PlacedPanel, place_panels};
use crate::cli::top::panels::Panel;
use crate::cli::top::summary;
use crate::cli::top::text::{TextPiece, cut};

/// The least size of the dashboard. A smaller screen shows one panel.
const MIN_DASHBOARD: (u16, u16) = (60, 20);

/// The lines of the help.
const HELP: [&str; 16] = [
    "1 … 9, 0   show one panel alone; the same key or Esc shows all",
    "Tab        the next panel; Shift-Tab the one before",
    "Enter      show the panel alone, with all columns and rows",
    "↑ ↓ PgUp PgDn, k j   move through its rows",
    "s          the next order of the panel's rows",
    "/          show only rows with a text; Enter ends the input, Esc clears it",
    "p, Space   keep the screen as it is, or go on",
    "?, h       this help",
    "q, Ctrl-C  end; Ctrl-Z stops it, and `fg` of the shell continues it",
    "",
    "1 routes     2 refusals      3 clients   4 refused clients   5 candidates",
    "6 certificates   7 bans      8 errors and warnings   9 backends   0 lapsing",
    "",
    "Rates are averages of the last 5 to 10 s; bars are the last 15 minutes.",
    "A client's BYTES/S is between two looks. IN is from clients, OUT from backends.",
    "The counts of REFUSED CLIENTS are of the last 15 minutes.",
];

/// How the screen is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Whether colors are used; bold, dim and reversed text always is.
    pub color: bool,
    /// The time by the clock of this host, for the length of an outage.
    pub now: Timestamp,
}

/// Draws `app` on the whole frame.
pub fn draw(frame: &mut Frame<'_>, app: &App, look: Look) {
    let area = frame.area();
    let [columns, height] = [area.width, area.height].map(usize::from);
    // The help line stays whatever the size: it says how to leave.
    let mut above = match (app.view, &app.overview) {
        (TopView::Help, _) => HELP.iter().map(|text| vec![TextPiece::plain(text)]).collect(),
        (_, None) => waiting(app, look, columns),
        (TopView::Dashboard, Some(_)) if is_large(area) => dashboard(frame, app, look),
        (TopView::Dashboard | TopView::Panel, Some(_)) => one_panel(app, look, columns, height),
    };
    above.truncate(height.saturating_sub(1));
    put(frame, Rect { height: area.height.saturating_sub(1), ..area }, above, look);
    if height > 0 {
        let last = Rect { y: area.height - 1, height: 1, ..area };
        put(frame, last, vec![help_line(app, columns)], look);
    }
}

fn is_large(area: Rect) -> bool {
    area.width >= MIN_DASHBOARD.0 && area.height >= MIN_DASHBOARD.1
}

fn put(frame: &mut Frame<'_>, area: Rect, lines: Vec<Vec<TextPiece>>, look: Look) {
    let lines: Vec<_> = lines.into_iter().map(|line| styled(line, look.color)).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

fn styled(line: Vec<TextPiece>, color: bool) -> Line<'static> {
    let spans = line.into_iter().map(|piece| Span::styled(piece.text, style(piece.tone, color)));
    Line::from_iter(spans)
}

fn style(tone: Tone, color: bool) -> Style {
    let plain = Style::new();
    let colored = |hue: Color| if color { plain.fg(hue) } else { plain };
    match tone {
        Tone::Plain => plain,
        Tone::Head => plain.add_modifier(Modifier::BOLD),
        Tone::Quiet => plain.add_modifier(Modifier::DIM),
        Tone::Good => colored(Color::Green),
        Tone::Warning => colored(Color::Yellow),
        // Without colors an error has to differ too.
        Tone::Error => colored(Color::Red).add_modifier(Modifier::BOLD),
    }
}

/// The screen before the first answer.
fn waiting(app: &App, look: Look, columns: usize) -> Vec<Vec<TextPiece>> {
    let mut lines = vec![vec![TextPiece::new("waiting for the agent", Tone::Head)]];
    lines.extend(app.outage.as_ref().map(|outage| outage_line(outage, look, columns)));
    lines
}

fn outage_line(outage: &AgentOutage, look: Look, columns: usize) -> Vec<TextPiece> {
    let since = outage.since.strftime("%H:%M:%S UTC");
    let lasting = duration(look.now.duration_since(outage.since).as_secs());
    let text = format!("not reachable since {since} ({lasting}): {}", outage.why);
    vec![TextPiece { text: cut(&text, columns), tone: Tone::Error }]
}

/// The summary, with an outage in place of the first warning.
fn head(app: &App, look: Look, columns: usize) -> Vec<Vec<TextPiece>> {
    let Some(overview) = &app.overview else { return Vec::new() };
    let mut lines = summary::lines(overview, columns);
    if let Some(outage) = &app.outage {
        lines[2] = outage_line(outage, look, columns);
    }
    lines
}

/// Draws the panels, and returns the lines above them.
fn dashboard(frame: &mut Frame<'_>, app: &App, look: Look) -> Vec<Vec<TextPiece>> {
    let area = frame.area();
    let columns = usize::from(area.width);
    let mut above = head(app, look, columns);
    if let Some(overview) = &app.overview {
        above.extend(summary::rates(overview, columns));
    }
    let top = u16::try_from(above.len()).unwrap_or(u16::MAX).min(area.height);
    let room = Rect { y: top, height: area.height.saturating_sub(top + 1), ..area };
    let wanted = |panel| app.table(panel).map_or(0, |table| table.rows.len());
    for PlacedPanel { panel, area } in place_panels(room, wanted) {
        put(frame, area, panel_lines(app, panel, area, 0), look);
    }
    above
}

/// The lines of a panel. The head of the panel that keys act on has a mark.
fn panel_lines(app: &App, panel: Panel, area: Rect, from: usize) -> Vec<Vec<TextPiece>> {
    let [columns, height] = [area.width, area.height].map(usize::from);
    let Some(table) = app.table(panel) else { return Vec::new() };
    let mark = if panel == app.focus { "▸" } else { " " };
    // The mark has a column of its own, so that moving it moves no text.
    let lines = table.lines(columns.saturating_sub(1), from, height).into_iter().enumerate();
    let marked = lines.map(|(at, mut line)| {
        let text = if at == 0 { mark } else { " " };
        line.insert(0, TextPiece { text: text.into(), tone: Tone::Head });
        line
    });
    marked.collect()
}

/// The summary as far as there is room, and the panel that keys act on.
fn one_panel(app: &App, look: Look, columns: usize, height: usize) -> Vec<Vec<TextPiece>> {
    let mut lines = head(app, look, columns);
    // Half of a small screen is for the panel.
    lines.truncate((height.saturating_sub(2) / 2).min(lines.len()));
    if let Some(outage) = app.outage.as_ref().filter(|_| lines.len() < 3) {
        lines.truncate(lines.len().saturating_sub(1));
        lines.push(outage_line(outage, look, columns));
    }
    if let Some(overview) = &app.overview {
        lines.push(vec![TextPiece::plain(&summary::short_rates(overview, columns))]);
    }
    let left = height.saturating_sub(lines.len() + 1);
    let area = Rect {
        width: u16::try_from(columns).unwrap_or(u16::MAX),
        height: u16::try_from(left).unwrap_or(u16::MAX),
        ..Rect::default()
    };
    lines.extend(panel_lines(app, app.focus, area, app.scroll));
    lines
}

fn help_line(app: &App, columns: usize) -> Vec<TextPiece> {
    let order = app.order(app.focus).word();
    let filter = match (app.is_typing, app.filter.is_empty()) {
        (true, _) => format!("filter: {}▏ Enter keeps it, Esc clears it", app.filter),
        (false, false) => format!("filter: {} (Esc clears it)  ", app.filter),
        (false, true) => String::new(),
    };
    let paused = if app.is_paused { "PAUSED  " } else { "" };
    let keys = format!("q quit  ? help  Tab panel  Enter zoom  / filter  p pause  s sort: {order}");
    let text = if app.is_typing { filter } else { format!("{paused}{filter}{keys}") };
    let tone = if app.is_paused || app.is_typing { Tone::Warning } else { Tone::Quiet };
    vec![TextPiece { text: cut(&text, columns), tone }]
}

/// The text of everything, for pipes: no color, no cut.
pub fn plain(app: &App) -> String {
    let Some(overview) = &app.overview else { return String::new() };
    /// Columns of the lines that adapt to a screen.
    const COLUMNS: usize = 100;
    let mut lines = summary::lines(overview, usize::MAX);
    lines.extend(summary::rates(overview, COLUMNS));
    for panel in Panel::ALL {
        lines.push(Vec::new());
        let table = app.table(panel);
        lines.extend(table.map(|table| table.lines(usize::MAX, 0, usize::MAX)).unwrap_or_default());
    }
    let text = |line: Vec<TextPiece>| -> String {
        let line: String = line.into_iter().map(|piece| piece.text).collect();
        line.trim_end().to_owned()
    };
    lines.into_iter().map(text).collect::<Vec<_>>().join("\n")
}

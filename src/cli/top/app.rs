//! The state of the screen, and what keys and answers do to it. It knows no terminal and no clock.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::cli::top::panels::{ClientRates, Order, Panel, table};
use crate::cli::top::table::PanelTable;
use crate::cli::top::text::harmless;
use sidegate::admin::wire::{OverviewAnswer, Time};

/// Most characters of a filter.
const MAX_FILTER: usize = 40;

/// Rows that a page key moves by.
const PAGE: usize = 10;

/// A key as far as the screen knows keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopKey {
    /// A character, in the case that was typed.
    Char(char),
    /// Moves to the next panel.
    Tab,
    /// Moves to the panel before.
    BackTab,
    /// Opens the panel, or ends a filter's input.
    Enter,
    /// Goes one step back.
    Escape,
    /// Deletes the last character of a filter.
    Backspace,
    /// Moves one row up.
    Up,
    /// Moves one row down.
    Down,
    /// Moves one page up.
    PageUp,
    /// Moves one page down.
    PageDown,
    /// Ends the program in any state.
    Interrupt,
}

/// What fills the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopView {
    /// Summary and all panels.
    Dashboard,
    /// One panel alone, with all its columns and rows.
    Panel,
    /// What the keys do.
    Help,
}

/// An agent that doesn't answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentOutage {
    /// When the first answer was missed.
    pub since: Timestamp,
    /// The reason of the last attempt, as a sentence.
    pub why: String,
}

/// The state of the screen.
pub struct App {
    /// The last answer. `None` means that none has come yet.
    pub overview: Option<OverviewAnswer>,
    /// Set while the agent doesn't answer. `None` means that it does.
    pub outage: Option<AgentOutage>,
    /// What fills the screen.
    pub view: TopView,
    /// The panel that keys act on.
    pub focus: Panel,
    /// The first row of the panel that is shown alone.
    pub scroll: usize,
    /// Only rows with this text are shown. Empty means all.
    pub filter: String,
    /// Whether characters go into the filter.
    pub is_typing: bool,
    /// Whether new answers are ignored.
    pub is_paused: bool,
    /// The order of each panel, by its place in [`Panel::ALL`].
    orders: [usize; Panel::ALL.len()],
    rates: ClientRates,
}

impl Default for App {
    fn default() -> Self {
        App {
            overview: None,
            outage: None,
            view: TopView::Dashboard,
            focus: Panel::Routes,
            scroll: 0,
            filter: String::new(),
            is_typing: false,
            is_paused: false,
            orders: [0; Panel::ALL.len()],
            rates: HashMap::new(),
        }
    }
}

impl App {
    /// Takes an answer, or the reason why there is none.
    pub fn answered(&mut self, answer: Result<OverviewAnswer, String>, now: Timestamp) {
        match answer {
            Ok(overview) => {
                self.outage = None;
                if self.is_paused && self.overview.is_some() {
                    return;
                }
                self.rates = self
                    .overview
                    .as_ref()
                    .map_or_else(HashMap::new, |before| client_rates(before, &overview));
                self.overview = Some(overview);
            }
            Err(why) => {
                let since = self.outage.as_ref().map_or(now, |outage| outage.since);
                // Further lines list every path that was tried, which no screen has room for.
                let first = why.lines().next().unwrap_or_default().trim_end_matches(" Tried:");
                self.outage = Some(AgentOutage { since, why: harmless(first) });
            }
        }
    }

    /// Carries out a key. `false` means that the program ends.
    pub fn key(&mut self, key: TopKey) -> bool {
        match key {
            TopKey::Interrupt => return false,
            _ if self.is_typing => self.type_filter(key),
            TopKey::Char('q') => return false,
            TopKey::Char('?' | 'h') => {
                self.view =
                    if self.view == TopView::Help { TopView::Dashboard } else { TopView::Help };
            }
            TopKey::Char('/') => self.is_typing = true,
            TopKey::Char('p' | ' ') => self.is_paused = !self.is_paused,
            TopKey::Char('s') => self.next_order(),
            TopKey::Char(digit @ '0'..='9') => self.open(digit),
            TopKey::Tab => self.move_focus(1),
            TopKey::BackTab => self.move_focus(Panel::ALL.len() - 1),
            TopKey::Enter => self.show(TopView::Panel),
            TopKey::Escape => self.back(),
            TopKey::Up | TopKey::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            TopKey::Down | TopKey::Char('j') => self.scroll_down(1),
            TopKey::PageUp => self.scroll = self.scroll.saturating_sub(PAGE),
            TopKey::PageDown => self.scroll_down(PAGE),
            TopKey::Char(_) | TopKey::Backspace => {}
        }
        true
    }

    fn type_filter(&mut self, key: TopKey) {
        match key {
            TopKey::Enter => self.is_typing = false,
            TopKey::Escape => {
                self.filter.clear();
                self.is_typing = false;
            }
            TopKey::Backspace => drop(self.filter.pop()),
            // A pasted control would be harmful only when shown; it can match nothing either.
            TopKey::Char(c) if self.filter.chars().count() < MAX_FILTER => {
                self.filter.push_str(&harmless(c.encode_utf8(&mut [0; 4])));
            }
            _ => {}
        }
        self.scroll = 0;
    }

    /// One step back: from a panel to all, from a filter to none.
    fn back(&mut self) {
        match self.view {
            TopView::Dashboard => self.filter.clear(),
            TopView::Panel | TopView::Help => self.show(TopView::Dashboard),
        }
    }

    fn show(&mut self, view: TopView) {
        self.view = view;
        self.scroll = 0;
    }

    /// Shows the panel of a digit alone, or all panels if it is shown already.
    fn open(&mut self, digit: char) {
        let Some(number) = digit.to_digit(10) else { return };
        let panel = Panel::ALL[(number as usize + Panel::ALL.len() - 1) % Panel::ALL.len()];
        let is_shown = self.view == TopView::Panel && self.focus == panel;
        self.focus = panel;
        self.show(if is_shown { TopView::Dashboard } else { TopView::Panel });
    }

    fn move_focus(&mut self, by: usize) {
        self.focus = Panel::ALL[(place(self.focus) + by) % Panel::ALL.len()];
        self.scroll = 0;
    }

    fn next_order(&mut self) {
        let order = &mut self.orders[place(self.focus)];
        *order = (*order + 1) % self.focus.orders().len();
    }

    fn scroll_down(&mut self, rows: usize) {
        let Some(table) = self.table(self.focus) else { return };
        self.scroll = (self.scroll + rows).min(table.rows.len().saturating_sub(1));
    }

    /// The order of a panel's rows.
    pub fn order(&self, panel: Panel) -> Order {
        panel.orders()[self.orders[place(panel)]]
    }

    /// The table of a panel, in its order and filtered. `None` means that there is no answer yet.
    pub fn table(&self, panel: Panel) -> Option<PanelTable> {
        let mut table = table(panel, self.overview.as_ref()?, &self.rates, self.order(panel));
        if !self.filter.is_empty() {
            table.retain(&self.filter);
            table.empty = "no row has the filter's text";
        }
        Some(table)
    }
}

fn place(panel: Panel) -> usize {
    // The variants are in the order of `ALL`, which a test holds.
    panel as usize
}

/// The bytes each second of the clients that both overviews have.
fn client_rates(before: &OverviewAnswer, now: &OverviewAnswer) -> ClientRates {
    let Time(then) = before.now;
    let seconds = now.now.0.duration_since(then).as_secs_f64();
    // An agent that restarted counts from 0, and a clock may be set back.
    if seconds <= 0.0 || now.uptime_seconds < before.uptime_seconds {
        return HashMap::new();
    }
    let totals = |overview: &OverviewAnswer| -> HashMap<String, u64> {
        let all = overview.most_tunnels.iter().chain(&overview.most_bytes);
        let one = |one: &sidegate::admin::wire::BusyClient| {
            let bytes = one.bytes_from_client.saturating_add(one.bytes_from_backend);
            (one.client.clone(), bytes)
        };
        all.map(one).collect()
    };
    let earlier = totals(before);
    let rate = |(client, bytes): (String, u64)| {
        // Fewer bytes than before mean that a tunnel has ended: the difference says nothing.
        let more = bytes.checked_sub(*earlier.get(&client)?)?;
        Some((client, more as f64 / seconds))
    };
    totals(now).into_iter().filter_map(rate).collect()
}

#[cfg(test)]
pub mod tests {
    use jiff::SignedDuration;

    use super::*;

    /// The sample of an overview.
    pub fn sample() -> OverviewAnswer {
        let samples: serde_json::Value =
            serde_json::from_str(include_str!("../../admin/wire/samples.json")).unwrap();
        serde_json::from_value(samples["overview"]["answer"].clone()).unwrap()
    }

    /// A screen with the sample.
    pub fn filled() -> App {
        let mut app = App::default();
        app.answered(Ok(sample()), Timestamp::UNIX_EPOCH);
        app
    }

    fn press(app: &mut App, keys: &str) {
        keys.chars().for_each(|c| assert!(app.key(TopKey::Char(c)), "{c}"));
    }

    #[test]
    fn panels_are_in_the_order_of_their_numbers() {
        assert!(Panel::ALL.iter().enumerate().all(|(at, panel)| place(*panel) == at));
    }

    #[test]
    fn keys_open_panels_and_go_back() {
        let mut app = filled();
        press(&mut app, "4");
        assert_eq!((app.view, app.focus), (TopView::Panel, Panel::Refused));
        press(&mut app, "4");
        assert_eq!(app.view, TopView::Dashboard);
        press(&mut app, "0");
        assert_eq!(app.focus, Panel::Lapsing);
        app.key(TopKey::Tab);
        assert_eq!(app.focus, Panel::Routes);
        app.key(TopKey::BackTab);
        assert_eq!(app.focus, Panel::Lapsing);
        app.key(TopKey::Escape);
        assert_eq!(app.view, TopView::Dashboard);
        assert!(!app.key(TopKey::Char('q')) && !app.key(TopKey::Interrupt));
    }

    #[test]
    fn filter_takes_keys_until_enter_or_escape() {
        let mut app = filled();
        press(&mut app, "/q\u{1b}ü");
        app.key(TopKey::Backspace);
        assert_eq!(app.filter, "q\u{fffd}");
        app.key(TopKey::Escape);
        press(&mut app, "/203.0");
        app.key(TopKey::Enter);
        let rows = |panel| app.table(panel).unwrap().rows.len();
        assert_eq!((rows(Panel::Refused), rows(Panel::Routes)), (1, 0));
        assert!(!app.is_typing && app.key(TopKey::Escape) && app.filter.is_empty());
        press(&mut app, "/");
        assert!(!app.key(TopKey::Interrupt), "also while typing");
    }

    #[test]
    fn client_rates_are_differences_of_two_answers() {
        let mut app = filled();
        let mut later = sample();
        later.now = Time(later.now.0 + SignedDuration::from_secs(2));
        later.most_bytes[0].bytes_from_client += 4096;
        later.most_tunnels[0].bytes_from_client = 0;
        app.answered(Ok(later.clone()), Timestamp::UNIX_EPOCH);
        assert_eq!(app.rates, HashMap::from([("2001:db8:1:2::/64".into(), 2048.0)]));
        press(&mut app, "3s");
        assert_eq!(app.order(Panel::Clients), Order::Rate);
        assert_eq!(app.table(Panel::Clients).unwrap().rows[0][0].text, "2001:db8:1:2::/64");
        later.uptime_seconds = 1;
        app.answered(Ok(later), Timestamp::UNIX_EPOCH);
        assert!(app.rates.is_empty(), "another process");
    }

    #[test]
    fn outage_keeps_its_first_time_until_an_answer_comes() {
        let (mut app, at) = (filled(), |second| Timestamp::from_second(second).unwrap());
        app.answered(Err("no agent".into()), at(5));
        app.answered(Err("\u{1b}[2Jno socket Tried:\n  /run".into()), at(7));
        let outage = app.outage.clone().unwrap();
        assert_eq!((outage.since, &*outage.why), (at(5), "\u{fffd}[2Jno socket"));
        assert!(app.overview.is_some(), "the last answer stays");
        app.answered(Ok(sample()), at(9));
        assert_eq!(app.outage, None);
    }

    #[test]
    fn paused_screen_keeps_its_answer() {
        let mut app = filled();
        press(&mut app, "p");
        app.answered(Ok(OverviewAnswer { tunnels: 99, ..sample() }), Timestamp::UNIX_EPOCH);
        assert_eq!(app.overview.as_ref().unwrap().tunnels, 25);
        press(&mut app, "p");
        app.answered(Ok(OverviewAnswer { tunnels: 99, ..sample() }), Timestamp::UNIX_EPOCH);
        assert_eq!(app.overview.unwrap().tunnels, 99);
    }
}

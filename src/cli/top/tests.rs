//! Whole screens on a terminal in memory.

use jiff::Timestamp;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::app::tests::{filled, sample};
use super::app::{App, TopKey};
use super::draw::{Look, draw, plain};
use sidegate::admin::wire::{OverviewAnswer, RefusedRow};
use sidegate::observe::printable;

/// The lines of `app` on a screen of this size.
fn screen(app: &App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let look = Look { color: true, now: Timestamp::from_second(1000).unwrap() };
    terminal.draw(|frame| draw(frame, app, look)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| line(y).trim_end().to_owned()).collect()
}

/// Checks the screen against a golden file. SIDEGATE_WRITE_DOCS writes the file.
fn check(name: &str, lines: &[String]) {
    let path = format!("{}/src/cli/top/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = lines.join("\n") + "\n";
    if std::env::var_os("SIDEGATE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{path}:\n{text}");
}

#[test]
fn eighty_by_twenty_four_has_everything() {
    let lines = screen(&filled(), 80, 24);
    check("80x24", &lines);
    let text = lines.join("\n");
    for part in [
        "connections",
        "█",
        "chat",
        "network",
        "192.0.2.7",
        "203.0.113.9",
        "rejected",
        "unknown key",
        "certs/ws.pem",
        "198.51.100.0/24",
        "CANDIDATES",
        "q quit",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn small_screen_has_one_panel_and_the_help_line() {
    let mut app = filled();
    check("40x10", &screen(&app, 40, 10));
    app.key(TopKey::Char('4'));
    let lines = screen(&app, 40, 10);
    assert!(lines.iter().any(|line| line.contains("203.0.113.9")), "{lines:#?}");
}

#[test]
fn large_screen_has_every_panel() {
    let lines = screen(&filled(), 200, 60);
    check("200x60", &lines);
    let text = lines.join("\n");
    for head in ["BACKENDS", "ENTRIES THAT LAPSE", "RELOAD ERRORS", "IDENTITY", "WHY"] {
        assert!(text.contains(head), "{head}:\n{text}");
    }
}

#[test]
fn pipe_has_every_table_without_escapes() {
    let text = plain(&filled());
    check("once", &text.lines().map(str::to_owned).collect::<Vec<_>>());
    assert!(!text.contains(|c| printable::is_control(c) && c != '\n'), "{text:?}");
    assert!(text.contains("0123456789abcdef0123456789abcdef"), "{text}");
}

#[test]
fn outage_is_shown_over_the_last_answer() {
    let mut app = filled();
    app.answered(Err("no agent answers".into()), Timestamp::from_second(940).unwrap());
    for (width, height) in [(80, 24), (40, 10), (200, 60)] {
        let text = screen(&app, width, height).join("\n");
        assert!(text.contains("not reachable since 00:15:40 UTC"), "{text}");
        assert!(text.contains("chat"), "{text}");
    }
    let mut waiting = App::default();
    assert!(screen(&waiting, 80, 24)[0].contains("waiting for the agent"));
    waiting.answered(Err("permission denied".into()), Timestamp::from_second(940).unwrap());
    assert!(screen(&waiting, 80, 24)[1].contains("60 s): permission denied"));
}

#[test]
fn any_size_is_drawn() {
    let (mut app, mut typing) = (filled(), filled());
    app.key(TopKey::Char('8'));
    typing.key(TopKey::Char('/'));
    for width in [1, 2, 9, 39, 59, 60, 78, 121, 190] {
        for height in [1, 2, 3, 5, 19, 20, 21, 61] {
            for app in [&app, &typing, &filled(), &App::default()] {
                screen(app, width, height);
            }
        }
    }
}

/// The sample with `text` in each text that anyone outside may choose.
fn spoiled(text: &str) -> OverviewAnswer {
    let mut overview = sample();
    let row: RefusedRow = {
        let refused = overview.refused_clients.as_mut().unwrap();
        let row = &mut refused.clients[0];
        for part in [&mut row.identity, &mut row.entry, &mut row.request_id] {
            *part = Some(text.to_owned());
        }
        row.reason = text.to_owned();
        row.clone()
    };
    overview.refused_clients.as_mut().unwrap().clients.push(row);
    overview.most_tunnels[0].identity = Some(text.to_owned());
    overview.bans[0].why = text.to_owned();
    overview.host = text.to_owned();
    overview.warnings[0].sentence = text.to_owned();
    overview.routes[0].name = text.to_owned();
    overview
}

#[test]
fn hostile_texts_move_nothing() {
    let clean = screen(&filled(), 200, 60);
    for text in [
        "\u{1b}[2J\u{1b}[H",
        "\u{9b}2J",
        "\u{202e}evil",
        "a\u{300}\u{301}b",
        "x\u{200d}y",
        "x\r\ny",
    ] {
        let mut app = App::default();
        app.answered(Ok(spoiled(text)), Timestamp::UNIX_EPOCH);
        for lines in [screen(&app, 80, 24), screen(&app, 200, 60)] {
            let whole = lines.join("\n");
            assert!(!whole.contains(|c| printable::is_control(c) && c != '\n'), "{whole:?}");
        }
        let lines = screen(&app, 200, 60);
        let heads = |lines: &[String]| -> Vec<usize> {
            let place = |head: &str| lines.iter().position(|line| line.contains(head)).unwrap();
            ["CLIENTS", "REFUSALS", "BANS", "CERTIFICATES"].map(place).to_vec()
        };
        assert_eq!(heads(&lines), heads(&clean), "{text:?}");
        let once = plain(&app);
        assert!(!once.contains(|c| printable::is_control(c) && c != '\n'), "{once:?}");
    }
    // Wide characters are whole or left out, and nothing behind them moves.
    let mut app = App::default();
    app.answered(Ok(spoiled(&"例え".repeat(30))), Timestamp::UNIX_EPOCH);
    let lines = screen(&app, 80, 24);
    assert!(lines.iter().any(|line| line.contains('例')), "{lines:#?}");
}

#[test]
fn no_color_uses_none() {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let look = Look { color: false, now: Timestamp::UNIX_EPOCH };
    terminal.draw(|frame| draw(frame, &filled(), look)).unwrap();
    let cells = &terminal.backend().buffer().content;
    let is_plain = |cell: &ratatui::buffer::Cell| {
        (cell.fg, cell.bg) == (ratatui::style::Color::Reset, ratatui::style::Color::Reset)
    };
    assert!(cells.iter().all(is_plain));
}

#[test]
fn help_names_every_key_and_panel() {
    let mut app = filled();
    app.key(TopKey::Char('?'));
    let text = screen(&app, 80, 24).join("\n");
    for part in ["Tab", "Enter", "PgUp", "Space", "Ctrl-C", "0 lapsing", "8 errors"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    app.key(TopKey::Char('?'));
    assert!(screen(&app, 80, 24).join("\n").contains("ROUTES"));
}

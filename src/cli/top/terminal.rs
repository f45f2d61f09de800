//! The terminal: keys in, screens out, and its state put back at the end, whatever ends it.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use jiff::Timestamp;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::admin_client;
use crate::cli::top::app::{App, TopKey};
use crate::cli::top::draw::{Look, draw};
use sidegate::admin::wire::{OverviewAnswer, OverviewRequest};

/// Time to wait for a key before looking for answers and signals.
const KEY_INTERVAL: Duration = Duration::from_millis(100);

/// Time between two screens without a key or an answer: the length of an outage grows.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// A question that is repeated until the program ends.
pub struct Polling {
    /// The configuration of the agent, which leads to its socket.
    pub config: PathBuf,
    /// The question to the agent.
    pub request: OverviewRequest,
    /// Time between an answer and the next question.
    pub interval: Duration,
    /// Time for an answer.
    pub patience: Duration,
}

type Answer = Result<OverviewAnswer, String>;

/// Shows screens until a key or a signal ends the program.
///
/// # Errors
/// The terminal cannot be set up, read or written.
pub fn run(polling: Polling, color: bool) -> io::Result<()> {
    let ended = signals()?;
    let (answers, _stop) = poll(polling)?;
    // Also sets a panic hook that restores the terminal before the panic's message.
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, &answers, &ended, color);
    // Restored before an error is returned, so that its sentence is seen.
    let restored = ratatui::try_restore();
    shown.and(restored)
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    answers: &Receiver<Answer>,
    ended: &AtomicBool,
    color: bool,
) -> io::Result<()> {
    let (mut app, mut drawn) = (App::default(), std::time::Instant::now());
    terminal.draw(|frame| draw(frame, &app, Look { color, now: Timestamp::now() }))?;
    while !ended.load(Ordering::Relaxed) {
        let mut is_new = drawn.elapsed() >= CLOCK_INTERVAL;
        while let Ok(answer) = answers.try_recv() {
            app.answered(answer, Timestamp::now());
            is_new = true;
        }
        if event::poll(if is_new { Duration::ZERO } else { KEY_INTERVAL })? {
            // A resize needs no handling but a new screen: `draw` asks for the size.
            let event = event::read()?;
            if let Some(key) = key(&event)
                && !app.key(key)
            {
                return Ok(());
            }
            is_new = true;
        }
        if is_new {
            terminal.draw(|frame| draw(frame, &app, Look { color, now: Timestamp::now() }))?;
            drawn = std::time::Instant::now();
        }
    }
    Ok(())
}

/// The key of an event. `None` means an event that does nothing.
fn key(event: &Event) -> Option<TopKey> {
    let Event::Key(KeyEvent { code, modifiers, kind, .. }) = event else { return None };
    if *kind == KeyEventKind::Release {
        return None;
    }
    let is_control = modifiers.contains(KeyModifiers::CONTROL);
    Some(match code {
        // In raw mode the terminal makes no signal of Ctrl-C.
        KeyCode::Char('c' | 'd') if is_control => TopKey::Interrupt,
        KeyCode::Char(_) if is_control || modifiers.contains(KeyModifiers::ALT) => return None,
        KeyCode::Char(c) => TopKey::Char(*c),
        KeyCode::Tab | KeyCode::Right => TopKey::Tab,
        KeyCode::BackTab | KeyCode::Left => TopKey::BackTab,
        KeyCode::Enter => TopKey::Enter,
        KeyCode::Esc => TopKey::Escape,
        KeyCode::Backspace => TopKey::Backspace,
        KeyCode::Up => TopKey::Up,
        KeyCode::Down => TopKey::Down,
        KeyCode::PageUp => TopKey::PageUp,
        KeyCode::PageDown => TopKey::PageDown,
        _ => return None,
    })
}

/// Asks from a thread of its own: an agent that hangs must not stop keys. The sender ends the
/// thread when it is dropped.
fn poll(polling: Polling) -> io::Result<(Receiver<Answer>, SyncSender<()>)> {
    let (tx, answers) = mpsc::channel();
    let (stop, stopped) = sync_channel(0);
    let ask = move || loop {
        let answer = admin_client::ask(&polling.config, &polling.request, polling.patience);
        let is_over = tx.send(answer.map_err(|error| error.to_string())).is_err();
        let waited = stopped.recv_timeout(polling.interval);
        if is_over || waited != Err(RecvTimeoutError::Timeout) {
            return;
        }
    };
    std::thread::Builder::new().name("poll".into()).spawn(ask)?;
    Ok((answers, stop))
}

/// A flag that a signal to end sets. Without it, the signal would leave the terminal as it is.
fn signals() -> io::Result<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    let (flag, runtime) =
        (Arc::clone(&ended), Builder::new_current_thread().enable_io().enable_time().build()?);
    let wait = move || {
        runtime.block_on(async {
            let kinds = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()];
            let [mut terminate, mut hangup, mut interrupt] = kinds.map(signal);
            // A signal that cannot be caught ends the program in its own way.
            let next = async |one: &mut io::Result<tokio::signal::unix::Signal>| match one {
                Ok(one) => one.recv().await,
                Err(_) => std::future::pending().await,
            };
            tokio::select! {
                _ = next(&mut terminate) => {}
                _ = next(&mut hangup) => {}
                _ = next(&mut interrupt) => {}
            }
        });
        flag.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(ended)
}

//! The terminal: keys in, screens out, and its state put back at the end, whatever ends it.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{DefaultTerminal, Terminal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, kill_current_process_group};
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

/// Time in which a process stops after the signal to stop. Without a shell, none stops it.
const STOP_TIMEOUT: Duration = Duration::from_millis(300);

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
    let signals = signals()?;
    let (answers, _stop) = ask(polling)?;
    // Also sets a panic hook that restores the terminal before the panic's message.
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, &answers, &signals, color);
    // Restored before an error is returned, so that its sentence is seen.
    let restored = ratatui::try_restore();
    if terminal.show_cursor().is_err() {
        // Its drop would say so on the standard error of a terminal that is gone, and panic.
        std::mem::forget(terminal);
    }
    shown.and(restored)
}

fn show(
    terminal: &mut DefaultTerminal,
    answers: &Receiver<Answer>,
    signals: &SignalFlags,
    color: bool,
) -> io::Result<()> {
    let (mut app, mut drawn, input) = (App::default(), Instant::now(), input()?);
    terminal.draw(|frame| draw(frame, &app, Look { color, now: Timestamp::now() }))?;
    while !signals.ended.load(Ordering::Relaxed) {
        let mut is_new = drawn.elapsed() >= CLOCK_INTERVAL;
        if signals.resumed.swap(false, Ordering::Relaxed) {
            take_back(terminal)?;
            is_new = true;
        }
        is_new |= take_answers(&mut app, answers)?;
        wait_for_input(&input, if is_new { Duration::ZERO } else { KEY_INTERVAL })?;
        // Each turn, since a change of the size is no input.
        if event::poll(Duration::ZERO)? {
            // A resize needs no handling but a new screen: `draw` asks for the size.
            let event = event::read()?;
            if is_suspend(&event) {
                suspend(terminal, signals)?;
            } else if let Some(key) = key(&event)
                && !app.key(key)
            {
                return Ok(());
            }
            is_new = true;
        }
        if is_new {
            terminal.draw(|frame| draw(frame, &app, Look { color, now: Timestamp::now() }))?;
            drawn = Instant::now();
        }
    }
    Ok(())
}

/// The terminal that keys come from: standard input, or the controlling terminal (tty(4)).
fn input() -> io::Result<OwnedFd> {
    match io::stdin().is_terminal() {
        true => io::stdin().as_fd().try_clone_to_owned(),
        false => Ok(File::open("/dev/tty")?.into()),
    }
}

/// Waits for a key. A terminal that is gone is an error here: crossterm would read its end again
/// and again, and never return.
fn wait_for_input(input: &OwnedFd, patience: Duration) -> io::Result<()> {
    let mut fds = [PollFd::new(input, PollFlags::IN)];
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&patience)) {
        // A signal came.
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    match fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
        true => Err(io::Error::new(io::ErrorKind::BrokenPipe, "it is closed")),
        false => Ok(()),
    }
}

/// Hands all answers that have come to `app`. Returns whether there was one.
fn take_answers(app: &mut App, answers: &Receiver<Answer>) -> io::Result<bool> {
    let mut is_new = false;
    loop {
        match answers.try_recv() {
            Ok(answer) => app.answered(answer, Timestamp::now()),
            Err(TryRecvError::Empty) => return Ok(is_new),
            // A screen that never changes again would be taken for the present.
            Err(TryRecvError::Disconnected) => {
                return Err(io::Error::other("the thread that asks the agent has ended"));
            }
        }
        is_new = true;
    }
}

/// Leaves the terminal to the shell until it continues this job, as Ctrl-Z does elsewhere.
fn suspend(terminal: &mut DefaultTerminal, signals: &SignalFlags) -> io::Result<()> {
    terminal.show_cursor()?;
    ratatui::try_restore()?;
    kill_current_process_group(Signal::TSTP)?;
    // The signal may reach another thread, and stop this one a moment later. It stops nothing where
    // no shell could continue it (an orphaned process group, setpgid(2)).
    let until = Instant::now() + STOP_TIMEOUT;
    while !signals.resumed.load(Ordering::Relaxed) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    signals.resumed.store(true, Ordering::Relaxed);
    Ok(())
}

/// Sets up the terminal once more: the shell had it while this process was stopped.
fn take_back(terminal: &mut DefaultTerminal) -> io::Result<()> {
    // It would do nothing after a stop that no key has asked for: raw mode counts as set.
    disable_raw_mode()?;
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, Clear(ClearType::All))?;
    // A new one knows nothing of the old screen, and draws all of it. `Terminal::clear` would wait
    // for the terminal to tell the place of its cursor.
    *terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
    Ok(())
}

fn is_suspend(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind, .. }) = event else { return false };
    let is_control = modifiers.contains(KeyModifiers::CONTROL);
    *code == KeyCode::Char('z') && is_control && *kind != KeyEventKind::Release
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
fn ask(polling: Polling) -> io::Result<(Receiver<Answer>, SyncSender<()>)> {
    let (tx, answers) = mpsc::channel();
    let (stop, stopped) = sync_channel(0);
    let repeat = move || loop {
        let answer = admin_client::ask(&polling.config, &polling.request, polling.patience);
        let is_over = tx.send(answer.map_err(|error| error.to_string())).is_err();
        let waited = stopped.recv_timeout(polling.interval);
        if is_over || waited != Err(RecvTimeoutError::Timeout) {
            return;
        }
    };
    std::thread::Builder::new().name("poll".into()).spawn(repeat)?;
    Ok((answers, stop))
}

/// What signals have asked for.
#[derive(Default)]
struct SignalFlags {
    /// The program ends. Without it, the signal would leave the terminal as it is.
    ended: AtomicBool,
    /// The process was stopped and goes on.
    resumed: AtomicBool,
}

/// Flags that a thread of their own sets.
fn signals() -> io::Result<Arc<SignalFlags>> {
    let flags = Arc::<SignalFlags>::default();
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    let set = Arc::clone(&flags);
    // Caught before the terminal is changed, and not as soon as the thread runs: a signal between
    // the two would leave the terminal as it is.
    let caught = runtime.enter();
    let kinds = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()];
    let [mut terminate, mut hangup, mut interrupt] = kinds.map(signal);
    let mut resume = signal(SignalKind::from_raw(Signal::CONT.as_raw()));
    drop(caught);
    let wait = move || {
        runtime.block_on(async {
            // A signal that cannot be caught ends the program in its own way.
            let next = async |one: &mut io::Result<tokio::signal::unix::Signal>| match one {
                Ok(one) => one.recv().await,
                Err(_) => std::future::pending().await,
            };
            loop {
                tokio::select! {
                    _ = next(&mut terminate) => break,
                    _ = next(&mut hangup) => break,
                    _ = next(&mut interrupt) => break,
                    _ = next(&mut resume) => set.resumed.store(true, Ordering::Relaxed),
                }
            }
        });
        set.ended.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(flags)
}

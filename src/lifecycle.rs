//! The lifecycle of the process: one value that only moves forward, and that everything else reads.
//!
//! Only the methods below change the stage. They know no listener, no tunnel and no service
//! manager.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A stage of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Sockets are bound; signals are not handled yet.
    Starting,
    /// Requests are served and signals are handled.
    Serving,
    /// A drain was ordered.
    Draining(Drain),
    /// Both planes have ended.
    Ended,
}

impl Stage {
    /// Whether a drain was ordered.
    pub fn is_draining(&self) -> bool {
        matches!(self, Stage::Draining(_) | Stage::Ended)
    }
}

/// A drain in progress, with its times and options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Time at which it was ordered.
    pub since: Instant,
    /// Time at which accepting stops: `[shutdown] delay` after `since`.
    pub closing: Instant,
    /// Time at which the remaining connections are cut: `[shutdown] deadline` after `closing`.
    pub deadline: Instant,
    /// Close code for the open tunnels.
    pub code: u16,
    /// The step that it has reached.
    pub step: DrainStep,
}

/// The steps of a drain, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainStep {
    /// `/readyz` answers 503, so that a load balancer looks elsewhere; requests are still served.
    Announced,
    /// Nothing new is accepted, and open tunnels are being closed.
    Closing,
    /// The remaining connections are being cut.
    Cutting,
}

/// The part of `[shutdown]` that the lifecycle needs.
#[derive(Debug, Clone, Copy)]
pub struct DrainOptions {
    /// Time from the order until accepting stops.
    pub delay: Duration,
    /// Time from then until the remaining connections are cut.
    pub deadline: Duration,
    /// Close code for the open tunnels.
    pub code: u16,
}

/// The end of a tunnel that opens too late in a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewTunnelEnd {
    /// A Close with this code, as the open tunnels get it.
    Close(u16),
    /// No Close: the open tunnels were cut already.
    Cut,
}

/// The stage of this process, shared by all code that reads or advances it.
pub struct Lifecycle {
    stage: watch::Sender<Stage>,
    released: CancellationToken,
    is_orphan: AtomicBool,
    closing: CancellationToken,
    cutting: CancellationToken,
}

impl Lifecycle {
    /// Creates the lifecycle of a process in [`Stage::Starting`].
    pub fn new() -> Arc<Self> {
        let (stage, _) = watch::channel(Stage::Starting);
        Arc::new(Lifecycle {
            stage,
            released: CancellationToken::new(),
            is_orphan: AtomicBool::new(false),
            closing: CancellationToken::new(),
            cutting: CancellationToken::new(),
        })
    }

    /// The stage at this moment.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Subscribes to the current stage and each later one.
    pub fn subscribe(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// Whether a drain was ordered.
    pub fn is_draining(&self) -> bool {
        self.stage().is_draining()
    }

    /// The end of a tunnel that opens from now on. `None` means that tunnels may open.
    ///
    /// An opening tunnel enters its table first and asks afterwards. A drain advances the stage
    /// first and walks the table afterwards. So one of the two sees the other.
    pub fn new_tunnel_end(&self) -> Option<NewTunnelEnd> {
        match self.stage() {
            Stage::Starting | Stage::Serving => None,
            Stage::Draining(drain) => match drain.step {
                DrainStep::Announced => None,
                DrainStep::Closing => Some(NewTunnelEnd::Close(drain.code)),
                DrainStep::Cutting => Some(NewTunnelEnd::Cut),
            },
            Stage::Ended => Some(NewTunnelEnd::Cut),
        }
    }

    /// Cancelled when the next process of an upgrade accepts in place of this one. The stage stays:
    /// connections that this process has accepted are served as before, each until its next answer.
    pub fn released(&self) -> &CancellationToken {
        &self.released
    }

    /// Notes that the next process of an upgrade is gone.
    pub fn orphan(&self) {
        self.is_orphan.store(true, Ordering::Relaxed);
    }

    /// Whether the next process of an upgrade is gone. No process accepts then, and a service
    /// manager starts the agent anew only once this one has ended, so that a drain has to be short.
    pub fn is_orphan(&self) -> bool {
        self.is_orphan.load(Ordering::Relaxed)
    }

    /// Cancelled when nothing new is accepted any more.
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Cancelled before the remaining connections are cut.
    pub fn cutting(&self) -> &CancellationToken {
        &self.cutting
    }

    /// Advances to [`Stage::Serving`]: signals are handled from now on.
    pub fn serve(&self) {
        self.advance(|stage| match stage {
            Stage::Starting => Some(Stage::Serving),
            _ => None,
        });
    }

    /// Orders a drain. `false` means that one was ordered before.
    pub fn drain(&self, options: DrainOptions) -> bool {
        self.advance(|stage| match stage {
            Stage::Starting | Stage::Serving => {
                let since = Instant::now();
                let closing = since + options.delay;
                let deadline = closing + options.deadline;
                let step = DrainStep::Announced;
                Some(Stage::Draining(Drain { since, closing, deadline, code: options.code, step }))
            }
            _ => None,
        })
    }

    /// Stops accepting; part of a drain.
    pub fn close(&self) {
        // The stage first, then the token: a task that the token wakes finds the new stage.
        self.advance(|stage| at_step(stage, DrainStep::Closing));
        self.closing.cancel();
    }

    /// Ends a drain early: the remaining connections are to be cut now.
    pub fn cut(&self) {
        self.advance(|stage| at_step(stage, DrainStep::Cutting));
        self.cutting.cancel();
        self.closing.cancel();
    }

    /// Advances to [`Stage::Ended`]: both planes have ended.
    pub fn end(&self) {
        self.advance(|stage| (stage != Stage::Ended).then_some(Stage::Ended));
    }

    fn advance(&self, next: impl FnOnce(Stage) -> Option<Stage>) -> bool {
        self.stage.send_if_modified(|stage| match next(*stage) {
            Some(next) => {
                *stage = next;
                true
            }
            None => false,
        })
    }
}

/// The stage with the drain advanced to `step`. `None` if it is there already, or there is no
/// drain.
fn at_step(stage: Stage, step: DrainStep) -> Option<Stage> {
    match stage {
        Stage::Draining(drain) if drain.step < step => {
            Some(Stage::Draining(Drain { step, ..drain }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::pin::pin;
    use std::sync::Mutex;
    use std::task::{Context, Wake, Waker};

    const TERMS: DrainOptions = DrainOptions {
        delay: Duration::from_secs(1),
        deadline: Duration::from_secs(30),
        code: 1012,
    };

    fn step(lifecycle: &Lifecycle) -> Option<DrainStep> {
        match lifecycle.stage() {
            Stage::Draining(drain) => Some(drain.step),
            _ => None,
        }
    }

    #[test]
    fn drain_is_ordered_once_and_keeps_its_options() {
        let lifecycle = Lifecycle::new();
        lifecycle.serve();
        assert!(lifecycle.drain(TERMS));
        assert!(!lifecycle.drain(DrainOptions { code: 1001, ..TERMS }));
        assert_eq!(lifecycle.new_tunnel_end(), None);
        lifecycle.close();
        assert_eq!(lifecycle.new_tunnel_end(), Some(NewTunnelEnd::Close(1012)));
    }

    #[test]
    fn stage_never_goes_back() {
        let lifecycle = Lifecycle::new();
        lifecycle.drain(TERMS);
        lifecycle.serve();
        assert_eq!(step(&lifecycle), Some(DrainStep::Announced));
        lifecycle.cut();
        lifecycle.close();
        assert_eq!(step(&lifecycle), Some(DrainStep::Cutting));
        lifecycle.end();
        assert!(!lifecycle.drain(TERMS));
        lifecycle.cut();
        assert_eq!(lifecycle.stage(), Stage::Ended);
    }

    /// Records the step that a task finds when a token wakes it.
    struct Woken(Arc<Lifecycle>, Mutex<Option<DrainStep>>);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            *self.1.lock().unwrap() = step(&self.0);
        }
    }

    /// The step at which `token` wakes its waiters, when `advance` is called.
    fn woken_at(token: fn(&Lifecycle) -> &CancellationToken, advance: fn(&Lifecycle)) -> DrainStep {
        let lifecycle = Lifecycle::new();
        lifecycle.drain(TERMS);
        let woken = Arc::new(Woken(Arc::clone(&lifecycle), Mutex::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let mut waits = pin!(token(&lifecycle).cancelled());
        assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        advance(&lifecycle);
        woken.1.lock().unwrap().take().unwrap()
    }

    #[test]
    fn woken_task_sees_the_step_of_its_token() {
        assert_eq!(woken_at(Lifecycle::closing, Lifecycle::close), DrainStep::Closing);
        assert_eq!(woken_at(Lifecycle::cutting, Lifecycle::cut), DrainStep::Cutting);
        assert_eq!(woken_at(Lifecycle::closing, Lifecycle::cut), DrainStep::Cutting);
    }

    #[test]
    fn close_cancels_one_token_and_cut_both() {
        let lifecycle = Lifecycle::new();
        lifecycle.drain(TERMS);
        assert!(!lifecycle.closing().is_cancelled());
        lifecycle.close();
        assert!(lifecycle.closing().is_cancelled() && !lifecycle.cutting().is_cancelled());
        lifecycle.cut();
        assert!(lifecycle.cutting().is_cancelled());
    }

    #[test]
    fn cut_without_close_refuses_new_tunnels_too() {
        let lifecycle = Lifecycle::new();
        lifecycle.drain(TERMS);
        lifecycle.cut();
        assert_eq!(lifecycle.new_tunnel_end(), Some(NewTunnelEnd::Cut));
        assert!(lifecycle.closing().is_cancelled());
    }
}

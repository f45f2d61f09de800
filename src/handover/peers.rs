//! The links from the newest process to earlier ones, which keep tunnels from before an upgrade.

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use crate::handover::offer::{HandoverFrame, PeerLabel};
use crate::handover::pump::{Pump, PumpFrame};
use crate::sync::lock;

/// The earlier processes that this one is joined to, as the newest one. Clones share them.
#[derive(Clone, Default)]
pub struct EarlierProcesses(Arc<Mutex<Vec<EarlierProcess>>>);

/// An earlier process, and the link to it.
struct EarlierProcess {
    label: PeerLabel,
    control_tx: UnboundedSender<PumpFrame>,
    close: CancellationToken,
}

impl EarlierProcesses {
    /// Adds the process `pid` at the other end of `pump`.
    pub fn add(&self, pid: u32, pump: &Pump) {
        let mut all = self.lock();
        // Processes that have ended since.
        all.retain(|peer| !peer.control_tx.is_closed());
        let (control_tx, close) = (pump.control_tx.clone(), pump.close.clone());
        all.push(EarlierProcess { label: PeerLabel { pid }, control_tx, close });
    }

    /// Invites each of them to a further channel, whose other end is for the next process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn invite(&self) -> io::Result<Vec<(PeerLabel, StdStream)>> {
        let mut ends = Vec::new();
        for peer in self.lock().iter().filter(|peer| !peer.control_tx.is_closed()) {
            let (theirs, next) = StdStream::pair()?;
            // It may end at this moment, and the next process then finds the channel closed.
            let _ = peer.control_tx.send((HandoverFrame::Move, vec![theirs.into()]));
            ends.push((peer.label, next));
        }
        Ok(ends)
    }

    /// Closes the links: another process is the newest one.
    pub fn leave(&self) {
        self.lock().drain(..).for_each(|peer| peer.close.cancel());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<EarlierProcess>> {
        lock(&self.0)
    }
}

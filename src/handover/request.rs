//! Orders to upgrade, from the admin socket to the control plane.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

/// An order to hand over to a new process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeOrder {
    /// The program to start. `None` means the path by which this process was started.
    pub binary: Option<PathBuf>,
    /// Time for the new process to become ready.
    pub deadline: Duration,
    /// Whether the new program only loads the files, and ends.
    pub is_trial: bool,
}

/// What an order has led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandoverOutcome {
    /// Process id of the new process. `None` means a trial.
    pub pid: Option<u32>,
    /// Version of the new program.
    pub version: String,
    /// The program that was started.
    pub binary: PathBuf,
    /// Number of tunnels that this process keeps until they end.
    pub tunnels: usize,
    /// Whether a service manager was told of the new main process.
    pub is_announced: bool,
    /// Time for which this process may keep its tunnels.
    pub deadline: Duration,
}

/// Why nothing has changed, in one sentence.
pub type UpgradeRefusal = String;

/// An order on its way, and where its answer goes.
pub(super) struct PendingOrder {
    pub order: UpgradeOrder,
    pub tx: oneshot::Sender<Result<HandoverOutcome, UpgradeRefusal>>,
}

/// Handle that requests upgrades from anywhere in the process.
#[derive(Clone)]
pub struct UpgradeHandle {
    orders: mpsc::Sender<PendingOrder>,
}

/// Receiving end of [`UpgradeHandle`].
pub struct UpgradeReceiver {
    pub(super) orders: mpsc::Receiver<PendingOrder>,
}

impl UpgradeHandle {
    /// A handle, and its receiving end. One order waits while another is carried out.
    pub fn new() -> (UpgradeHandle, UpgradeReceiver) {
        let (tx, orders) = mpsc::channel(1);
        (UpgradeHandle { orders: tx }, UpgradeReceiver { orders })
    }

    /// Carries out `order`.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub async fn upgrade(&self, order: UpgradeOrder) -> Result<HandoverOutcome, UpgradeRefusal> {
        let ending = || "this process takes no further upgrade: it is ending".to_owned();
        let (tx, outcome) = oneshot::channel();
        self.orders.try_send(PendingOrder { order, tx }).map_err(|failed| match failed {
            mpsc::error::TrySendError::Full(_) => "another upgrade is under way".to_owned(),
            mpsc::error::TrySendError::Closed(_) => ending(),
        })?;
        outcome.await.unwrap_or_else(|_| Err(ending()))
    }
}

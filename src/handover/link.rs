//! Messages about tunnels between the newest process and an older one.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// A message about tunnels.
pub type LinkMessage = serde_json::Value;

/// The ends of a link inside the process. Both fail once the other process is gone.
pub struct Link {
    /// Sends messages.
    pub tx: UnboundedSender<LinkMessage>,
    /// Receives messages.
    pub rx: UnboundedReceiver<LinkMessage>,
}

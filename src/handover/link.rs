//! Messages about tunnels between the newest process and an older one.
//!
//! A row has everything that a verdict reads, so that the newest process judges tunnels which it
//! does not keep. `wire_row` is its form on the link.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::close::{CloseReason, Closed, Initiator, Traffic, TunnelPhase};
use crate::data::backend::DownBackend;
use crate::handover::wire_budget::WireBudget;
use crate::handover::wire_row::{RowTraffic, WireRow};
use crate::refusal::Refusal;
use crate::tunnels::{CloseOrder, EndOrder, TunnelEnding};

/// The ends of a link inside the process. Both fail once the other process is gone.
pub struct Link {
    /// Sends messages to the other process.
    pub tx: UnboundedSender<LinkMessage>,
    /// Receives messages of the other process.
    pub rx: UnboundedReceiver<LinkMessage>,
}

/// A message about tunnels.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LinkMessage {
    /// Old to new: a tunnel or an exchange that is open.
    Row(Box<WireRow>),
    /// Old to new: what clients have used of a limiter.
    Budget(Box<WireBudget>),
    /// Old to new: addresses of backends whose last dial failed.
    Backends {
        /// The addresses that are tried last for a while.
        down: Vec<WireBackend>,
    },
    /// Old to new: all that were open at the start have come.
    Synced,
    /// Old to new: traffic of rows since they opened. The next report waits for `Counted`.
    Traffic {
        /// One for each row that has moved.
        rows: Vec<RowTraffic>,
    },
    /// Old to new: it has ended.
    Ended {
        /// Its number in the old process, and all that it has carried.
        traffic: RowTraffic,
        /// How. `None` means an exchange, or a tunnel that the process has dropped.
        how: Option<WireEnding>,
    },
    /// New to old: the traffic was counted.
    Counted,
    /// New to old: an order to end.
    End {
        /// The number of the row in the old process.
        id: u64,
        /// The way in which it ends.
        order: WireEnd,
    },
    /// A message of a later version. It is never sent.
    #[serde(other)]
    Unknown,
}

/// An address of a backend that is down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireBackend {
    backend: String,
    resolved: Option<SocketAddr>,
    hangs: bool,
}

impl WireBackend {
    /// The address on the link.
    pub fn of(down: DownBackend) -> WireBackend {
        let DownBackend { backend, resolved, hangs } = down;
        WireBackend { backend, resolved, hangs }
    }

    /// The address of the link.
    pub fn read(self) -> DownBackend {
        let WireBackend { backend, resolved, hangs } = self;
        DownBackend { backend, resolved, hangs }
    }
}

/// An order to end, as on the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum WireEnd {
    /// Revoked by a policy or a ban.
    Revoke {
        /// The word of the refusal.
        refusal: String,
    },
    /// Closed by an operator.
    Close {
        /// The close code for the client.
        code: u16,
        /// The reason behind the code.
        reason: String,
    },
    /// Drained with this code.
    Drain {
        /// The close code for the client.
        code: u16,
    },
    /// Cut without a Close frame.
    Cut,
}

impl WireEnd {
    /// The order on the link.
    pub fn of(order: &EndOrder) -> WireEnd {
        match order {
            EndOrder::Revoke(refusal) => WireEnd::Revoke { refusal: refusal.word().to_owned() },
            EndOrder::Close(order) => {
                WireEnd::Close { code: order.code, reason: order.reason.to_string() }
            }
            EndOrder::Drain(code) => WireEnd::Drain { code: *code },
            EndOrder::Cut => WireEnd::Cut,
        }
    }

    /// The order of the link.
    pub fn order(self) -> EndOrder {
        match self {
            // An unknown word is of a later version: the client is refused all the same.
            WireEnd::Revoke { refusal } => {
                EndOrder::Revoke(refusal_named(&refusal).unwrap_or(Refusal::Network))
            }
            WireEnd::Close { code, reason } => {
                EndOrder::Close(CloseOrder { code, reason: reason.into() }.into())
            }
            WireEnd::Drain { code } => EndOrder::Drain(code),
            WireEnd::Cut => EndOrder::Cut,
        }
    }
}

/// How a tunnel has ended, as on the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireEnding {
    by: String,
    phase: String,
    reason: String,
    refusal: Option<String>,
    lasted_ms: u64,
}

impl WireEnding {
    /// The ending on the link.
    pub fn of(TunnelEnding { closed, refusal }: &TunnelEnding) -> WireEnding {
        WireEnding {
            by: closed.by.word().to_owned(),
            phase: closed.phase.word().to_owned(),
            reason: closed.reason.word().to_owned(),
            refusal: refusal.map(|refusal| refusal.word().to_owned()),
            lasted_ms: u64::try_from(closed.lasted.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The ending of the link, without its traffic. `None` means that a word is unknown.
    pub fn ending(&self) -> Option<TunnelEnding> {
        let refusal = match &self.refusal {
            Some(word) => Some(refusal_named(word)?),
            None => None,
        };
        let closed = Closed {
            by: *Initiator::ALL.iter().find(|one| one.word() == self.by)?,
            phase: *TunnelPhase::ALL.iter().find(|one| one.word() == self.phase)?,
            reason: *CloseReason::ALL.iter().find(|one| one.word() == self.reason)?,
            code: None,
            from_client: Traffic::default(),
            from_backend: Traffic::default(),
            lasted: std::time::Duration::from_millis(self.lasted_ms),
        };
        Some(TunnelEnding { closed, refusal })
    }
}

fn refusal_named(word: &str) -> Option<Refusal> {
    Refusal::ALL.into_iter().find(|refusal| refusal.word() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_survives_the_link() {
        let close = CloseOrder { code: 4000, reason: "maintenance".into() };
        let revokes = Refusal::ALL.into_iter().map(EndOrder::Revoke);
        let others = [EndOrder::Close(close.into()), EndOrder::Drain(1012), EndOrder::Cut];
        for order in revokes.chain(others) {
            let text = serde_json::to_string(&WireEnd::of(&order)).unwrap();
            let read: WireEnd = serde_json::from_str(&text).unwrap();
            // The word is what the client gets; a refusal of a rate has a time beside it.
            assert_eq!(WireEnd::of(&read.order()), WireEnd::of(&order), "{text}");
        }
        let later = WireEnd::Revoke { refusal: "later".into() };
        assert_eq!(later.order(), EndOrder::Revoke(Refusal::Network));
    }

    #[test]
    fn every_ending_survives_the_link() {
        for reason in CloseReason::ALL {
            for (by, refusal) in
                [(Initiator::Sidegate, Some(Refusal::Banned)), (Initiator::Client, None)]
            {
                let closed = Closed {
                    by,
                    phase: TunnelPhase::Closing,
                    reason,
                    code: None,
                    from_client: Traffic::default(),
                    from_backend: Traffic::default(),
                    lasted: std::time::Duration::from_millis(1500),
                };
                let wire = WireEnding::of(&TunnelEnding { closed, refusal });
                let read = wire.ending().unwrap();
                assert_eq!((read.closed, read.refusal), (closed, refusal));
                assert!(WireEnding { by: "later".into(), ..wire }.ending().is_none());
            }
        }
    }

    #[test]
    fn message_of_a_later_version_is_unknown() {
        let read: LinkMessage = serde_json::from_str(r#"{"kind":"later","id":7}"#).unwrap();
        assert!(matches!(read, LinkMessage::Unknown));
    }
}

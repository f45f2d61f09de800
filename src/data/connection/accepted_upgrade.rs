//! An attempt whose client gets a 101: for a tunnel, or to be refused by a Close.

use http::response;

use crate::data::connection::pending_tunnel::PendingTunnel;
use crate::data::connection::refused_upgrade::RefusedUpgrade;

/// What follows the 101 of an attempt.
pub enum AcceptedUpgrade {
    /// The backend has switched, and the tunnel opens.
    Tunnel(Box<PendingTunnel>),
    /// No backend was asked, and a Close with the refusal follows.
    Refused(Box<RefusedUpgrade>),
}

impl AcceptedUpgrade {
    /// The head of the 101, for a client whose attempt hyper has not read.
    pub fn head(&self) -> Vec<u8> {
        match self {
            AcceptedUpgrade::Tunnel(pending) => pending.head(),
            AcceptedUpgrade::Refused(refused) => refused.head(),
        }
    }

    /// Takes the head of the 101, for a client whose attempt hyper has read.
    pub fn take_head(&mut self) -> response::Parts {
        match self {
            AcceptedUpgrade::Tunnel(pending) => pending.take_head(),
            AcceptedUpgrade::Refused(refused) => refused.take_head(),
        }
    }
}

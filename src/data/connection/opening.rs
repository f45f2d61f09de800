//! What a permitted attempt leaves behind: a tunnel that only wants its client.

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::data::Core;
use crate::data::backend::Switched;
use crate::data::channel::Channel;
use crate::data::head;
use crate::data::tunnel::Tunnel;
use crate::policy::request::Request;
use crate::tunnels::{Origination, Slot};

/// A tunnel that only wants its client.
pub struct Opening {
    /// The backend that has switched.
    pub backend: Box<Switched>,
    /// Its place, and the permit that it has it by.
    pub slot: Slot,
    /// What was permitted.
    pub request: Request,
    /// Whose it is.
    pub from: Origination,
    /// When its attempt came.
    pub began: Instant,
}

impl Opening {
    /// The head of the 101, for a client whose attempt hyper has not read.
    pub fn head(&self) -> Vec<u8> {
        head::write_switched(&self.backend.head, &self.backend.spelling)
    }

    /// Opens the tunnel to `client`, which has `said` something already: enters the table, and is told at once if a newer
    /// generation refuses it.
    pub fn open(self, core: &Core, client: Channel, said: Bytes) -> Tunnel {
        let (place, entry) = self.slot.enter(self.request, self.from, Timestamp::now());
        let metrics = core.metrics.route(&entry.route());
        metrics.tunnel_opened(self.began.elapsed());
        let Switched { channel, early, agreed, load, .. } = *self.backend;
        Tunnel::new(client, channel, (said, early), agreed.extensions, (place, load), entry, metrics)
    }
}

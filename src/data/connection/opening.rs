//! What a permitted attempt leaves behind: a tunnel that only wants its client.

use bytes::Bytes;
use jiff::Timestamp;

use crate::data::Core;
use crate::data::backend::Switched;
use crate::data::channel::Channel;
use crate::data::connection::asked::Asked;
use crate::data::head;
use crate::data::tunnel::Tunnel;
use crate::policy::request::Request;
use crate::tunnels::{Origination, Slot};

/// What an attempt was granted.
pub struct Switching {
    /// The backend that has switched.
    pub backend: Box<Switched>,
    /// Its place, and the permit that it has it by.
    pub slot: Slot,
    /// What was permitted.
    pub request: Request,
    /// Whose it is.
    pub from: Origination,
}

/// A tunnel that only wants its client. Dropped, its client has left.
pub struct Opening {
    granted: Box<Switching>,
    asked: Box<Asked>,
}

impl Opening {
    /// The tunnel that `asked` was granted.
    pub fn new(granted: Box<Switching>, asked: Box<Asked>) -> Box<Self> {
        Box::new(Opening { granted, asked })
    }

    /// The head of the 101, for a client whose attempt hyper has not read.
    pub fn head(&self) -> Vec<u8> {
        head::write_switched(&self.granted.backend.head, &self.granted.backend.spelling)
    }

    /// Opens the tunnel to `client`, which has `said` something already: books the attempt, enters
    /// the table, and is told at once if it is refused by now.
    pub fn open(mut self, core: &Core, client: Channel, said: Bytes) -> Tunnel {
        self.asked.permitted(101);
        let Switching { backend, slot, request, from } = *self.granted;
        let (place, entry) = slot.enter(request, from, Timestamp::now);
        let metrics = core.metrics.route(&entry.route());
        metrics.tunnel_opened(self.asked.began.elapsed());
        let Switched { channel, early, agreed, load, .. } = *backend;
        let early = (said, early);
        Tunnel::new(client, channel, early, agreed.extensions, (place, load), entry, metrics)
    }
}

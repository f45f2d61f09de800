//! Waiting for sockets: epoll, edge-triggered, so that each is registered once and never again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

/// Readiness of a socket, by the number under which it was added.
pub struct Ready {
    pub token: u64,
    /// The peer has ended, or the socket has failed: read until that shows.
    pub ended: bool,
}

pub struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poll {
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(256) })
    }

    /// Registers `socket` edge-triggered: it wakes once on each change, so its owner must go on
    /// until it would block.
    pub fn add_edges(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token), edges)?)
    }

    /// Wakes as long as there is something to read or to accept.
    pub fn add_level(&self, source: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Returns the ready sockets after at most `timeout`, which is kept to the nanosecond as far as
    /// the kernel can.
    pub fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        self.events.clear();
        let timeout = timeout.map(|time| Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: time.subsec_nanos().into(),
        });
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let over = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        ready.extend(self.events.iter().map(|&Event { flags, data }| Ready {
            token: data.u64(),
            ended: flags.intersects(over),
        }));
        Ok(())
    }
}

//! The floor: bytes go from one socket to the other, and nothing else happens. It shows what the
//! kernel alone costs on a machine, since no proxy that reads and writes can cost less.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::Outcome;
use crate::backend::written;
use crate::poll::{Poll, Ready};

const LISTENER: u64 = u64::MAX;
const READ: usize = 128 << 10;

/// Connects every client to the backend at `to`, until the process is ended.
pub fn run(port: &str, to: &str) -> Outcome {
    let (listener, to) = (TcpListener::bind(("127.0.0.1", port.parse()?))?, to.parse()?);
    listener.set_nonblocking(true)?;
    rustix::net::listen(&listener, 4096)?;
    let mut poll = Poll::new()?;
    poll.add_level(&listener, LISTENER)?;
    let (mut pairs, mut ready, mut buffer) = (Vec::new(), Vec::new(), vec![0; READ]);
    loop {
        poll.wait(None, &mut ready)?;
        for Ready { token, .. } in ready.drain(..) {
            if token == LISTENER {
                match listener.accept() {
                    Ok((client, _)) => {
                        pairs.push(Some(Pair::new(&poll, client, to, pairs.len() as u64)?))
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
                continue;
            }
            let place = token as usize / 2;
            if pairs[place].as_mut().is_some_and(|pair| !pair.relay(&mut buffer)) {
                pairs[place] = None;
            }
        }
    }
}

/// A client and its connection to the backend; numbers are never used again.
struct Pair {
    sides: [TcpStream; 2],
    /// Bytes that the socket of the same index has not taken yet.
    unsent: [Vec<u8>; 2],
}

impl Pair {
    fn new(poll: &Poll, client: TcpStream, to: u16, number: u64) -> io::Result<Self> {
        let sides = [client, TcpStream::connect(("127.0.0.1", to))?];
        for (side, token) in sides.iter().zip([2 * number, 2 * number + 1]) {
            side.set_nodelay(true)?;
            side.set_nonblocking(true)?;
            poll.add_edges(side, token)?;
        }
        Ok(Pair { sides, unsent: Default::default() })
    }

    /// Relays until both sides would block. Returns whether it lives: when one side ends, so does
    /// the other.
    fn relay(&mut self, buffer: &mut [u8]) -> bool {
        let mut lives = [true; 2];
        for (from, to) in [(0, 1), (1, 0)] {
            lives[from] = self.pump(from, to, buffer).is_some();
        }
        lives == [true; 2]
    }

    fn pump(&mut self, from: usize, to: usize, buffer: &mut [u8]) -> Option<()> {
        let (target, unsent) = (self.sides[to].as_fd(), &mut self.unsent[to]);
        let sent = written(target, unsent)?;
        unsent.drain(..sent);
        while unsent.is_empty() {
            let read = match rustix::io::read(&self.sides[from], &mut *buffer) {
                Ok(0) => return None,
                Ok(read) => read,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(_) => return None,
            };
            let sent = written(target, &buffer[..read])?;
            unsent.extend_from_slice(&buffer[sent..read]);
            if read < buffer.len() {
                break; // edge-triggered: what comes from now on wakes again
            }
        }
        Some(())
    }
}

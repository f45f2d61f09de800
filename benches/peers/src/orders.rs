//! The orders on the standard input, a JSON object a line, and the answers on the standard output.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use serde_json::Value;

use crate::Outcome;

#[derive(Default)]
pub struct Orders {
    unread: Vec<u8>,
}

/// The state after a look at the standard input.
pub enum Heard {
    Order(Value),
    Nothing,
    /// The sender of orders has gone.
    End,
}

impl Orders {
    pub fn source() -> BorrowedFd<'static> {
        rustix::stdio::stdin()
    }

    /// The next order; reads once, when epoll says that there is something to read.
    pub fn read(&mut self) -> Outcome<Heard> {
        let mut buffer = [0; 4096];
        let count = match rustix::io::read(Self::source(), &mut buffer) {
            Ok(0) => return Ok(Heard::End),
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(Heard::Nothing),
            Err(error) => return Err(error.into()),
        };
        self.unread.extend_from_slice(&buffer[..count]);
        let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') else {
            return Ok(Heard::Nothing);
        };
        let line: Vec<u8> = self.unread.drain(..=end).collect();
        Ok(Heard::Order(serde_json::from_slice(&line)?))
    }

    pub fn answer(answer: &Value) -> Outcome {
        let mut out = io::stdout().lock();
        writeln!(out, "{answer}")?;
        Ok(out.flush()?)
    }
}

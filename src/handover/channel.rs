//! A stream between two processes of one agent: frames of JSON, some with descriptors.
//!
//! A frame is its length in bytes (4 bytes, big-endian), the number of its descriptors (1 byte) and
//! the JSON text. The descriptors come as `SCM_RIGHTS` (unix(7)) with the first byte of the frame.
//! This module gives no meaning to a frame.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Most bytes of one frame. The largest are bans, at most some megabytes.
const MAX_FRAME: usize = 64 << 20;

/// Most descriptors of one frame; the kernel allows 253 (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 200;

/// Bytes in front of the text.
const HEAD: usize = 5;

/// Bytes of one read.
const READ: usize = 64 << 10;

/// The reading half: what has arrived, and is no whole frame yet.
#[derive(Default)]
struct Arrived {
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

/// One end of the stream.
pub struct Channel {
    sender: ChannelSender,
    arrived: Arrived,
}

/// The sending half of an end.
pub struct ChannelSender(Arc<UnixStream>);

/// The receiving half of an end.
pub struct ChannelReceiver {
    stream: Arc<UnixStream>,
    arrived: Arrived,
}

/// A frame that was received.
pub struct Frame {
    text: Vec<u8>,
    /// The descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Frame {
    /// A frame with this text.
    #[cfg(test)]
    pub fn of(text: &str) -> Frame {
        Frame { text: text.into(), descriptors: Vec::new() }
    }

    /// Reads the text as a `T`.
    ///
    /// # Errors
    /// The text is not a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> io::Result<T> {
        serde_json::from_slice(&self.text).map_err(io::Error::other)
    }
}

impl Arrived {
    /// Takes the first frame, once it is whole.
    fn next(&mut self) -> io::Result<Option<Frame>> {
        let Some((head, rest)) = self.bytes.split_at_checked(HEAD) else { return Ok(None) };
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let count = usize::from(head[4]);
        if length > MAX_FRAME {
            return Err(io::Error::other("a frame is too large"));
        }
        let Some(text) = rest.get(..length) else { return Ok(None) };
        // They come with the first byte of the frame, so that a whole frame has all of them.
        if self.descriptors.len() < count {
            return Err(io::Error::other("descriptors of a frame are missing"));
        }
        let frame =
            Frame { text: text.to_vec(), descriptors: self.descriptors.drain(..count).collect() };
        self.bytes.drain(..HEAD + length);
        Ok(Some(frame))
    }

    fn receive(&mut self, stream: &UnixStream) -> io::Result<usize> {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let before = self.bytes.len();
        self.bytes.resize(before + READ, 0);
        let received = recvmsg(
            stream,
            &mut [IoSliceMut::new(&mut self.bytes[before..])],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        );
        self.bytes.truncate(before + received.as_ref().map_or(0, |received| received.bytes));
        let received = received?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        Ok(received.bytes)
    }

    async fn receive_from(&mut self, stream: &UnixStream) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.next()? {
                return Ok(Some(frame));
            }
            // The ready stream is read within one poll, so that a cancel loses no byte.
            match stream.async_io(Interest::READABLE, || self.receive(stream)).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // A process that was killed with unread bytes resets its end.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Channel {
    /// Two connected ends: one of this process, and one to pass to another.
    ///
    /// # Errors
    /// No descriptor is left, or there is no runtime.
    pub fn pair() -> io::Result<(Channel, StdStream)> {
        let (ours, other) = StdStream::pair()?;
        Ok((Channel::new(ours)?, other))
    }

    /// The end whose descriptor is `stream`. The caller is in a runtime.
    ///
    /// # Errors
    /// The runtime does not take it.
    pub fn new(stream: StdStream) -> io::Result<Channel> {
        stream.set_nonblocking(true)?;
        DetachedChannel { stream, arrived: Arrived::default() }.into_channel()
    }

    /// Takes the end out of its runtime. `into_channel` brings it into another.
    ///
    /// # Errors
    /// The descriptor cannot be taken out.
    pub fn detach(self) -> io::Result<DetachedChannel> {
        // No half is left elsewhere: `split` consumes the channel.
        let stream = Arc::into_inner(self.sender.0).ok_or(io::ErrorKind::Other)?.into_std()?;
        Ok(DetachedChannel { stream, arrived: self.arrived })
    }

    /// The two halves, for two tasks: each end may send while the other does, and both read.
    pub fn split(self) -> (ChannelSender, ChannelReceiver) {
        let stream = Arc::clone(&self.sender.0);
        (self.sender, ChannelReceiver { stream, arrived: self.arrived })
    }

    /// As [`ChannelSender::send`].
    ///
    /// # Errors
    /// The other end is gone.
    pub async fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.sender.send(message, descriptors).await
    }

    /// As [`ChannelReceiver::receive`].
    ///
    /// # Errors
    /// The stream is broken.
    pub async fn receive(&mut self) -> io::Result<Option<Frame>> {
        self.arrived.receive_from(&self.sender.0).await
    }
}

impl ChannelSender {
    /// Sends a frame with these descriptors, of which the receiver gets duplicates. Not
    /// cancel-safe: a frame that is dropped midway leaves the stream useless.
    ///
    /// # Errors
    /// The other end is gone.
    pub async fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let text = serde_json::to_vec(message).map_err(io::Error::other)?;
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        let count = u8::try_from(descriptors.len()).map_err(io::Error::other)?;
        let mut frame = length.to_be_bytes().to_vec();
        frame.push(count);
        frame.extend_from_slice(&text);
        let mut sent = 0;
        while sent < frame.len() {
            sent +=
                self.send_some(&frame[sent..], if sent == 0 { descriptors } else { &[] }).await?;
        }
        Ok(())
    }

    async fn send_some(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let send = || {
            let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut room);
            if !descriptors.is_empty()
                && !control.push(SendAncillaryMessage::ScmRights(descriptors))
            {
                return Err(io::Error::other("too many descriptors for one frame"));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            Ok(sendmsg(&*self.0, &[IoSlice::new(bytes)], &mut control, flags)?)
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// Closes both directions, also for the other half.
    pub fn close(&self) {
        // An error means that the other end has closed it.
        let _ = shutdown(&*self.0, Shutdown::Both);
    }
}

impl ChannelReceiver {
    /// Receives the next frame. `None` means that the other end is gone. Cancel-safe.
    ///
    /// # Errors
    /// The stream is broken.
    pub async fn receive(&mut self) -> io::Result<Option<Frame>> {
        self.arrived.receive_from(&self.stream).await
    }
}

/// An end that no runtime has.
pub struct DetachedChannel {
    stream: StdStream,
    arrived: Arrived,
}

impl DetachedChannel {
    /// Brings the end into the present runtime.
    ///
    /// # Errors
    /// There is no runtime.
    pub fn into_channel(self) -> io::Result<Channel> {
        let stream = Arc::new(UnixStream::from_std(self.stream)?);
        Ok(Channel { sender: ChannelSender(stream), arrived: self.arrived })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write;
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    #[tokio::test]
    async fn frames_arrive_with_their_descriptors_in_order() {
        let (sender, other) = Channel::pair().unwrap();
        let mut receiver = Channel::new(other).unwrap();
        let sockets = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let long = "x".repeat(1 << 20);
        let sent = async {
            sender.send(&"none", &[]).await.unwrap();
            sender.send(&"two", &[sockets[0].as_fd(), sockets[1].as_fd()]).await.unwrap();
            sender.send(&long, &[sockets[2].as_fd()]).await.unwrap();
        };
        let received = async {
            let mut found = Vec::new();
            for _ in 0..3 {
                let frame = receiver.receive().await.unwrap().unwrap();
                let text: String = frame.parse().unwrap();
                let addresses = frame.descriptors.into_iter();
                let addresses = addresses.map(|one| TcpListener::from(one).local_addr().unwrap());
                found.push((text, addresses.collect::<Vec<_>>()));
            }
            found
        };
        let ((), found) = tokio::join!(sent, received);
        let at = sockets.map(|socket| socket.local_addr().unwrap());
        let expected =
            [("none".into(), vec![]), ("two".into(), at[..2].to_vec()), (long, vec![at[2]])];
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn end_that_is_gone_is_none_and_rubbish_is_an_error() {
        let (sender, other) = Channel::pair().unwrap();
        let mut receiver = Channel::new(other).unwrap();
        drop(sender);
        assert!(receiver.receive().await.unwrap().is_none());
        for rubbish in [&[0xff; 9][..], &[0, 0, 0, 1, 1, b'1']] {
            let (mut sender, other) = StdStream::pair().unwrap();
            let mut receiver = Channel::new(other).unwrap();
            sender.write_all(rubbish).unwrap();
            assert!(receiver.receive().await.is_err());
        }
    }

    #[tokio::test]
    async fn end_moves_to_another_runtime_with_what_has_arrived() {
        let (sender, other) = Channel::pair().unwrap();
        let mut receiver = Channel::new(other).unwrap();
        sender.send(&1, &[]).await.unwrap();
        sender.send(&2, &[]).await.unwrap();
        let first: u32 = receiver.receive().await.unwrap().unwrap().parse().unwrap();
        let mut moved = receiver.detach().unwrap().into_channel().unwrap();
        let second: u32 = moved.receive().await.unwrap().unwrap().parse().unwrap();
        assert_eq!((first, second), (1, 2));
    }
}

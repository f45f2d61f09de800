//! The frames by which one process of an agent hands over to the next.
//!
//! ```text
//! old                                        new
//!  ── Offer, Sockets…, Peer…, Offered ──▶     loads the files, takes the sockets
//!  ◀── Prepared (or Failed) ──                accepts nothing yet
//!  ── Go ──▶  ◀═ rows of open tunnels ═▶      keeps them in its table
//!  ◀── Serving ──                             both accept from the same queues
//!  ── Main ──▶                                the old one accepts no more
//! ```
//!
//! Until `Main`, the old process goes on as if nothing had happened when the new one is gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::addresses::SocketPlace;
use crate::handover::channel::Frame;
use crate::inherited_sockets::{SharedSocket, SocketPurpose};

/// Version of these frames. A new process refuses an offer of another version.
pub const SCHEMA: u32 = 1;

/// A frame between the two processes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "frame", content = "is", rename_all = "snake_case")]
pub enum HandoverFrame<M> {
    /// Old to new, first of all.
    Offer(Offer),
    /// Old to new: listening sockets, each with a descriptor.
    Sockets(Vec<SocketLabel>),
    /// Old to new: a process of an earlier upgrade, with the descriptor of a channel to it.
    Peer(PeerLabel),
    /// Old to new: there is no more.
    Offered,
    /// New to old: all is loaded and taken, and nothing accepted yet.
    Prepared(Prepared),
    /// New to old: it cannot serve, and ends.
    Failed(String),
    /// Old to new: accept.
    Go(KeptText),
    /// New to old: it accepts.
    Serving,
    /// Old to new: the new process is the main one, and the old one accepts no more.
    Main(KeptText),
    /// To an earlier process, with a descriptor: the next newest process is at its other end.
    Move,
    /// A message about tunnels.
    Link(M),
    /// A frame of a later version. It is never sent.
    #[serde(skip)]
    Unknown,
}

impl<M: DeserializeOwned> HandoverFrame<M> {
    /// Reads a frame. An unknown frame is no error: the other end may be newer.
    ///
    /// # Errors
    /// The text is no frame at all.
    pub fn read(frame: &Frame) -> io::Result<Self> {
        match frame.parse() {
            Ok(read) => Ok(read),
            Err(error) => match frame.parse::<FrameName>() {
                Ok(FrameName { frame }) => {
                    tracing::warn!(%error, "a frame of another version is left out: {frame}");
                    Ok(HandoverFrame::Unknown)
                }
                Err(_) => Err(error),
            },
        }
    }
}

/// What every frame of every version has.
#[derive(Deserialize)]
struct FrameName {
    frame: String,
}

/// What the old process is, and what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Version of the frames: [`SCHEMA`].
    pub schema: u32,
    /// Process id of the old process.
    pub pid: u32,
    /// The configuration, so that no other agent takes the sockets.
    pub config: PathBuf,
    /// The number of the running generation: the new process counts on from it.
    pub generation: u64,
    /// Whether the new process only loads the files, and ends.
    pub is_trial: bool,
}

/// What the new process has loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Version of the new program.
    pub version: String,
    /// Digest of the files that it has loaded.
    pub digest: String,
}

/// A listening socket, without its descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketLabel {
    #[serde(flatten)]
    purpose: SocketPurpose,
    place: PlaceText,
}

/// An earlier process that still has tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLabel {
    /// The process id of the earlier process.
    pub pid: u32,
}

/// The bans in force, in the form of the file that keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptText {
    /// The text of the file.
    pub bans: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PlaceText {
    Tcp(std::net::SocketAddr),
    Unix(PathBuf),
}

fn label(one: &SharedSocket) -> (SocketLabel, BorrowedFd<'_>) {
    let place = match &one.place {
        SocketPlace::Tcp(address) => PlaceText::Tcp(*address),
        SocketPlace::Unix(path) => PlaceText::Unix(path.to_path_buf()),
    };
    (SocketLabel { purpose: one.purpose.clone(), place }, one.socket.as_fd())
}

impl SocketLabel {
    /// The labels and the descriptors of `sockets`, in the same order.
    pub fn of(sockets: &[SharedSocket]) -> (Vec<SocketLabel>, Vec<BorrowedFd<'_>>) {
        sockets.iter().map(label).unzip()
    }

    /// The socket of `descriptor`.
    pub fn join(self, descriptor: OwnedFd) -> SharedSocket {
        let place = match self.place {
            PlaceText::Tcp(address) => SocketPlace::Tcp(address),
            PlaceText::Unix(path) => SocketPlace::Unix(path.into()),
        };
        SharedSocket { purpose: self.purpose, place, socket: descriptor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_later_ones_are_unknown() {
        let label = SocketLabel {
            purpose: SocketPurpose::Listener("public".into()),
            place: PlaceText::Unix("/run/a.sock".into()),
        };
        let plain = SocketLabel {
            purpose: SocketPurpose::Metrics,
            place: PlaceText::Tcp(([127, 0, 0, 1], 9).into()),
        };
        let frames = [
            HandoverFrame::Sockets(vec![label, plain]),
            HandoverFrame::Offered,
            HandoverFrame::Link(7),
            HandoverFrame::Go(KeptText { bans: "{}".into() }),
        ];
        for frame in frames {
            let text = serde_json::to_string(&frame).unwrap();
            let read: HandoverFrame<u32> = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
        for later in [r#"{"frame":"later"}"#, r#"{"frame":"later","is":{"a":1}}"#] {
            let read = HandoverFrame::<u32>::read(&Frame::of(later)).unwrap();
            assert!(matches!(read, HandoverFrame::Unknown), "{later}");
        }
        assert!(HandoverFrame::<u32>::read(&Frame::of("[]")).is_err());
    }
}

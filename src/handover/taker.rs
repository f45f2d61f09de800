//! The side of the new process: takes sockets and state from the old one, and accepts last of all.
//!
//! Until the old process says `Main`, this one changes nothing that the old one needs: it binds no
//! socket, removes no file and claims no folder.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::stdio::dup2_stdin;
use serde::de::IgnoredAny;
use socket2::SockRef;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::control::systemd::PassedSockets;
use crate::handover::channel::{Channel, DetachedChannel};
use crate::handover::link::Link;
use crate::handover::offer::{HandoverFrame, KeptText, Offer, PeerLabel, Prepared, SCHEMA};
use crate::handover::peers::EarlierProcesses;
use crate::handover::pump::Pump;
use crate::inherited_sockets::SharedSocket;

/// The variable by which the old process says that standard input is its channel.
pub const VARIABLE: &str = "SIDEGATE_UPGRADE";

/// Time for each frame of the offer, and for the order to accept.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for the rows of all earlier processes to come, before this one accepts.
const ROWS_TIMEOUT: Duration = Duration::from_secs(10);

/// An offer of the old process, with what came with it.
pub struct Takeover {
    /// What the old process is.
    pub offer: Offer,
    /// Channels to the processes of earlier upgrades.
    pub peers: Vec<(PeerLabel, StdStream)>,
    channel: DetachedChannel,
    runtime: Runtime,
}

/// A takeover that may begin to accept.
pub struct OpenTakeover {
    /// The channel to the old process.
    pub channel: DetachedChannel,
    /// Channels to the processes of earlier upgrades, by their process id.
    pub peers: Vec<(PeerLabel, StdStream)>,
    /// Process id of the old process.
    pub pid: u32,
    /// The bans of the old process.
    pub kept: KeptText,
}

/// Receives the offer of an old process that has started this one for `config`. `None` means that
/// there is none: the process was started by hand, or by a service manager.
///
/// # Errors
/// A sentence that says why the offer is none.
pub fn receive(config: &Path) -> Result<Option<(Takeover, PassedSockets)>, String> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(None);
    }
    let failed = |error: io::Error| format!("{VARIABLE} is set by an upgrade alone: {error}");
    // Programs that this one starts, if any, must not get the channel.
    let stream = take_stdin().map_err(failed)?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let received = runtime.block_on(async {
        let mut channel = Channel::new(stream)?;
        let gifts = receive_all(&mut channel).await?;
        io::Result::Ok((channel.detach()?, gifts))
    });
    let (channel, (offer, sockets, peers)) = received.map_err(failed)?;
    let takeover = Takeover { offer, peers, channel, runtime };
    // The arguments are those of the old process. A program that reads them otherwise would serve
    // the ports of one agent by the files of another.
    let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let refusal = if takeover.offer.schema != SCHEMA {
        format!("it offers version {} of the hand-over, and not {SCHEMA}", takeover.offer.schema)
    } else if takeover.offer.config != config {
        format!("it is the agent of {}", takeover.offer.config.display())
    } else {
        return Ok(Some((takeover, PassedSockets::inherit(sockets))));
    };
    let sentence = format!("the former process cannot hand over to this one: {refusal}");
    takeover.fail(&sentence);
    Err(sentence)
}

/// Takes standard input, whose place gets `/dev/null`.
fn take_stdin() -> io::Result<StdStream> {
    let stdin = rustix::stdio::stdin();
    if !SockRef::from(&stdin).local_addr()?.is_unix() {
        return Err(io::Error::other("standard input is no Unix socket"));
    }
    let stream = stdin.try_clone_to_owned()?;
    dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(stream.into())
}

type ReceivedGifts = (Offer, Vec<SharedSocket>, Vec<(PeerLabel, StdStream)>);

async fn receive_all(channel: &mut Channel) -> io::Result<ReceivedGifts> {
    let (mut offer, mut sockets, mut peers) = (None, Vec::new(), Vec::new());
    loop {
        let (frame, descriptors) = next(channel).await?;
        match frame {
            HandoverFrame::Offer(found) => offer = Some(found),
            HandoverFrame::Sockets(labels) if labels.len() == descriptors.len() => {
                sockets.extend(labels.into_iter().zip(descriptors).map(|(one, fd)| one.join(fd)));
            }
            HandoverFrame::Peer(label) => {
                peers.extend(descriptors.into_iter().map(|fd| (label, StdStream::from(fd))));
            }
            HandoverFrame::Offered => break,
            // Of a later version, which may say more than this one has to know.
            HandoverFrame::Unknown => {}
            _ => return Err(io::Error::other("the offer is out of order")),
        }
    }
    let offer = offer.ok_or_else(|| io::Error::other("the offer is missing"))?;
    Ok((offer, sockets, peers))
}

async fn next(channel: &mut Channel) -> io::Result<(HandoverFrame<IgnoredAny>, Vec<OwnedFd>)> {
    let frame = timeout(FRAME_TIMEOUT, channel.receive()).await??;
    let mut frame = frame.ok_or_else(|| io::Error::other("the former process is gone"))?;
    let descriptors = std::mem::take(&mut frame.descriptors);
    Ok((HandoverFrame::read(&frame)?, descriptors))
}

impl Takeover {
    /// Tells the old process why this one cannot serve.
    pub fn fail(self, sentence: &str) {
        let Takeover { channel, runtime, .. } = self;
        // The old process may be gone, or have given up.
        let _ = runtime.block_on(async {
            let channel = channel.into_channel()?;
            let failed = HandoverFrame::<()>::Failed(sentence.to_owned());
            timeout(FRAME_TIMEOUT, channel.send(&failed, &[])).await?
        });
    }

    /// Tells the old process that all is loaded and taken, and waits for the order to accept.
    ///
    /// # Errors
    /// The old process has withdrawn the offer, or is gone.
    pub fn prepared(self, prepared: Prepared) -> Result<OpenTakeover, String> {
        let Takeover { offer, peers, channel, runtime } = self;
        let ordered = runtime.block_on(async {
            let mut channel = channel.into_channel()?;
            channel.send(&HandoverFrame::<()>::Prepared(prepared), &[]).await?;
            loop {
                match next(&mut channel).await?.0 {
                    HandoverFrame::Go(kept) => return Ok((channel.detach()?, kept)),
                    HandoverFrame::Unknown => {}
                    _ => return Err(io::Error::other("it sends something else")),
                }
            }
        });
        let (channel, kept) = ordered.map_err(|error: io::Error| {
            format!("the former process has not ordered this one to accept: {error}")
        })?;
        Ok(OpenTakeover { channel, peers, pid: offer.pid, kept })
    }
}

impl OpenTakeover {
    /// Joins the old process and the earlier ones, and waits until the table has their tunnels.
    /// `join` keeps the rows of one link, and is ready once they have all come.
    ///
    /// # Errors
    /// The old process cannot be joined.
    pub async fn join<J: Future<Output = ()>>(
        self,
        peers: &EarlierProcesses,
        tracker: &TaskTracker,
        join: impl Fn(u32, Link) -> J,
    ) -> io::Result<JoinedTakeover> {
        // Added before the rows come: a further upgrade has to invite every earlier process.
        let (pump, link) = Pump::start(self.channel.into_channel()?, tracker);
        peers.add(self.pid, &pump);
        let mut coming = vec![join(self.pid, link)];
        for (PeerLabel { pid }, stream) in self.peers {
            match Channel::new(stream) {
                Ok(channel) => {
                    let (pump, link) = Pump::start(channel, tracker);
                    peers.add(pid, &pump);
                    coming.push(join(pid, link));
                }
                Err(error) => {
                    tracing::error!(process = pid, %error, "an earlier process cannot be joined");
                }
            }
        }
        // Caps would not count what comes later. Not to accept at all would be worse.
        if timeout(ROWS_TIMEOUT, join_all(coming)).await.is_err() {
            tracing::error!(
                "an earlier process is slow to list its tunnels: accepting without them"
            );
        }
        Ok(JoinedTakeover { pump })
    }
}

/// A takeover whose tunnels are known.
pub struct JoinedTakeover {
    pump: Pump,
}

impl JoinedTakeover {
    /// Tells the old process that this one accepts, and waits until it is the main one. Returns the
    /// last bans of the old process. `None` means that it has ended instead.
    pub async fn serve(mut self) -> Option<KeptText> {
        // An error means that the old process has ended, which the receive finds.
        let _ = self.pump.control_tx.send((HandoverFrame::Serving, Vec::new()));
        loop {
            match self.pump.control_rx.recv().await?.0 {
                HandoverFrame::Main(kept) => return Some(kept),
                _ => continue,
            }
        }
    }
}

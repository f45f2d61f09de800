//! The new process, as the old one sees it: started, offered the sockets, and killed if it fails.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::handover::channel::{Channel, MAX_DESCRIPTORS};
use crate::handover::offer::{HandoverFrame, Offer, PeerLabel, Prepared, SocketLabel};
use crate::handover::taker::VARIABLE;
use crate::inherited_sockets::SharedSocket;

/// Variables that are meant for one process: the new one gets its sockets by the channel, and its
/// watchdog by `WATCHDOG_USEC` alone (sd_watchdog_enabled(3)).
const OWN_VARIABLES: [&str; 5] =
    ["LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// Time between two looks at a process that is ending.
const EXIT_INTERVAL: Duration = Duration::from_millis(5);

/// Time for a process to end by itself once it has said why.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// A new process that this one has started. Killed on drop unless it was [kept](Successor::keep).
pub struct Successor {
    child: Option<Child>,
    /// The channel, until it is split.
    channel: Option<Channel>,
}

/// What the new process is offered beside its sockets.
pub struct Gifts {
    /// Duplicates of all listening sockets.
    pub sockets: Vec<SharedSocket>,
    /// Channels to the processes of earlier upgrades.
    pub peers: Vec<(PeerLabel, StdStream)>,
}

impl Successor {
    /// Starts `binary` with the arguments of this process.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(binary: &Path) -> io::Result<Successor> {
        let (channel, theirs) = Channel::pair()?;
        let mut command = Command::new(binary);
        command.args(std::env::args_os().skip(1)).env(VARIABLE, "1");
        for name in OWN_VARIABLES {
            command.env_remove(name);
        }
        // The channel is its standard input: a descriptor that is passed without an unsafe call.
        // The others stay: journald and a terminal get the log of both processes.
        let child = command.stdin(OwnedFd::from(theirs)).spawn()?;
        Ok(Successor { child: Some(child), channel: Some(channel) })
    }

    /// The process id of the new process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Offers `gifts`, and waits until the new process has taken them.
    ///
    /// # Errors
    /// A sentence that says why it cannot serve.
    pub async fn prepare(&mut self, offer: &Offer, gifts: Gifts) -> Result<Prepared, String> {
        let Some(channel) = &mut self.channel else { return Err("it has ended".into()) };
        // A process that ends at once closes the channel. How it ends says more than that.
        let _ = send(channel, offer, gifts).await;
        let received = match channel.receive().await {
            Ok(Some(frame)) => HandoverFrame::<serde::de::IgnoredAny>::read(&frame),
            Ok(None) => return Err(self.exit_sentence().await),
            Err(error) => Err(error),
        };
        match received {
            Ok(HandoverFrame::Prepared(prepared)) => Ok(prepared),
            Ok(HandoverFrame::Failed(sentence)) => Err(sentence),
            Ok(_) => Err("it does not know how to take over: it is too old, or too new".into()),
            Err(error) => Err(format!("it does not answer: {error}")),
        }
    }

    /// Takes the channel, for what follows.
    pub fn take_channel(&mut self) -> Option<Channel> {
        self.channel.take()
    }

    /// How it has ended, in a sentence. It is killed if it has not.
    pub async fn exit_sentence(&mut self) -> String {
        let began = Instant::now();
        loop {
            match self.try_wait() {
                Some(status) => return format!("it has ended ({status}) before it could serve"),
                None if began.elapsed() > EXIT_TIMEOUT => {
                    return "it has closed its end, and was killed".into();
                }
                None => sleep(EXIT_INTERVAL).await,
            }
        }
    }

    /// Waits for the end of a trial.
    ///
    /// # Errors
    /// It does not end, or not with 0.
    pub async fn expect_exit(mut self) -> Result<(), String> {
        // The process waits for the end of its channel, and not for a signal.
        self.channel = None;
        let began = Instant::now();
        loop {
            match self.try_wait() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("its trial has failed ({status})")),
                None if began.elapsed() > EXIT_TIMEOUT => {
                    return Err("its trial does not end, and was killed".into());
                }
                None => sleep(EXIT_INTERVAL).await,
            }
        }
    }

    /// The exit status of a process that has ended. `None` means that it runs.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        // An error means that there is no such child.
        self.child.as_mut().and_then(|child| child.try_wait().ok()).flatten()
    }

    /// Lets it live. The result is for looking whether it has ended, which leaves no zombie.
    pub fn keep(mut self) -> KeptSuccessor {
        KeptSuccessor { child: self.child.take() }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself. Waited for, since a zombie would stay for as long as
            // this process lives.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The new process once it is the main one.
pub struct KeptSuccessor {
    child: Option<Child>,
}

impl KeptSuccessor {
    /// Removes its zombie if it has ended. Returns whether it has.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }
}

async fn send(channel: &Channel, offer: &Offer, gifts: Gifts) -> io::Result<()> {
    type Sent = HandoverFrame<()>;
    channel.send(&Sent::Offer(offer.clone()), &[]).await?;
    for some in gifts.sockets.chunks(MAX_DESCRIPTORS) {
        let (labels, descriptors) = SocketLabel::of(some);
        channel.send(&Sent::Sockets(labels), &descriptors).await?;
    }
    for (label, stream) in &gifts.peers {
        channel.send(&Sent::Peer(*label), &[stream.as_fd()]).await?;
    }
    channel.send(&Sent::Offered, &[]).await
}

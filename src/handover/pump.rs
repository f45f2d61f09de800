//! Carries frames between a channel and the tasks of one process, until either end is gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::handover::channel::{Channel, ChannelReceiver, ChannelSender};
use crate::handover::link::{Link, LinkMessage};
use crate::handover::offer::HandoverFrame;

/// A frame that is no message about tunnels, with its descriptors.
pub type PumpFrame = (HandoverFrame<LinkMessage>, Vec<OwnedFd>);

/// The ends of a pump inside the process. `control_rx` and those of the link end once the other
/// process is gone.
pub struct Pump {
    /// Sends frames of the hand-over.
    pub control_tx: UnboundedSender<PumpFrame>,
    /// Receives frames of the hand-over.
    pub control_rx: UnboundedReceiver<PumpFrame>,
    /// Closes the channel when cancelled.
    pub close: CancellationToken,
}

impl Pump {
    /// Starts the pump of `channel` on `tracker`. The second value is for messages about tunnels.
    pub fn start(channel: Channel, tracker: &TaskTracker) -> (Pump, Link) {
        let (sender, receiver) = channel.split();
        let (control_tx, controls) = unbounded_channel();
        let (tx, messages) = unbounded_channel();
        let (received_control, control_rx) = unbounded_channel();
        let (received, rx) = unbounded_channel();
        // Two tasks, since a process that sends has to read as well: two processes that only send
        // would wait for each other once both sockets are full.
        let close = CancellationToken::new();
        let closed = close.clone();
        tracker.spawn(async move {
            // An error means that the other process is gone, which the receiving task reports.
            let _ = closed.run_until_cancelled(send_all(&sender, controls, messages)).await;
            sender.close();
        });
        tracker.spawn(async move {
            if let Err(error) = receive_all(receiver, received_control, received).await {
                tracing::error!(%error, "the other process of the upgrade sends no frames");
            }
        });
        (Pump { control_tx, control_rx, close }, Link { tx, rx })
    }
}

async fn send_all(
    sender: &ChannelSender,
    mut controls: UnboundedReceiver<PumpFrame>,
    mut messages: UnboundedReceiver<LinkMessage>,
) -> io::Result<()> {
    loop {
        let (frame, descriptors) = tokio::select! {
            // The order to accept comes before the rows, which wait in the other queue.
            biased;
            Some(frame) = controls.recv() => frame,
            Some(message) = messages.recv() => (HandoverFrame::Link(message), Vec::new()),
            // All senders of both are gone.
            else => return Ok(()),
        };
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        sender.send(&frame, &descriptors).await?;
    }
}

async fn receive_all(
    mut receiver: ChannelReceiver,
    controls: UnboundedSender<PumpFrame>,
    messages: UnboundedSender<LinkMessage>,
) -> io::Result<()> {
    while let Some(frame) = receiver.receive().await? {
        // A receiver that is gone wants no more of its kind.
        match HandoverFrame::read(&frame)? {
            HandoverFrame::Link(message) => drop(messages.send(message)),
            HandoverFrame::Unknown => {}
            control => drop(controls.send((control, frame.descriptors))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::handover::offer::KeptText;

    #[tokio::test]
    async fn both_ends_may_send_more_than_the_socket_holds() {
        let tracker = TaskTracker::new();
        let (one, other) = Channel::pair().unwrap();
        let one = Pump::start(one, &tracker);
        let other = Pump::start(Channel::new(other).unwrap(), &tracker);
        for (pump, _) in [&one, &other] {
            for pid in 0..50_000 {
                let gifts = KeptText { bans: format!("{pid:080}") };
                pump.control_tx.send((HandoverFrame::Go(gifts), Vec::new())).unwrap();
            }
        }
        let mut closes = Vec::new();
        for (mut pump, _) in [one, other] {
            for _ in 0..50_000 {
                assert!(matches!(pump.control_rx.recv().await, Some((HandoverFrame::Go(_), _))));
            }
            closes.push(pump.close);
        }
        closes[0].cancel();
        tracker.close();
        tracker.wait().await;
    }
}

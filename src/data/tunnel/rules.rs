//! The rules of one direction, which its scanner asks about each frame.

use std::cell::OnceCell;

use crate::data::tunnel::side::Flow;
use crate::data::tunnel::timers::TunnelTimers;
use crate::data::websocket::frame::{self, FrameRules, MaskedPayload};
use crate::policy::limit::{Rate, TunnelLimits};
use crate::tunnels::budget::Bucket;

/// The rules of one direction.
pub struct FlowRules<'a> {
    /// The direction that these rules bound.
    pub flow: Flow,
    /// The limits of the tunnel's policy.
    pub limits: &'a TunnelLimits,
    /// Knows the payload of our Pings.
    pub timers: &'a TunnelTimers,
    /// The message rate. `None` means unlimited.
    pub messages: Option<&'a Bucket>,
    /// The rate of those frames that the limit `frames` counts.
    pub frames: &'a OnceCell<Box<Bucket>>,
}

impl FlowRules<'_> {
    /// The rate of the limit `frames`, which limits the client alone. `None` means unlimited.
    #[inline]
    fn frame_rate(&self) -> Option<Rate> {
        self.limits.frames.filter(|_| self.flow == Flow::FromClient)
    }
}

impl FrameRules for FlowRules<'_> {
    #[inline]
    fn message_max(&self) -> Option<u64> {
        self.limits.message_max
    }

    #[inline]
    fn admits_message(&self) -> bool {
        self.messages.is_none_or(Bucket::take)
    }

    #[inline]
    fn limits_messages(&self) -> bool {
        self.messages.is_some()
    }

    #[inline]
    fn limits_frames(&self) -> bool {
        self.frame_rate().is_some()
    }

    #[inline]
    fn admits_frame(&self) -> bool {
        self.frame_rate()
            // The bucket is made with the first frame that counts: most tunnels never need it.
            .is_none_or(|rate| self.frames.get_or_init(|| Box::new(Bucket::new(rate))).take())
    }

    #[inline]
    fn passes_always(&self, opcode: u8) -> bool {
        match opcode {
            frame::OPCODE_CLOSE => false,
            // Before the first Ping of ours, no Pong can answer it.
            frame::OPCODE_PONG if self.flow == Flow::FromClient => self.timers.payload().is_none(),
            _ => true,
        }
    }

    /// All but a Close and the Pong that answers our own Ping.
    #[inline]
    fn passes(&self, opcode: u8, payload: MaskedPayload<'_>) -> bool {
        match opcode {
            frame::OPCODE_CLOSE => false,
            frame::OPCODE_PONG if self.flow == Flow::FromClient => {
                !self.timers.payload().is_some_and(|own| payload.unmasks_to(&own))
            }
            _ => true,
        }
    }
}

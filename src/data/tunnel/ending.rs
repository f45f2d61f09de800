//! Why a tunnel ends, and what bounds its ending.

use crate::close::{CloseReason, Closed, Initiator};
use crate::data::tunnel::side::Flow;
use crate::refusal::Refusal;

/// What bounds an ending.
pub enum CloseState {
    /// The sides end the tunnel between them, or nothing has ended it yet: what they have begun is
    /// relayed, and each byte extends the grace.
    Open,
    /// A side broke a rule, and the other has a moment to answer what came before that.
    AwaitingAnswers(Violation),
    /// The side that sends this way broke a rule and was told so. Only the grace is left to it.
    ViolatorClosed(Flow),
    /// Sidegate ends the tunnel: only the grace is left, but for a side, the client or the backend,
    /// to which something was on its way before.
    Closing([bool; 2]),
    /// Nothing is relayed any more. A side that has not acknowledged all that was passed to it gets
    /// the rest and FIN, and is dropped once it takes nothing for `write_stall`.
    Flushing,
}

/// A side's violation, and the Close that tells it so.
pub struct Violation {
    /// The way that the violator sends.
    pub flow: Flow,
    /// The code of the Close.
    pub code: u16,
    /// The reason in the Close.
    pub word: &'static str,
}

/// Why the tunnel ends. The first act counts, and only that.
#[derive(Clone, Copy)]
pub struct EndCause {
    /// The party that acted first: a side, or Sidegate.
    pub by: Initiator,
    /// Why the tunnel ends.
    pub reason: CloseReason,
    /// The code of the Close. `None` means that there was none.
    pub code: Option<u16>,
    /// The refusal of the policy that revoked the tunnel. `None` means that it was not revoked.
    pub refusal: Option<Refusal>,
}

/// How a tunnel ended, and the refusal where it was revoked.
#[derive(Debug, Clone, Copy)]
pub struct TunnelOutcome {
    /// Who ended the tunnel and why, how much passed, and how long it lasted.
    pub closed: Closed,
    /// The refusal of the policy that revoked the tunnel. `None` means that it was not revoked.
    pub refusal: Option<Refusal>,
}

impl EndCause {
    /// An ending by Sidegate, with the code of its reason.
    pub fn by_sidegate(reason: CloseReason, refusal: Option<Refusal>) -> Self {
        EndCause { by: Initiator::Sidegate, reason, code: reason.client_close_code(), refusal }
    }
}

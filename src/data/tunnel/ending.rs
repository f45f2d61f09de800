//! Why a tunnel ends, and what bounds its ending.

use crate::close::{By, Closed, Reason};
use crate::data::tunnel::side::Way;
use crate::refusal::Refusal;

/// What bounds an ending.
pub enum Course {
    /// The sides end the tunnel between them, or nothing has ended it yet: what they have begun is
    /// relayed, and each byte extends the grace.
    Free,
    /// A side broke a rule, and the other has a moment to answer what came before that.
    Answering(Violation),
    /// The side that sends this way broke a rule and was told so. Only the grace is left to it.
    Judged(Way),
    /// Sidegate ends the tunnel: only the grace is left, but for a side, the client or the backend,
    /// to which something was on its way before.
    Firm([bool; 2]),
    /// Nothing is relayed any more. A side that has not acknowledged all that was passed to it gets
    /// the rest and FIN, and is dropped once it takes nothing for `write_stall`.
    Last,
}

/// A side's violation, and the Close that tells it so.
pub struct Violation {
    /// The way that the violator sends.
    pub way: Way,
    /// The code of the Close.
    pub code: u16,
    /// The reason in the Close.
    pub word: &'static str,
}

/// Why the tunnel ends. The first act counts, and only that.
#[derive(Clone, Copy)]
pub struct Ending {
    /// The party that acted first: a side, or Sidegate.
    pub by: By,
    /// Why the tunnel ends.
    pub reason: Reason,
    /// The code of the Close. `None` means that there was none.
    pub code: Option<u16>,
    /// The refusal of the policy that revoked the tunnel. `None` means that it was not revoked.
    pub refusal: Option<Refusal>,
}

/// How a tunnel ended, and the refusal where it was revoked.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Who ended the tunnel and why, how much passed, and how long it lasted.
    pub closed: Closed,
    /// The refusal of the policy that revoked the tunnel. `None` means that it was not revoked.
    pub refusal: Option<Refusal>,
}

impl Ending {
    /// An ending by Sidegate, with the code of its reason.
    pub fn ours(reason: Reason, refusal: Option<Refusal>) -> Self {
        Ending { by: By::Sidegate, reason, code: reason.to_client(), refusal }
    }
}

//! How a refusal would reach its client, in words. The form is that of the data plane:
//! [`RefusalForm::of_refusal`].

use crate::refusal::Refusal;
use crate::snapshot::explanation::report::DeliveryExplanation;
use crate::snapshot::route::{RefusalForm, Route};

/// A connection that a ban or the baseline denies before it has a request.
pub fn at_accept() -> DeliveryExplanation {
    DeliveryExplanation {
        form: RefusalForm::Drop,
        code: None,
        says: "the connection is closed at its accept, without an answer".into(),
        is_notable: true,
    }
}

/// A request that is refused on `route`. `None` means that no route is known, whose form could
/// hold.
pub fn of(
    refusal: Refusal,
    route: Option<&Route>,
    is_attempt: bool,
    speaks_for_others: bool,
) -> DeliveryExplanation {
    let written = route.map_or(RefusalForm::Answer, |route| route.refuse);
    let form = written.of_refusal(refusal, is_attempt, speaks_for_others);
    let code = RefusalForm::close_code(refusal).filter(|_| form == RefusalForm::Close);
    let says = match (form, code, refusal.status()) {
        (RefusalForm::Close, Some(code), _) => {
            format!("101, then a Close with {code} {}", refusal.word())
        }
        (RefusalForm::Answer, _, Some(status)) => match written {
            RefusalForm::Answer => status.to_string(),
            RefusalForm::Close if is_attempt => format!("{status}, as it is the client's mistake"),
            RefusalForm::Close => format!("{status}, since only a WebSocket can be closed"),
            RefusalForm::Drop if refusal.is_droppable() => {
                format!("{status}, since other clients share the connection of the listed peer")
            }
            RefusalForm::Drop => format!("{status}, since only `network` and `banned` are dropped"),
        },
        _ => "the connection is closed without an answer".into(),
    };
    DeliveryExplanation { form, code, says, is_notable: written != RefusalForm::Answer }
}

//! How a refusal reaches its client: as an HTTP answer, as a Close of a WebSocket, or not at all.
//!
//! The route says which (`refuse`); this file decides it for each refusal, and nothing else does.
//! Every refusal is booked here, whatever its form.

use bytes::Bytes;
use http::Response;

use crate::data::connection::accepted_upgrade::AcceptedUpgrade;
use crate::data::connection::decide::Decision;
use crate::data::connection::refused_upgrade::RefusedUpgrade;
use crate::data::connection::request_log::RequestLog;
use crate::data::connection::service::HttpService;
use crate::data::websocket::handshake::Handshake;
use crate::observe::metrics::{RefusalDelivery, RequestKind};
use crate::refusal::Refusal;
use crate::snapshot::route::RefusalForm;

impl HttpService {
    /// The form in which the request of `log` is refused.
    pub fn form_of(&self, log: &RequestLog, refusal: Refusal) -> RefusalForm {
        let is_attempt = log.kind == RequestKind::Upgrade;
        log.route.as_ref().map_or(RefusalForm::Answer, |route| {
            route.refuse.of_refusal(refusal, is_attempt, log.is_shared())
        })
    }

    /// Refuses the request of `log`. `handshake` is that of an attempt; `None` means that the
    /// request is plain, or that its handshake is malformed or unknown, which is answered.
    pub fn refuse(
        &self,
        log: &mut RequestLog,
        refusal: Refusal,
        handshake: Option<&Handshake>,
    ) -> Decision {
        // Over the bounds `close` returns `None`. The refusal is answered over HTTP then, so that
        // its client learns of it all the same.
        if self.form_of(log, refusal) == RefusalForm::Close
            && let Some(handshake) = handshake
            && let Some(refused) = self.close(log, refusal, handshake)
        {
            return Decision::Accept(AcceptedUpgrade::Refused(refused));
        }
        self.refuse_over_http(log, refusal).map_or(Decision::Drop, Decision::Reply)
    }

    /// Refuses the request of `log` by an answer. `None` means that its client gets none.
    pub fn refuse_over_http(
        &self,
        log: &mut RequestLog,
        refusal: Refusal,
    ) -> Option<Response<Bytes>> {
        if self.form_of(log, refusal) == RefusalForm::Drop {
            log.log_unanswered(refusal, RefusalDelivery::Drop);
            self.drops(refusal);
            return None;
        }
        let (answer, after) = log.log_refused(refusal);
        self.closes_after(after);
        Some(answer)
    }

    /// Accepts an attempt that is refused, to close it. `None` means that too many are being
    /// closed.
    fn close(
        &self,
        log: &mut RequestLog,
        refusal: Refusal,
        handshake: &Handshake,
    ) -> Option<Box<RefusedUpgrade>> {
        let code = RefusalForm::close_code(refusal)?;
        let grace = log.route.as_ref()?.timeouts.grace;
        let client = log.forwarded.subject.client.key();
        // The place comes before the log line, which names the code of a Close. Without a place the
        // refusal is logged by the answer, and only once.
        let Some(place) = self.thread.plane.refused_upgrades.enter(client) else {
            log.note_capped();
            return None;
        };
        log.log_unanswered(refusal, RefusalDelivery::Close);
        self.closes();
        let deadlines = self.deadlines.clone();
        let refused = RefusedUpgrade::new(handshake, refusal, code, grace, deadlines, place);
        Some(refused.with_id(&log.id))
    }
}

//! What a reload would do now: `POST /v1/diff`.

use jiff::Timestamp;

use crate::admin::difference::{Comparison, difference};
use crate::admin::status::reports;
use crate::admin::wire::{DiffAnswer, DiffRequest};
use crate::control::reload::Preview;

/// The answer to `request`, of which `preview` came.
pub fn answer(request: &DiffRequest, preview: &Preview, now: Timestamp) -> DiffAnswer {
    let Preview { now: before, settings, next, weighed } = preview;
    let promote = request.promote.as_deref();
    let next = match next {
        Ok(next) => next,
        Err(errors) => {
            return DiffAnswer::Rejected {
                generation: before.generation,
                promote: promote.map(str::to_owned),
                diagnostics: reports(errors),
            };
        }
    };
    let is_same = next.snapshot.digest == before.digest;
    let changes = difference(&Comparison { before, settings, next, weighed, promote, now });
    if is_same { DiffAnswer::Unchanged(changes) } else { DiffAnswer::Changed(changes) }
}

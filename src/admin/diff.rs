//! `POST /v1/diff`: what a reload would change now.

use jiff::Timestamp;

use crate::admin::difference::{ComparedGenerations, compare};
use crate::admin::status::reports;
use crate::admin::wire::{DiffAnswer, DiffRequest};
use crate::control::reload::ReloadPreview;

/// The answer to `request`, made from the `preview` of a reload.
pub fn answer(request: &DiffRequest, preview: &ReloadPreview, now: Timestamp) -> DiffAnswer {
    let ReloadPreview { now: before, settings, next, impact } = preview;
    let promote = request.promote.as_deref();
    let next = match next {
        Ok(next) => next,
        Err(errors) => {
            return DiffAnswer::Rejected {
                generation: before.generation,
                promote: promote.map(str::to_owned),
                staged: request.staged,
                diagnostics: reports(errors),
            };
        }
    };
    // By the bytes of all files: an edited comment is a change, though one without effect.
    let is_same = next.snapshot.digest == before.digest;
    let changes = compare(&ComparedGenerations { before, settings, next, impact, request, now });
    if is_same { DiffAnswer::Unchanged(changes) } else { DiffAnswer::Changed(changes) }
}

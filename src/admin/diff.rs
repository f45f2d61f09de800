//! `POST /v1/diff`: what a reload would change now.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::admin::difference::{ComparedGenerations, compare};
use crate::admin::status::reports;
use crate::admin::wire::{DiffAnswer, DiffRequest};
use crate::control::compile::{self, CompiledGeneration};
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::overlay::Overlay;
use crate::control::guards::loosened_settings;
use crate::control::reload::{ReloadImpact, ReloadPreview};
use crate::snapshot::widening::widening;

/// The answer to a request without an agent: what `overlay` would change in the files of `config`.
///
/// # Errors
/// Every error in the files that would be changed.
pub fn offline_diff(config: &Path, overlay: Overlay) -> Result<DiffAnswer, Vec<Diagnostic>> {
    let CompiledGeneration { snapshot: before, settings, guards, .. } =
        compile::check_overlay(config, Overlay::default())?;
    let request = DiffRequest { staged: true, ..DiffRequest::default() };
    let (now, settings) = (Arc::new(before), Arc::new(settings));
    let next = compile::check_overlay(config, overlay);
    let at = Timestamp::now();
    // No tunnel is open, and no bound of a reload holds a start.
    let widening = next.as_ref().map(|next| {
        let mut widening = widening(&now, &next.snapshot, at);
        widening.rules.extend(guards.loosened(&next.guards));
        widening.rules.extend(loosened_settings(&settings, &next.settings));
        widening
    });
    let impact = ReloadImpact { widening: widening.unwrap_or_default(), ..ReloadImpact::default() };
    let guards = Arc::new(guards);
    let digest = next.as_ref().map(|next| next.snapshot.digest.to_string()).unwrap_or_default();
    Ok(answer(&request, &ReloadPreview { now, settings, guards, digest, next, impact }, at))
}

/// The answer to `request`, made from the `preview` of a reload.
pub fn answer(request: &DiffRequest, preview: &ReloadPreview, now: Timestamp) -> DiffAnswer {
    let ReloadPreview { now: before, settings, guards, digest: expect, next, impact } = preview;
    let promote = request.promote.as_deref();
    let next = match next {
        Ok(next) => next,
        Err(errors) => {
            return DiffAnswer::Rejected {
                generation: before.generation,
                promote: promote.map(str::to_owned),
                staged: request.staged,
                expect: expect.clone(),
                diagnostics: reports(errors),
            };
        }
    };
    // By the bytes of all files: an edited comment is a change, though one without effect.
    let is_same = next.snapshot.digest == before.digest;
    let compared =
        ComparedGenerations { before, settings, guards, next, expect, impact, request, now };
    let changes = compare(&compared);
    if is_same { DiffAnswer::Unchanged(changes) } else { DiffAnswer::Changed(changes) }
}

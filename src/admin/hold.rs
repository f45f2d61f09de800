//! Converts pending files and overrides to their wire form.

use crate::admin::wire::{DiagnosticReport, OverrideStatus, PendingStatus, Time};
use crate::control::overrides::TestOverride;
use crate::control::reload::PendingFiles;

/// Converts pending files, whose findings are `diagnostics`.
pub fn pending(pending: &PendingFiles, diagnostics: Vec<DiagnosticReport>) -> PendingStatus {
    let effect = pending.effect.as_ref();
    PendingStatus {
        generation: pending.generation,
        digest: pending.digest.to_string(),
        since: Time(pending.since),
        changed: pending.changed.clone(),
        would_revoke: effect.ok().map(|effect| effect.revoked as u64),
        rejected: pending.is_rejected(),
        diagnostics,
    }
}

/// Converts the overrides in force.
pub fn overrides(overrides: &[TestOverride]) -> Vec<OverrideStatus> {
    let one = |one: &TestOverride| OverrideStatus {
        file: one.file.to_string(),
        test: one.test.to_string(),
        since: Time(one.since),
    };
    overrides.iter().map(one).collect()
}

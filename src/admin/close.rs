//! Answers `POST /v1/close`: orders the selected tunnels and exchanges to close.

use std::sync::Arc;

use jiff::Timestamp;

use crate::admin::state::AdminContext;
use crate::admin::tunnel_filter::TunnelFilter;
use crate::admin::wire::{CloseAnswer, CloseRequest, EntryKind};
use crate::control::config::effective;
use crate::control::revoke;
use crate::tunnels::CloseOrder;

/// Counts what `request` selects, and closes it over `[reload] revoke_spread` unless the request is
/// a dry run.
///
/// # Errors
/// A sentence about a wrong filter, or a name that nothing has.
pub fn close(admin: &AdminContext, request: CloseRequest) -> Result<CloseAnswer, String> {
    let CloseRequest { selector, code, reason, dry_run, all: _ } = request;
    let filter = TunnelFilter::parse(selector)?;
    let mut found = filter.select(&admin.tunnels, &admin.live.load(), Timestamp::now())?;
    // An entry that is ending already keeps its code and reason.
    found.retain(|one| one.entry.ordered_end().is_none());
    let (tunnels, exchanges): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|one| one.kind == EntryKind::Tunnel);
    let spread = admin.config_status.settings.load().reload.revoke_spread;
    let answer = CloseAnswer {
        dry_run,
        tunnels: tunnels.len() as u64,
        exchanges: exchanges.len() as u64,
        code,
        reason: reason.clone(),
        spread: effective::duration(spread),
    };
    if !dry_run {
        let [tunnels, exchanges] =
            [tunnels, exchanges].map(|all| all.into_iter().map(|one| one.entry).collect());
        // Interleaved, so that neither kind waits for the end of the spread.
        let all = revoke::interleave(tunnels, exchanges);
        let order = Arc::new(CloseOrder { code, reason: reason.into() });
        admin.tracker.spawn(revoke::close(all, order, spread));
    }
    Ok(answer)
}

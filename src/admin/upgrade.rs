//! Answers `POST /v1/upgrade`.

use std::path::PathBuf;

use http::StatusCode;
use tokio::net::unix::UCred;

use crate::admin::state::AdminContext;
use crate::admin::wire::{UpgradeAnswer, UpgradeRequest};
use crate::control::config::effective;
use crate::handover::request::UpgradeOrder;

/// Hands over for `caller`.
///
/// # Errors
/// The caller may not order it, or nothing has changed for the reason given.
pub async fn upgrade(
    admin: &AdminContext,
    request: UpgradeRequest,
    caller: Option<UCred>,
) -> Result<UpgradeAnswer, (StatusCode, String)> {
    // It starts a program with the rights of the agent. Others who may use the socket may not.
    let own = rustix::process::geteuid().as_raw();
    if !caller.is_some_and(|caller| caller.uid() == 0 || caller.uid() == own) {
        let sentence = format!("only root and the user of the agent ({own}) may upgrade it");
        return Err((StatusCode::FORBIDDEN, sentence));
    }
    let order = UpgradeOrder {
        deadline: request.deadline(),
        binary: request.binary.map(PathBuf::from),
        is_trial: request.dry_run,
    };
    let outcome = admin.upgrades.upgrade(order).await;
    let outcome = outcome.map_err(|sentence| (StatusCode::CONFLICT, sentence))?;
    let (version, binary) = (outcome.version, outcome.binary.display().to_string());
    Ok(match outcome.pid {
        None => UpgradeAnswer::Tried { version, binary },
        Some(pid) => UpgradeAnswer::Upgraded {
            version,
            binary,
            pid,
            former_pid: std::process::id(),
            tunnels: outcome.tunnels as u64,
            deadline: effective::duration(outcome.deadline),
            manager: outcome.is_announced.then(|| "systemd".to_owned()),
        },
    })
}

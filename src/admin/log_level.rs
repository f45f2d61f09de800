//! `POST /v1/log-level`: shows the filter of the log, or sets it and logs the caller.

use tokio::net::unix::UCred;

use crate::admin::state::AdminContext;
use crate::admin::wire::{LogLevelAnswer, LogLevelRequest, Time};
use crate::control::config;
use crate::observe::log::{LEVEL_TARGET, LogLevel, LogLevels};

/// Shows the filter, or sets it for `caller`.
///
/// # Errors
/// A sentence about the wrong parameter; the filter is unchanged.
pub fn answer(
    admin: &AdminContext,
    request: &LogLevelRequest,
    caller: Option<&UCred>,
) -> Result<LogLevelAnswer, String> {
    let levels = &admin.log.levels;
    let level = match &request.filter {
        None => levels.current(),
        Some(filter) => set(levels, filter, request.lasting.as_deref(), caller)?,
    };
    Ok(LogLevelAnswer { filter: level.filter, then: level.then, until: level.until.map(Time) })
}

fn set(
    levels: &LogLevels,
    filter: &str,
    lasting: Option<&str>,
    caller: Option<&UCred>,
) -> Result<LogLevel, String> {
    let lasting = lasting.map(config::parse_duration).transpose()?;
    // From the kernel (SO_PEERCRED), so that a caller cannot name another.
    let (uid, gid) = (caller.map(UCred::uid), caller.map(UCred::gid));
    let pid = caller.and_then(UCred::pid);
    // `levels` calls it before or after the swap, whichever filter lets the line pass.
    let say = |level: &LogLevel| {
        let until = level.until.map(tracing::field::display);
        let filter = &*level.filter;
        tracing::info!(target: LEVEL_TARGET, uid, gid, pid, filter, until, "the log level is set");
    };
    levels.set(filter, lasting, say).map_err(|error| error.to_string())
}

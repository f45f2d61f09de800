//! Staged files of a request: from its body to what a pass reads in place of the disk.

use std::path::Path;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use crate::admin::wire::{DiffRequest, MAX_STAGED_BYTES, StagedFiles};
use crate::control::config::overlay::{Overlay, OverlayText};

/// Reads the staged files of `request` from its `body`, if it has any.
///
/// # Errors
/// A sentence: the body is too large, was cut off, or is not a set of staged files.
pub async fn read(request: DiffRequest, body: Incoming) -> Result<DiffRequest, String> {
    if !request.staged {
        return Ok(request);
    }
    // The time for it is that of the connection.
    let body = Limited::new(body, MAX_STAGED_BYTES).collect().await;
    let body = body.map_err(|error| {
        let max = MAX_STAGED_BYTES >> 20;
        format!("the staged files could not be read, of which at most {max} MiB are taken: {error}")
    })?;
    Ok(DiffRequest { files: StagedFiles::decode(&body.to_bytes())?, ..request })
}

/// What a pass over `config` reads in place of the disk.
///
/// # Errors
/// A sentence: the contents of a file are not base64.
pub fn overlay(config: &Path, staged: &StagedFiles) -> Result<Overlay, String> {
    let folder = config.parent().unwrap_or(Path::new(""));
    let mut overlay = Overlay::default();
    for file in &staged.files {
        let bytes = file.bytes().ok_or_else(|| {
            format!("the contents of `{}` are not base64", file.path.escape_debug())
        })?;
        let path = folder.join(&file.path);
        // Findings show text of files in the folder of policies, where this one is to be.
        let real = Some(path.clone());
        let text = OverlayText { bytes: bytes.into(), modified: None, mode: file.mode, real };
        overlay.insert(path, text);
    }
    for path in &staged.removed {
        overlay.remove(folder.join(path));
    }
    Ok(overlay)
}

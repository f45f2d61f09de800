//! Finds the admin socket of a configuration if `[admin] socket` is `auto`: the agent and the
//! commands look in the same folders.
//!
//! This module may create a folder, but never a socket.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Where the agent of `config` puts its socket; `None` means no folder is usable.
pub fn automatic(config: &Path) -> Option<PathBuf> {
    folders()
        .into_iter()
        .find(|folder| is_usable(folder))
        .map(|folder| folder.join(file_name(config)))
}

/// The paths at which the agent of `config` may have its `auto` socket, the likeliest first.
pub fn socket_paths(config: &Path) -> Vec<PathBuf> {
    let name = file_name(config);
    let mut paths: Vec<PathBuf> = folders().into_iter().map(|folder| folder.join(&name)).collect();
    let runtime = fs::read_dir("/run").into_iter().flatten().flatten();
    let ours =
        runtime.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"sidegate"));
    for path in ours.map(|entry| entry.path().join(&name)) {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

/// The folders of `auto`, in order; the agent uses the first usable one.
fn folders() -> Vec<PathBuf> {
    let from =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // systemd may name several folders, separated by colons (systemd.exec(5)).
    let runtime = from("RUNTIME_DIRECTORY").and_then(|all| std::env::split_paths(&all).next());
    let session = from("XDG_RUNTIME_DIR").map(|folder| folder.join("sidegate"));
    let own = std::env::temp_dir().join(format!("sidegate-{}", rustix::process::getuid().as_raw()));
    runtime
        .into_iter()
        .chain([PathBuf::from("/run/sidegate")])
        .chain(session)
        .chain([own])
        .collect()
}

/// Whether the agent may put its socket into `folder`: a directory, created if missing, that it may
/// write and other users (`o+w`) may not. Below the temporary directory it must also belong to this
/// user. `/run/sidegate` itself is never created.
fn is_usable(folder: &Path) -> bool {
    let own = rustix::process::getuid().as_raw();
    let made = || {
        folder.starts_with("/run/sidegate")
            || fs::DirBuilder::new().mode(0o700).create(folder).is_ok()
    };
    if !folder.exists() && !made() {
        return false;
    }
    let Ok(metadata) = fs::symlink_metadata(folder) else { return false };
    let safe = metadata.is_dir() && metadata.mode() & 0o002 == 0;
    let writable = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok();
    safe && writable && (metadata.uid() == own || !folder.starts_with(std::env::temp_dir()))
}

fn file_name(config: &Path) -> String {
    let path = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{hash}.sock")
}

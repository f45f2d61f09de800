//! The two kinds of files.

use super::key::KeyTable;
use super::{policy, sidegate};

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The operator's file, `sidegate.toml`.
    Config,
    /// `policies/NAME.toml`, a candidate or the baseline.
    Policy,
}

impl FileKind {
    pub(super) fn root(self) -> &'static KeyTable {
        match self {
            FileKind::Config => &sidegate::ROOT,
            FileKind::Policy => &policy::ROOT,
        }
    }

    /// The file's name in documents.
    pub fn title(self) -> &'static str {
        match self {
            FileKind::Config => "sidegate.toml",
            FileKind::Policy => "policies/NAME.toml",
        }
    }

    /// The file's purpose, in a few sentences.
    pub fn doc(self) -> &'static str {
        match self {
            FileKind::Config => {
                "What the operator says: listeners, certificates, routes, backends. Paths are \
                 relative to this file."
            }
            FileKind::Policy => {
                "Who may open a WebSocket, and how much of it. The order never matters: `deny` \
                 beats `allow`. Also NAME.shadow.toml, a candidate, and baseline.toml, which has \
                 [lists], [client] deny and tests only."
            }
        }
    }
}

//! The journal of `sidegate apply`: which files are being replaced together.
//!
//! While the journal says that files are being replaced, each pass reads the former version of all
//! of them, so that no mixture of both is ever in force. Writes no file.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the journal, in the folder of `sidegate.toml`.
pub const JOURNAL: &str = ".sidegate-apply.json";

/// Number of the form of the journal.
const SCHEMA: u64 = 1;

/// Most bytes of a journal. Twenty thousand files take a few MiB.
const MAX_JOURNAL_BYTES: u64 = 16 << 20;

/// Files that are replaced together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyJournal {
    schema: u64,
    /// How far the replacement is.
    pub state: ApplyState,
    /// The files, each once.
    pub files: Vec<JournalFile>,
}

/// How far a replacement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplyState {
    /// Some files may be of the former version and some of the next one: the former one counts.
    Replacing,
    /// All files are of the next version, which counts.
    Replaced,
}

/// A file that is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalFile {
    /// The path by which the configuration names it, relative to the folder.
    pub path: PathBuf,
    /// The absolute path of the file itself, with links followed.
    pub target: PathBuf,
    /// What happens to it.
    pub change: FileChange,
    /// SHA-256 of the next version in hexadecimal digits. `None` means that it is removed.
    pub sha256: Option<String>,
}

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileChange {
    /// Another version takes its place.
    Replaced,
    /// There is no former version.
    Added,
    /// There is no next version.
    Removed,
}

impl ApplyJournal {
    /// The journal of `files`.
    pub fn new(state: ApplyState, files: Vec<JournalFile>) -> ApplyJournal {
        ApplyJournal { schema: SCHEMA, state, files }
    }

    /// The text of the journal.
    pub fn encode(&self) -> Vec<u8> {
        // Paths are checked to be UTF-8 when they are staged. `decode` refuses an empty text.
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Reads the text of a journal.
    ///
    /// # Errors
    /// A sentence: it is damaged, or of another version.
    pub fn decode(text: &[u8]) -> Result<ApplyJournal, String> {
        let journal: ApplyJournal = serde_json::from_slice(text)
            .map_err(|error| format!("is not a journal of `sidegate apply`: {error}"))?;
        if journal.schema != SCHEMA {
            let schema = journal.schema;
            return Err(format!("has schema {schema}: this version reads schema {SCHEMA}"));
        }
        let is_below = |path: &Path| {
            let mut parts = path.components();
            path != Path::new("") && parts.all(|part| matches!(part, Component::Normal(_)))
        };
        let is_sound = |file: &JournalFile| {
            is_below(&file.path) && file.target.is_absolute() && file.target.file_name().is_some()
        };
        match journal.files.iter().all(is_sound) {
            true => Ok(journal),
            false => Err("names a file by a path that `sidegate apply` never writes".into()),
        }
    }

    /// Reads the text of the journal in `folder`. `None` means that there is none.
    ///
    /// # Errors
    /// The journal cannot be read, or is too large.
    pub fn read(folder: &Path) -> io::Result<Option<Vec<u8>>> {
        let path = folder.join(JOURNAL);
        // Looked at before it is opened: the open of a FIFO would wait for a writer.
        match fs::metadata(&path) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(io::Error::other("it is not a regular file")),
            // In a folder that cannot be searched no file can be read, and that is reported.
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        let file = File::open(&path)?;
        let mut text = Vec::new();
        file.take(MAX_JOURNAL_BYTES + 1).read_to_end(&mut text)?;
        match text.len() as u64 {
            0..=MAX_JOURNAL_BYTES => Ok(Some(text)),
            _ => Err(io::Error::other("it is larger than 16 MiB")),
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

impl JournalFile {
    /// The path at which the former version is kept, beside the file. Its name begins with a dot
    /// and has no suffix that a pass looks for.
    pub fn former(&self) -> PathBuf {
        beside(&self.target, "sidegate-before")
    }

    /// The path at which the former version stays if another process has saved the file meanwhile.
    pub fn set_aside(&self) -> PathBuf {
        beside(&self.target, "sidegate-former")
    }

    /// The path at which the next version is written, beside the file.
    pub fn next(&self) -> PathBuf {
        beside(&self.target, "sidegate-new")
    }
}

fn beside(target: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".");
    name.push(suffix);
    target.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(path: &str, target: &str) -> ApplyJournal {
        let file = JournalFile {
            path: path.into(),
            target: target.into(),
            change: FileChange::Replaced,
            sha256: Some("00".into()),
        };
        ApplyJournal::new(ApplyState::Replacing, vec![file])
    }

    #[test]
    fn journal_survives_its_text_and_damage_is_found() {
        let whole = journal("policies/a.toml", "/etc/sidegate/policies/a.toml");
        let text = whole.encode();
        assert_eq!(ApplyJournal::decode(&text).unwrap(), whole);
        // The last byte is a line end, without which the text is as good.
        for at in 0..text.len() - 1 {
            assert!(ApplyJournal::decode(&text[..at]).is_err(), "{at}");
        }
        let newer = String::from_utf8(text).unwrap().replace("\"schema\": 1", "\"schema\": 2");
        assert!(ApplyJournal::decode(newer.as_bytes()).unwrap_err().contains("schema 2"));
    }

    #[test]
    fn path_that_no_apply_writes_is_refused() {
        for (path, target) in
            [("/etc/a", "/etc/a"), ("../a", "/etc/a"), ("", "/etc/a"), ("a", "etc/a"), ("a", "/")]
        {
            assert!(ApplyJournal::decode(&journal(path, target).encode()).is_err(), "{path}");
        }
    }

    #[test]
    fn kept_versions_lie_beside_their_file_under_ignored_names() {
        let all = journal("policies/a.toml", "/srv/real/a.toml");
        assert_eq!(all.files[0].former(), Path::new("/srv/real/.a.toml.sidegate-before"));
        assert_eq!(all.files[0].next(), Path::new("/srv/real/.a.toml.sidegate-new"));
    }
}

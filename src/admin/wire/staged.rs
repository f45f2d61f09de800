//! The files of a staged configuration, as the body of `POST /v1/diff?staged=true`.
//!
//! A command reads the files and sends their contents. The agent opens no path that a request
//! names: each name is one below the folder of its own `sidegate.toml`.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

/// Most bytes of a body: the largest list with room for the rest, in base64.
pub const MAX_STAGED_BYTES: usize = 128 << 20;

/// Most files of a body.
const MAX_STAGED_FILES: usize = 20_000;

/// Files that take the place of those on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StagedFiles {
    /// Files with new contents.
    pub files: Vec<StagedFile>,
    /// Paths of files that are gone.
    pub removed: Vec<String>,
}

/// A file with new contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StagedFile {
    /// The path, relative to the folder of `sidegate.toml`.
    pub path: String,
    /// The permission bits that it will have.
    pub mode: u32,
    /// Its contents in base64 (RFC 4648, section 4).
    pub content: String,
}

impl StagedFile {
    /// A file with these contents.
    pub fn new(path: &str, mode: u32, content: &[u8]) -> StagedFile {
        StagedFile { path: path.to_owned(), mode, content: BASE64.encode(content) }
    }

    /// The contents. `None` means that they are no base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        BASE64.decode(self.content.as_bytes()).ok()
    }
}

impl StagedFiles {
    /// The body of the request, as JSON.
    pub fn encode(&self) -> Vec<u8> {
        // Strings and numbers always serialize. `decode` refuses an empty body.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Least length of the body.
    pub fn encoded_len(&self) -> usize {
        self.files.iter().map(|file| file.content.len() + file.path.len()).sum()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// A sentence: it is not JSON of this form, or a path is not one below a folder.
    pub fn decode(body: &[u8]) -> Result<StagedFiles, String> {
        let staged: StagedFiles = serde_json::from_slice(body)
            .map_err(|error| format!("the body is not a set of staged files: {error}"))?;
        let paths = staged.files.iter().map(|file| &file.path).chain(&staged.removed);
        let mut seen = BTreeSet::new();
        for path in paths {
            if !is_below(path) {
                let path = path.escape_debug();
                return Err(format!("`{path}` is not a path below the folder of sidegate.toml"));
            }
            if !seen.insert(path) {
                return Err(format!("`{}` is staged twice", path.escape_debug()));
            }
        }
        if seen.len() > MAX_STAGED_FILES {
            return Err(format!("more than {MAX_STAGED_FILES} files are staged"));
        }
        Ok(staged)
    }
}

/// Whether `path` is relative, and leads to no place outside the folder that it begins at.
fn is_below(path: &str) -> bool {
    let parts = || Path::new(path).components();
    // `components` drops a trailing slash and `.` in the middle, which change the spelling.
    let spelled: Vec<_> = parts().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts().all(|part| matches!(part, Component::Normal(_)))
        && !path.is_empty()
        && !path.contains('\0')
        && spelled.join("/") == path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(files: &[&str], removed: &[&str]) -> StagedFiles {
        StagedFiles {
            files: files.iter().map(|path| StagedFile::new(path, 0o644, b"\x00\xff")).collect(),
            removed: removed.iter().map(|path| (*path).to_owned()).collect(),
        }
    }

    #[test]
    fn files_survive_their_body() {
        let all = staged(&["sidegate.toml", "policies/a.toml"], &["policies/b.toml"]);
        assert_eq!(StagedFiles::decode(&all.encode()).unwrap(), all);
        assert_eq!(all.files[0].bytes().unwrap(), b"\x00\xff");
        let broken = StagedFile { content: "§".into(), ..all.files[0].clone() };
        assert_eq!(broken.bytes(), None);
        for body in [&b""[..], b"{}", br#"{"files":[],"removed":[],"more":1}"#] {
            assert!(StagedFiles::decode(body).is_err(), "{body:?}");
        }
    }

    #[test]
    fn path_outside_the_folder_is_refused() {
        for path in ["/etc/passwd", "../x", "policies/../../x", "", ".", "a//b", "a/", "./a", "a\0"]
        {
            for all in [staged(&[path], &[]), staged(&[], &[path])] {
                let fault = StagedFiles::decode(&all.encode()).unwrap_err();
                assert!(fault.contains("is not a path below"), "{path:?}: {fault}");
            }
        }
        let twice = staged(&["a"], &["a"]);
        assert!(StagedFiles::decode(&twice.encode()).unwrap_err().contains("twice"));
    }
}

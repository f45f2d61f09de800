//! A file that a command generates.

use std::path::PathBuf;

/// A file to be written, with its permissions.
#[derive(Debug)]
pub struct OutputFile {
    /// Path at which it is written.
    pub path: PathBuf,
    /// Text of the file.
    pub text: String,
    /// Permission bits (mode) of the file.
    pub mode: u32,
}

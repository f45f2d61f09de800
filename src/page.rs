//! A file that a command makes.

use std::path::PathBuf;

/// One file to write.
#[derive(Debug)]
pub struct Page {
    /// Path of the file.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// Its permission bits.
    pub mode: u32,
}

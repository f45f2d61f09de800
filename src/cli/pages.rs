//! Files that a command makes: all of them or none, and never over one that is there.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::cli::output::complain;
pub use crate::page::Page;

/// What was written, and can be taken back.
#[derive(Debug)]
pub struct Written {
    files: Vec<PathBuf>,
    /// The folders that were made for them, the outermost first.
    folders: Vec<PathBuf>,
}

/// Writes all `pages`. What can't be done is said, and then nothing is left; `option` names the folder to write to.
pub fn write(pages: &[Page], option: &str) -> Option<Written> {
    let there: Vec<_> =
        pages.iter().filter(|page| fs::symlink_metadata(&page.path).is_ok()).collect();
    for page in &there {
        complain(format_args!("{} is there already", page.path.display()));
    }
    if !there.is_empty() {
        complain(format_args!(
            "nothing was written: move it away, or name another folder with {option}"
        ));
        return None;
    }
    let mut written = Written { files: Vec::new(), folders: Vec::new() };
    for page in pages {
        if let Err(error) = written.write(page) {
            complain(format_args!("{}: {error}", page.path.display()));
            written.take_back();
            complain("nothing was written");
            return None;
        }
    }
    Some(written)
}

impl Written {
    /// Removes it all again.
    pub fn take_back(self) {
        for path in self.files {
            if let Err(error) = fs::remove_file(&path) {
                complain(format_args!("{} could not be removed again: {error}", path.display()));
            }
        }
        for path in self.folders.iter().rev() {
            // Somebody else may have put something there since.
            let _ = fs::remove_dir(path);
        }
    }

    fn write(&mut self, page: &Page) -> io::Result<()> {
        if let Some(folder) = page.path.parent() {
            self.make(folder)?;
        }
        // Only a new file: somebody may have put one there since we looked.
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(page.mode).open(&page.path)?;
        // It is ours, and half of it is worse than nothing.
        self.files.push(page.path.clone());
        file.write_all(page.text.as_bytes())
    }

    fn make(&mut self, folder: &Path) -> io::Result<()> {
        let missing: Vec<_> = folder
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
            .collect();
        for path in missing.into_iter().rev() {
            fs::create_dir(path)?;
            self.folders.push(path.to_owned());
        }
        Ok(())
    }
}

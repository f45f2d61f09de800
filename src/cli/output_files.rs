//! Writes the files of a command: all of them or none, and never over an existing file.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::cli::output::print_error;
pub use crate::output_file::OutputFile;

/// The files and folders that were written, which can be removed again.
#[derive(Debug)]
pub struct WrittenFiles {
    files: Vec<PathBuf>,
    /// Folders that were created for the files, the outermost first.
    folders: Vec<PathBuf>,
}

/// Writes all `pages`. `None` means an error, which is printed; no file is left then. `option`
/// names the command's option for the folder.
pub fn write_all(pages: &[OutputFile], option: &str) -> Option<WrittenFiles> {
    let there: Vec<_> =
        pages.iter().filter(|page| fs::symlink_metadata(&page.path).is_ok()).collect();
    for page in &there {
        print_error(format_args!("{} exists already", page.path.display()));
    }
    if !there.is_empty() {
        print_error(format_args!(
            "nothing was written: move the file away, or name another directory with {option}"
        ));
        return None;
    }
    let mut written = WrittenFiles { files: Vec::new(), folders: Vec::new() };
    for page in pages {
        if let Err(error) = written.write(page) {
            print_error(format_args!("{}: {error}", page.path.display()));
            written.remove();
            print_error("nothing was written");
            return None;
        }
    }
    Some(written)
}

impl WrittenFiles {
    /// Removes all files and folders written.
    pub fn remove(self) {
        for path in self.files {
            if let Err(error) = fs::remove_file(&path) {
                print_error(format_args!(
                    "{} was written and cannot be removed: {error}",
                    path.display()
                ));
            }
        }
        for path in self.folders.iter().rev() {
            // Another process may have put a file there since: then the folder stays.
            let _ = fs::remove_dir(path);
        }
    }

    fn write(&mut self, page: &OutputFile) -> io::Result<()> {
        if let Some(folder) = page.path.parent() {
            self.make(folder)?;
        }
        // `create_new`: another process may have created the file since the check.
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(page.mode).open(&page.path)?;
        // Recorded before the write: if that fails, the partial file is removed too.
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

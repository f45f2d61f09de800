//! Extended attributes of a file that is replaced: ACLs, labels, and those of users.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr, getxattr, listxattr};
use rustix::io::Errno;

/// Most bytes of all names, and of a value (xattr(7)).
const MAX_BYTES: usize = 64 << 10;

/// Attributes that the kernel computes from the contents of a file.
const COMPUTED: [&[u8]; 2] = [b"security.ima", b"security.evm"];

/// Gives `to` the extended attributes of the file at `from`.
///
/// # Errors
/// An attribute cannot be kept. A file without its ACL might be read by others, or not by the
/// agent.
pub fn copy_attributes(from: &Path, to: &File) -> io::Result<()> {
    let mut names = vec![0; MAX_BYTES];
    let length = match listxattr(from, &mut names[..]) {
        Ok(length) => length,
        // The file system has none.
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    for name in names.filter(|name| !COMPUTED.contains(name)) {
        copy(from, to, name).map_err(|error| {
            let name = String::from_utf8_lossy(name);
            let fault = format!("its extended attribute {name} cannot be kept: {error}");
            io::Error::new(error.kind(), fault)
        })?;
    }
    Ok(())
}

fn copy(from: &Path, to: &File, name: &[u8]) -> io::Result<()> {
    let (mut value, mut own) = (vec![0; MAX_BYTES], vec![0; MAX_BYTES]);
    let length = match getxattr(from, name, &mut value[..]) {
        Ok(length) => length,
        // Removed meanwhile.
        Err(Errno::NODATA) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // A label that the folder gives may not be set again without a right to.
    if fgetxattr(to, name, &mut own[..])
        .is_ok_and(|own_length| own[..own_length] == value[..length])
    {
        return Ok(());
    }
    Ok(fsetxattr(to, name, &value[..length], XattrFlags::empty())?)
}

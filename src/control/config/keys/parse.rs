//! Strings that single keys have: networks, host names, folders, modes, groups.
//!
//! Pure: from a string to a value or a finding.

use std::path::{Component, Path};

use ipnet::IpNet;

use crate::control::config::source_text::{Finding, error};
use crate::policy::list::ListEntry;
use crate::policy::request::Host;

/// Parses a network without the sign and the annotations that a list's line may have.
pub fn network(text: &str) -> Result<IpNet, Finding> {
    let entry = ListEntry::parse(text)
        .map_err(|fault| error(fault.fault).with_remedy(fault.remedy).with_span(fault.span))?;
    let plain = entry.filter(|entry| entry.admits && !entry.is_annotated());
    let network = plain.and_then(|entry| entry.pattern.network());
    network.ok_or_else(|| {
        error(format!("\"{text}\" is not a network alone"))
            .with_remedy("like \"192.0.2.0/24\" or \"::1\"")
    })
}

/// Parses a host name: lower case, without a final dot. `localhost` and addresses need not be
/// listed.
pub fn host_name(text: &str) -> Result<Box<str>, Finding> {
    match Host::parse(text.as_bytes()) {
        // A colon begins a port, or belongs to an IPv6 address.
        Some(host) if !text.contains(':') => Ok(host.name().into()),
        _ => Err(error(format!("\"{text}\" is not the name of a host"))
            .with_remedy("like \"metrics.example.com\", without a port")),
    }
}

/// Parses a folder, and refuses the root, which contains every file.
pub fn list_folder(text: &str) -> Result<Box<str>, Finding> {
    if text.is_empty() {
        return Err(error("an empty path"));
    }
    if Path::new(text)
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::CurDir))
        && text.starts_with('/')
    {
        return Err(error("the root holds every file")
            .with_remedy("name the folder that the feeds are written to"));
    }
    Ok(text.into())
}

/// Parses `"0660"`: permission bits, without the setuid, setgid and sticky bits.
pub fn mode(text: &str) -> Result<u32, Finding> {
    // `from_str_radix` alone would accept a sign: "+660".
    let octal = !text.is_empty() && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| octal && *mode <= 0o777);
    mode.ok_or_else(|| {
        error(format!("\"{text}\" is not a file mode"))
            .with_remedy("three octal digits after a zero, like \"0660\"")
    })
}

/// Parses a group's name or number. `""` means none. Whether the group exists shows when the socket
/// is made.
pub fn group(text: &str) -> Result<Option<String>, Finding> {
    if text.is_empty() {
        return Ok(None);
    }
    // The names that groupadd(8) accepts, with dots and capitals besides. A leading `-` could be
    // taken for an option.
    let well_formed = text.len() <= 32
        && !text.starts_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'$'));
    if !well_formed {
        return Err(error(format!("\"{text}\" cannot be the name of a group")));
    }
    Ok(Some(text.to_owned()))
}

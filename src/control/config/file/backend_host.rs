//! The host of a backend's URL: an address, or a name for the system's resolver.
//!
//! Names are checked and never resolved here: `check` needs no network.

use std::net::IpAddr;

use crate::control::config::source_text::{Finding, error};

/// Most bytes of a label, and of a name without its trailing dot (RFC 1035 §2.3.4).
const MAX_LABEL_BYTES: usize = 63;
const MAX_NAME_BYTES: usize = 253;

/// The host of a backend.
#[derive(Debug, PartialEq, Eq)]
pub enum BackendHost {
    /// An IPv4 address, or an IPv6 address in brackets.
    Address(IpAddr),
    /// A name in lower case, with its trailing dot if it has one.
    Name(String),
}

/// Parses the host of a URL, without its port.
pub fn parse(host: &str) -> Result<BackendHost, Finding> {
    if let Some(v6) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let fault = || error(format!("\"{host}\" is not an address")).with_remedy("like \"[::1]\"");
        return v6.parse().map(IpAddr::V6).map(BackendHost::Address).map_err(|_| fault());
    }
    if let Ok(v4) = host.parse() {
        return Ok(BackendHost::Address(IpAddr::V4(v4)));
    }
    check_name(host).map(|()| BackendHost::Name(host.to_ascii_lowercase()))
}

/// Checks the labels of a name (RFC 1123 §2.1), and also takes `_`, which names of
/// containers have.
fn check_name(name: &str) -> Result<(), Finding> {
    if name.is_empty() {
        return Err(error("a backend has a host").with_remedy("like \"http://127.0.0.1:8080\""));
    }
    if !name.is_ascii() {
        // Resolvers differ in how they convert other letters, so that a name could have two
        // meanings.
        return Err(error(format!("\"{name}\" has letters that no resolver takes"))
            .with_remedy("write the name as its `xn--` form"));
    }
    if name.contains(':') {
        return Err(error(format!("\"{name}\" is not a host"))
            .with_remedy(format!("an IPv6 address has brackets: `[{name}]`")));
    }
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.len() > MAX_NAME_BYTES {
        return Err(error(format!("a name has at most {MAX_NAME_BYTES} characters")));
    }
    if let Some(label) = bare.split('.').find(|label| !is_label(label)) {
        let remedy = format!(
            "labels of letters, digits, - and _ with dots between, at most {MAX_LABEL_BYTES} \
             characters each"
        );
        return Err(
            error(format!("\"{name}\" is not a host: \"{label}\" is no label")).with_remedy(remedy)
        );
    }
    // getaddrinfo reads `10.1`, `017.0.0.1` and `0x7f000001` as addresses (inet_aton(3)).
    if bare.rsplit('.').next().is_some_and(is_number) {
        return Err(error(format!("\"{name}\" is not an address"))
            .with_remedy("four numbers like `127.0.0.1`, or a name"));
    }
    Ok(())
}

fn is_label(label: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_LABEL_BYTES).contains(&label.len())
        && label.bytes().all(is_allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_number(label: &str) -> bool {
    let lower = label.to_ascii_lowercase();
    match lower.strip_prefix("0x") {
        Some(hex) => hex.bytes().all(|digit| digit.is_ascii_hexdigit()),
        None => lower.bytes().all(|digit| digit.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_told_apart() {
        for name in [
            "app",
            "App_1",
            "_app",
            "a-b.Example.",
            "localhost",
            "1a",
            "a.1b",
            "xn--bcher-kva.example",
        ] {
            assert_eq!(
                parse(name).unwrap(),
                BackendHost::Name(name.to_ascii_lowercase()),
                "{name}"
            );
        }
        for address in ["127.0.0.1", "::1", "2001:db8::7"] {
            let shown = if address.contains(':') { format!("[{address}]") } else { address.into() };
            assert_eq!(parse(&shown).unwrap(), BackendHost::Address(address.parse().unwrap()));
        }
    }

    #[test]
    fn longest_names_are_taken_and_longer_ones_refused() {
        let label = "a".repeat(MAX_LABEL_BYTES);
        let longest = [&*label, &label, &label, &label[..61]].join(".");
        assert_eq!(longest.len(), MAX_NAME_BYTES);
        assert!(parse(&longest).is_ok() && parse(&format!("{longest}.")).is_ok());
        assert!(parse(&format!("{longest}a")).is_err() && parse(&format!("{label}a")).is_err());
    }

    #[test]
    fn odd_hosts_are_refused_with_a_remedy() {
        for (host, said) in [
            ("", "has a host"),
            ("bücher.example", "`xn--` form"),
            ("::1", "`[::1]`"),
            ("[::1", "`[[::1]`"),
            ("[fe80::1%eth0]", "like \"[::1]\""),
            ("a..b", "\"\" is no label"),
            (".a", "\"\" is no label"),
            (".", "\"\" is no label"),
            ("-a", "\"-a\" is no label"),
            ("a-.b", "\"a-\" is no label"),
            ("a b", "\"a b\" is no label"),
            ("$app", "\"$app\" is no label"),
            ("*.a", "\"*\" is no label"),
            ("a%20b", "is no label"),
            ("10.1", "four numbers"),
            ("127.0.0.1.", "four numbers"),
            ("0x7f000001", "four numbers"),
            ("1.2.3.256", "four numbers"),
            ("2130706433", "four numbers"),
        ] {
            let fault = parse(host).unwrap_err().sentence();
            assert!(fault.contains(said), "{host}: {fault}");
        }
    }
}

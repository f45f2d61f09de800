//! The filters that `sidegate tunnels` and `sidegate close` share.

use std::time::Duration;

use crate::cli::duration_arg::duration;
use sidegate::admin::wire::{EntryKind, TunnelSelector};

/// Which tunnels and exchanges are meant. All that is given has to hold.
#[derive(clap::Args)]
pub struct TunnelArgs {
    /// Only those of this route.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Only those of clients in this network, of this address, or of these users: unix:uid=33.
    #[arg(long, value_name = "NETWORK")]
    client: Option<String>,
    /// Only those of clients with such a certificate, written as in a policy:
    /// spiffe://example.com/ws/* or dns:client.example.com.
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// Only those under this policy.
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// Only tunnels that have been open for this time, like 90s, 15m, 1h or 2d.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    older: Option<Duration>,
    /// Only tunnels with at least so many bytes in both directions, like 500 or 10MiB.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    bytes: Option<u64>,
    /// Only tunnels, or only exchanges.
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Option<EntryKind>,
}

impl TunnelArgs {
    /// The same on the wire.
    pub fn selector(&self) -> TunnelSelector {
        TunnelSelector {
            route: self.route.clone(),
            client: self.client.clone(),
            identity: self.identity.clone(),
            policy: self.policy.clone(),
            older: self.older.map(|older| older.as_secs()),
            bytes: self.bytes,
            kind: self.kind.clone(),
        }
    }
}

fn kind(text: &str) -> Result<EntryKind, String> {
    match text {
        "tunnel" => Ok(EntryKind::Tunnel),
        "exchange" => Ok(EntryKind::Exchange),
        _ => Err("write tunnel or exchange".into()),
    }
}

/// Parses a number of bytes: `500`, `64KiB`, `10MiB` or `1GiB`.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{}` is no size: write 500, 64KiB or 10MiB", text.escape_debug());
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("B", 0)];
    let unit = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let (number, shift) = unit.unwrap_or((text, 0));
    // `parse` alone would take a sign.
    let digits = Some(number).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse::<u64>().ok()).ok_or_else(wrong)?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_an_optional_unit() {
        for (text, bytes) in [("500", 500), ("7B", 7), ("64KiB", 1 << 16), ("1GiB", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes));
        }
        for text in ["", "B", "-1", "+1", "1.5MiB", "1MB", "99999999999999GiB", "1 KiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}

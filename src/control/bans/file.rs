//! The file of bans: JSON with a schema number and a checksum.
//!
//! A file that is not byte for byte as it was written is damaged; no part of it is used.

use std::fmt;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::policy::ban::{Ban, BanOrigin, BanTarget, MAX_WEIGHT};

/// Number of the form of the file.
const SCHEMA: u64 = 1;

/// Most bytes of the file. The weight of the bans bounds it. Escapes may double that, and so may
/// bans that come from a former owner of the folder.
pub const MAX_BYTES: u64 = 4 * MAX_WEIGHT as u64;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BanFile {
    schema: u64,
    /// SHA-256 of the value of `bans` as written.
    sha256: String,
    bans: Vec<BanEntry>,
}

/// A ban in the file. Exactly one of `client` and `identity` is there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BanEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    until: Option<String>,
    since: String,
    origin: String,
    by: Option<u32>,
    why: String,
}

/// Why a file is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFault(String);

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text of the file with `bans`.
pub fn encode<'b>(bans: impl IntoIterator<Item = &'b Arc<Ban>>) -> String {
    let bans: Vec<BanEntry> = bans.into_iter().map(|ban| entry(ban)).collect();
    let sha256 = checksum(&bans);
    // Strings, numbers and options always serialize. `decode` would refuse an empty text.
    let mut text =
        serde_json::to_string(&BanFile { schema: SCHEMA, sha256, bans }).unwrap_or_default();
    text.push('\n');
    text
}

/// Reads the text of a file.
///
/// # Errors
/// Anything in it differs from what `encode` writes.
pub fn decode(text: &[u8]) -> Result<Vec<Arc<Ban>>, FileFault> {
    let fault = |what: String| FileFault(what);
    let file: BanFile = serde_json::from_slice(text)
        .map_err(|error| fault(format!("not a file of bans: {error}")))?;
    if file.schema != SCHEMA {
        return Err(fault(format!("schema {}: this version reads schema {SCHEMA}", file.schema)));
    }
    // Covers the values. The spelling of the text is compared below, byte for byte.
    if file.sha256 != checksum(&file.bans) {
        return Err(fault("the checksum differs".into()));
    }
    // One unreadable ban refuses the whole file: a part of the bans would look like all of them.
    let bans = file.bans.iter().enumerate().map(|(at, entry)| {
        ban(entry).ok_or_else(|| fault(format!("ban {} cannot be read", at + 1)))
    });
    let bans: Vec<_> = bans.collect::<Result<_, _>>()?;
    // Whitespace, escapes or a repeated key change no value, and are no writing of this program.
    if encode(&bans).as_bytes() != text {
        return Err(fault("it was changed by hand or by another program".into()));
    }
    Ok(bans)
}

fn checksum(bans: &[BanEntry]) -> String {
    HEXLOWER.encode(&Sha256::digest(serde_json::to_vec(bans).unwrap_or_default()))
}

fn entry(ban: &Ban) -> BanEntry {
    let target = Some(ban.target.to_string());
    let (client, identity) = match &ban.target {
        BanTarget::Identity(_) => (None, target),
        BanTarget::Network(_) | BanTarget::UnixUid(_) => (target, None),
    };
    BanEntry {
        client,
        identity,
        until: ban.until.map(|until| until.to_string()),
        since: ban.since.to_string(),
        origin: ban.origin.word().to_owned(),
        by: ban.by,
        why: ban.why.to_string(),
    }
}

fn ban(entry: &BanEntry) -> Option<Arc<Ban>> {
    // The parsers of requests: a file cannot hold a target that an operator could not order.
    let target = match (&entry.client, &entry.identity) {
        (Some(client), None) => BanTarget::parse_client(client).ok()?,
        (None, Some(identity)) => BanTarget::parse_identity(identity).ok()?,
        _ => return None,
    };
    let until: Option<Timestamp> =
        entry.until.as_ref().map(|until| until.parse()).transpose().ok()?;
    let (since, by) = (entry.since.parse().ok()?, entry.by);
    let (origin, why) = (BanOrigin::parse(&entry.origin)?, entry.why.as_str().into());
    Some(Arc::new(Ban { target, until, why, origin, since, by }))
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn target() -> impl Strategy<Value = BanTarget> {
        let v4 = (any::<[u8; 4]>(), 0u8..=32);
        let v4 = v4.prop_map(|(one, length)| ipnet::IpNet::new(one.into(), length).unwrap());
        let v6 = (any::<[u8; 16]>(), 0u8..=128);
        let v6 = v6.prop_map(|(one, length)| ipnet::IpNet::new(one.into(), length).unwrap());
        let parsed =
            |network: ipnet::IpNet| BanTarget::parse_client(&network.trunc().to_string()).unwrap();
        prop_oneof![
            v4.prop_map(parsed),
            v6.prop_map(parsed),
            any::<u32>().prop_map(BanTarget::UnixUid),
            "[a-z]{1,8}".prop_map(|name| {
                BanTarget::parse_identity(&format!("dns:{name}.example.com")).unwrap()
            }),
        ]
    }

    fn bans() -> impl Strategy<Value = Vec<Arc<Ban>>> {
        let time = || (0i64..4_000_000_000).prop_map(|at| Timestamp::from_second(at).unwrap());
        let origin = proptest::sample::select(&BanOrigin::ALL[..]);
        let (until, by) = (proptest::option::of(time()), proptest::option::of(any::<u32>()));
        let one = (target(), until, ".{0,20}", origin, time(), by);
        let one = one.prop_map(|(target, until, why, origin, since, by)| {
            Arc::new(Ban { target, until, why: why.into(), origin, since, by })
        });
        proptest::collection::vec(one, 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(512)
        })]

        #[test]
        fn bans_survive_their_file(bans in bans()) {
            prop_assert_eq!(decode(encode(&bans).as_bytes()).unwrap(), bans);
        }

        #[test]
        fn damage_at_any_offset_is_reported(
            bans in bans(),
            at in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let whole = encode(&bans).into_bytes();
            let at = at.index(whole.len());
            let mut changed = whole.clone();
            changed[at] = byte;
            prop_assert_eq!(decode(&changed).is_err(), byte != whole[at]);
            prop_assert!(decode(&whole[..at]).is_err());
            let mut longer = whole;
            longer.insert(at, byte);
            prop_assert!(decode(&longer).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            prop_assert!(decode(&bytes).is_err());
        }
    }
}

//! The file of decisions: what holds after a restart until the Local API answers.
//!
//! Like the file of bans, it has a checksum, and no part of a damaged file is used.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::control::crowdsec::decision::CrowdsecDecision;
use crate::control::crowdsec::store::MAX_DECISIONS;
use crate::policy::ban::{Ban, BanOrigin, BanTarget};

/// Name of the file in the state folder.
pub const FILE: &str = "crowdsec.json";

/// Most bytes of the file. A decision takes about 250.
pub const MAX_BYTES: u64 = 384 * MAX_DECISIONS as u64;

/// Number of the form of the file.
const SCHEMA: u64 = 1;

/// What the file keeps.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptDecisions {
    /// The URL of the API that has sent them.
    pub url: String,
    /// The decisions that can be bans.
    #[serde(serialize_with = "write_decisions", deserialize_with = "read_decisions")]
    pub decisions: Vec<CrowdsecDecision>,
    /// The decisions that an operator has lifted.
    pub lifted: Vec<LiftedDecision>,
    /// Networks whose bans are held.
    #[serde(default)]
    pub held: BTreeSet<Shown<IpNet>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionFile<K> {
    schema: u64,
    /// SHA-256 of the value of `kept` as written.
    sha256: String,
    kept: K,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptDecision<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    id: i64,
    network: Shown<IpNet>,
    until: Shown<Timestamp>,
    since: Shown<Timestamp>,
    #[serde(borrow)]
    why: Cow<'a, str>,
}

/// A decision that an operator has lifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiftedDecision {
    /// Its key in the store.
    pub key: String,
    /// Number of the decision in the database of the API.
    pub id: i64,
}

/// A value that the file has as its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown<T>(pub T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Shown<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<'_, str>::deserialize(from)?;
        text.parse().map(Shown).map_err(D::Error::custom)
    }
}

/// Writes the file, decision by decision: all of it would be 20 MB for a hundred thousand.
///
/// # Errors
/// Those of `out`.
pub fn encode(mut kept: KeptDecisions, out: &mut dyn Write) -> io::Result<()> {
    kept.decisions.sort_by(|one, other| one.key.cmp(&other.key));
    let (schema, sha256) = (SCHEMA, checksum(&kept));
    Ok(serde_json::to_writer(out, &DecisionFile { schema, sha256, kept: &kept })?)
}

/// Reads the text of a file.
///
/// # Errors
/// A sentence about the fault.
pub fn decode(text: &[u8]) -> Result<KeptDecisions, String> {
    let file: DecisionFile<KeptDecisions> = serde_json::from_slice(text)
        .map_err(|error| format!("not a file of decisions: {error}"))?;
    if file.schema != SCHEMA {
        return Err(format!("schema {}: this version reads schema {SCHEMA}", file.schema));
    }
    match file.sha256 == checksum(&file.kept) {
        true => Ok(file.kept),
        false => Err("the checksum differs".into()),
    }
}

fn checksum(kept: &KeptDecisions) -> String {
    let mut digest = DigestWriter(Sha256::new());
    // Neither the digest nor these values can fail.
    let _ = serde_json::to_writer(io::BufWriter::new(&mut digest), kept);
    HEXLOWER.encode(&digest.0.finalize())
}

struct DigestWriter(Sha256);

impl Write for DigestWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_decisions<S: Serializer>(all: &[CrowdsecDecision], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(all.iter().filter_map(kept))
}

fn read_decisions<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<CrowdsecDecision>, D::Error> {
    from.deserialize_seq(DecisionsVisitor)
}

struct DecisionsVisitor;

impl<'de> Visitor<'de> for DecisionsVisitor {
    type Value = Vec<CrowdsecDecision>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of decisions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(kept) = list.next_element::<KeptDecision<'de>>()? {
            let key = kept.key.escape_debug().to_string();
            let read = decision(kept);
            let fault = || A::Error::custom(format!("the decision {key} cannot be read"));
            all.push(read.ok_or_else(fault)?);
        }
        Ok(all)
    }
}

fn kept(decision: &CrowdsecDecision) -> Option<KeptDecision<'_>> {
    let ban = decision.ban.as_ref().ok()?;
    let BanTarget::Network(network) = ban.target else { return None };
    Some(KeptDecision {
        key: Cow::Borrowed(&decision.key),
        id: decision.id,
        network: Shown(network),
        until: Shown(decision.until),
        since: Shown(ban.since),
        why: Cow::Borrowed(&ban.why),
    })
}

fn decision(kept: KeptDecision<'_>) -> Option<CrowdsecDecision> {
    let KeptDecision { key, id, why, .. } = kept;
    let (network, until, since) = (kept.network.0, kept.until.0, kept.since.0);
    // Only the forms of orders: no host bits, and no network of mapped addresses.
    let target = BanTarget::parse_client(&network.to_string()).ok()?;
    let (end, origin) = (Some(until), BanOrigin::Crowdsec);
    let ban = Ban { target, until: end, why: why.into(), origin, since, by: None };
    Some(CrowdsecDecision { key: key.into(), id, until, ban: Ok(Arc::new(ban)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::crowdsec::decision::StreamUpdate;

    fn text_of(kept: KeptDecisions) -> Vec<u8> {
        let mut written = Vec::new();
        encode(kept, &mut written).unwrap();
        written
    }

    #[test]
    fn decisions_and_lifted_ones_survive_their_file() {
        let one = |id: u32, scope: &str, kind: &str, value: &str| {
            format!(
                r#"{{"id":{id},"duration":"4h","origin":"cscli","scenario":"a \"b\"",
                   "scope":"{scope}","type":"{kind}","value":"{value}"}}"#
            )
        };
        let all = [
            one(1, "Ip", "ban", "192.0.2.1"),
            one(2, "Ip", "ban", "2001:db8::1"),
            one(3, "Range", "ban", "192.0.2.0/24"),
            one(4, "Ip", "captcha", "192.0.2.9"),
        ];
        let text = format!("{{\"new\":[{}],\"deleted\":[]}}", all.join(","));
        let update = StreamUpdate::parse(text.as_bytes(), Timestamp::UNIX_EPOCH).unwrap();
        let decisions = update.new.into_iter().filter(|one| one.ban.is_ok()).collect();
        let lifted = vec![LiftedDecision { key: "ip:192.0.2.1".into(), id: 1 }];
        let held = BTreeSet::from([Shown("192.0.2.0/24".parse().unwrap())]);
        let kept = KeptDecisions { url: "http://127.0.0.1:8080".into(), decisions, lifted, held };
        let written = text_of(kept.clone());
        let read = decode(&written).unwrap();
        assert_eq!((&read.url, &read.lifted, &read.held), (&kept.url, &kept.lifted, &kept.held));
        assert_eq!(read.decisions.len(), 3);
        assert_eq!(text_of(read), written);
        let text = String::from_utf8(written.clone()).unwrap();
        let other = text.replace("192.0.2.0/24", "192.0.3.0/24");
        assert!(decode(other.as_bytes()).err().unwrap().contains("checksum"));
        let other = text.replace("192.0.2.0/24", "192.0.2.1/24");
        assert!(decode(other.as_bytes()).err().unwrap().contains("cannot be read"));
        assert!(decode(&written[..written.len() - 1]).is_err());
    }
}

//! The file of decisions: what holds after a restart until the Local API answers.
//!
//! Like the file of bans, it has a checksum, and no part of a damaged file is used.

use std::collections::BTreeSet;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::control::crowdsec::decision::CrowdsecDecision;
use crate::control::crowdsec::store::{DecisionStore, MAX_DECISIONS};
use crate::policy::ban::{Ban, BanOrigin, BanTarget};

/// Name of the file in the state folder.
pub const FILE: &str = "crowdsec.json";

/// Most bytes of the file. A decision takes about 250.
pub const MAX_BYTES: u64 = 384 * MAX_DECISIONS as u64;

/// Number of the form of the file.
const SCHEMA: u64 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionFile {
    schema: u64,
    /// SHA-256 of the value of `kept` as written.
    sha256: String,
    kept: KeptDecisions,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptDecisions {
    /// The URL of the API that has sent them.
    url: String,
    decisions: Vec<KeptDecision>,
    lifted: Vec<LiftedDecision>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptDecision {
    key: Box<str>,
    id: i64,
    network: String,
    until: String,
    since: String,
    why: Box<str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LiftedDecision {
    key: Box<str>,
    id: i64,
}

/// The text of the file with the decisions of the API at `url`. Decisions that are
/// no bans are left out.
pub fn encode(url: &str, store: &DecisionStore) -> String {
    let mut decisions: Vec<_> = store.known().filter_map(kept).collect();
    decisions.sort_by(|one, other| one.key.cmp(&other.key));
    let lifted = store.lifted().iter();
    let lifted = lifted.map(|(id, key)| LiftedDecision { key: key.clone(), id: *id }).collect();
    let kept = KeptDecisions { url: url.to_owned(), decisions, lifted };
    let sha256 = checksum(&kept);
    serde_json::to_string(&DecisionFile { schema: SCHEMA, sha256, kept }).unwrap_or_default()
}

/// Reads the text of a file: the URL and the decisions.
///
/// # Errors
/// A sentence about the fault.
pub fn decode(text: &[u8]) -> Result<(String, DecisionStore), String> {
    let file: DecisionFile = serde_json::from_slice(text)
        .map_err(|error| format!("not a file of decisions: {error}"))?;
    if file.schema != SCHEMA {
        return Err(format!("schema {}: this version reads schema {SCHEMA}", file.schema));
    }
    if file.sha256 != checksum(&file.kept) {
        return Err("the checksum differs".into());
    }
    let KeptDecisions { url, decisions, lifted } = file.kept;
    let decisions = decisions.into_iter().map(|kept| {
        let key = kept.key.clone();
        decision(kept).ok_or_else(|| format!("the decision {} cannot be read", key.escape_debug()))
    });
    let decisions: Vec<_> = decisions.collect::<Result<_, _>>()?;
    let lifted: BTreeSet<_> = lifted.into_iter().map(|one| (one.id, one.key)).collect();
    Ok((url, DecisionStore::new(decisions, lifted)))
}

fn checksum(kept: &KeptDecisions) -> String {
    HEXLOWER.encode(&Sha256::digest(serde_json::to_vec(kept).unwrap_or_default()))
}

fn kept(decision: &CrowdsecDecision) -> Option<KeptDecision> {
    let ban = decision.ban.as_ref().ok()?;
    let BanTarget::Network(network) = ban.target else { return None };
    Some(KeptDecision {
        key: decision.key.clone(),
        id: decision.id,
        network: network.to_string(),
        until: decision.until.to_string(),
        since: ban.since.to_string(),
        why: ban.why.clone(),
    })
}

fn decision(kept: KeptDecision) -> Option<CrowdsecDecision> {
    let KeptDecision { key, id, network, until, since, why } = kept;
    let (until, since): (Timestamp, Timestamp) = (until.parse().ok()?, since.parse().ok()?);
    let target = BanTarget::parse_client(&network).ok()?;
    let (end, origin) = (Some(until), BanOrigin::Crowdsec);
    let ban = Ban { target, until: end, why, origin, since, by: None };
    Some(CrowdsecDecision { key, id, until, ban: Ok(Arc::new(ban)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::crowdsec::decision::StreamUpdate;

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
        let mut store = DecisionStore::default();
        store.update(update, true);
        store.lift(&[BanTarget::parse_client("192.0.2.1").unwrap()]);
        let written = encode("http://127.0.0.1:8080", &store);
        let (url, read) = decode(written.as_bytes()).unwrap();
        assert_eq!(url, "http://127.0.0.1:8080");
        assert_eq!((read.known().count(), read.lifted().len()), (3, 1));
        assert_eq!(encode(&url, &read), written);
        let other = written.replace("192.0.2.0/24", "192.0.3.0/24");
        assert!(decode(other.as_bytes()).err().unwrap().contains("checksum"));
        assert!(decode(&written.as_bytes()[..written.len() - 1]).is_err());
    }
}

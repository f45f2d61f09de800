//! Copies of files that are never held: certificates, keys, revocation lists and live lists.
//!
//! Other programs renew them, so that a copy of the configuration may be older than they are. Says
//! what a copy has in place of the file, and whether it is newer. Reads bytes only.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

/// Most names of a certificate, serial numbers or entries in a line.
const MAX_NAMED: usize = 5;

/// One version of a file.
#[derive(Debug, Clone, Copy)]
pub struct DatedBytes<'f> {
    /// Contents of the file.
    pub bytes: &'f [u8],
    /// When they were written. `None` means not known.
    pub modified: Option<SystemTime>,
}

/// How the copy of a file compares with the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedVersion {
    /// Whether the copy is newer. Unknown counts as no.
    pub is_newer: bool,
    /// What the copy has in place of the file.
    pub what: String,
}

/// Compares a copy with the file in place. `chains` are the chains that the copy is to bring along:
/// a key follows its certificate.
pub fn compare(copy: DatedBytes<'_>, file: DatedBytes<'_>, chains: &[&[u8]]) -> CopiedVersion {
    if is_key(copy.bytes) && leaf(copy.bytes).is_none() {
        let key = public_key(copy.bytes);
        let is_newer = key.is_some() && chains.iter().any(|chain| spki(chain) == key);
        return CopiedVersion { is_newer, what: "another private key".into() };
    }
    let (new, old) = (revocations(copy.bytes), revocations(file.bytes));
    if !old.is_empty() || !new.is_empty() {
        return compare_revocations(&new, &old);
    }
    match (leaf(copy.bytes), leaf(file.bytes)) {
        (Some(new), Some(old)) if !new.is_authority && !old.is_authority => CopiedVersion {
            is_newer: new.not_before > old.not_before,
            what: format!("{} instead of {}", new.shown, old.shown),
        },
        // Authorities are edited, not renewed: the time of the edit decides.
        (Some(new), Some(old)) => CopiedVersion {
            is_newer: is_later(copy, file),
            what: format!("{} instead of {}", new.shown, old.shown),
        },
        _ => CopiedVersion { is_newer: is_later(copy, file), what: lines(copy.bytes, file.bytes) },
    }
}

/// Whether the bytes are a private key.
pub fn is_key(bytes: &[u8]) -> bool {
    let marker = b"PRIVATE KEY-----";
    bytes.windows(marker.len()).any(|window| window == marker)
}

fn is_later(copy: DatedBytes<'_>, file: DatedBytes<'_>) -> bool {
    copy.modified.zip(file.modified).is_some_and(|(copy, file)| copy > file)
}

/// The first certificate of a file.
struct Leaf {
    not_before: i64,
    is_authority: bool,
    shown: String,
}

fn blocks<'b>(bytes: &'b [u8], label: &'b str) -> impl Iterator<Item = Vec<u8>> + 'b {
    let all = Pem::iter_from_buffer(bytes).map_while(Result::ok);
    all.filter(move |block| block.label == label).map(|block| block.contents)
}

fn leaf(bytes: &[u8]) -> Option<Leaf> {
    let der = blocks(bytes, "CERTIFICATE").next()?;
    let (_, parsed) = X509Certificate::from_der(&der).ok()?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.iter().filter_map(name).collect());
    let names: Vec<String> = names.unwrap_or_default();
    let names = if names.is_empty() { vec![parsed.subject().to_string()] } else { names };
    let time = |seconds| Timestamp::from_second(seconds).map(|at| at.to_string());
    let validity = parsed.validity();
    let until = time(validity.not_after.timestamp()).unwrap_or_default();
    let from = time(validity.not_before.timestamp()).unwrap_or_default();
    let print = HEXLOWER.encode(&Sha256::digest(&der)[..6]);
    let shown = format!("{}, {from} to {until}, sha256 {print}", listed(&names));
    let not_before = validity.not_before.timestamp();
    Some(Leaf { not_before, is_authority: parsed.is_ca(), shown })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match *bytes {
            [a, b, c, d] => Some(format!("{a}.{b}.{c}.{d}")),
            bytes => <[u8; 16]>::try_from(bytes)
                .ok()
                .map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}

/// The public key of the first certificate in DER.
fn spki(bytes: &[u8]) -> Option<Vec<u8>> {
    let der = blocks(bytes, "CERTIFICATE").next()?;
    let (_, parsed) = X509Certificate::from_der(&der).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

/// The public key of a private key in DER.
fn public_key(bytes: &[u8]) -> Option<Vec<u8>> {
    let key = any_supported_type(&PrivateKeyDer::from_pem_slice(bytes).ok()?).ok()?;
    key.public_key().map(|key| key.to_vec())
}

/// The facts of one revocation list.
struct Revocations {
    issuer: String,
    number: Option<Vec<u8>>,
    this_update: i64,
    serials: BTreeSet<Vec<u8>>,
}

fn revocations(bytes: &[u8]) -> Vec<Revocations> {
    let one = |der: Vec<u8>| {
        let (_, list) = CertificateRevocationList::from_der(&der).ok()?;
        let serials = list.iter_revoked_certificates().map(|one| one.serial().to_bytes_be());
        Some(Revocations {
            issuer: list.issuer().to_string(),
            number: list.crl_number().map(|number| number.to_bytes_be()),
            this_update: list.last_update().timestamp(),
            serials: serials.collect(),
        })
    };
    blocks(bytes, "X509 CRL").filter_map(one).collect()
}

impl Revocations {
    /// Order by number and by `thisUpdate`. `None` means that they contradict each other.
    fn age(&self, other: &Revocations) -> Option<Ordering> {
        let by_number = match (&self.number, &other.number) {
            (Some(own), Some(other)) => own.len().cmp(&other.len()).then_with(|| own.cmp(other)),
            _ => Ordering::Equal,
        };
        let by_time = self.this_update.cmp(&other.this_update);
        match (by_number, by_time) {
            (Ordering::Equal, by) | (by, Ordering::Equal) => Some(by),
            (one, other) => (one == other).then_some(one),
        }
    }

    fn shown(&self) -> String {
        let number = self.number.as_ref().map(|number| HEXLOWER.encode(number));
        let number = number.map_or("without number".into(), |number| format!("number 0x{number}"));
        let time = Timestamp::from_second(self.this_update).map(|at| at.to_string());
        format!("{number} of {}", time.unwrap_or_default())
    }
}

fn compare_revocations(new: &[Revocations], old: &[Revocations]) -> CopiedVersion {
    let (mut is_newer, mut parts) = (true, Vec::new());
    let mut is_any_newer = false;
    for before in old {
        // Of several lists of one issuer the newest.
        let same = new.iter().filter(|one| one.issuer == before.issuer);
        let after = same.max_by_key(|one| one.this_update);
        let age = after.and_then(|after| after.age(before));
        let kept = after.map(|after| &after.serials);
        let dropped =
            before.serials.iter().filter(|serial| !kept.is_some_and(|kept| kept.contains(*serial)));
        let dropped: Vec<_> = dropped.map(|serial| HEXLOWER.encode(serial)).collect();
        is_newer &= age.is_some_and(Ordering::is_ge) && dropped.is_empty();
        is_any_newer |= age.is_some_and(Ordering::is_gt);
        let with = after.map_or("no revocation list".into(), Revocations::shown);
        let gone = match dropped.len() {
            0 => String::new(),
            _ => format!("; no longer revoked: {}", listed(&dropped)),
        };
        parts.push(format!("{with} instead of {} ({}){gone}", before.shown(), before.issuer));
    }
    if old.is_empty() {
        parts.extend(new.iter().map(|one| format!("{} ({})", one.shown(), one.issuer)));
    }
    CopiedVersion { is_newer: is_newer && (is_any_newer || old.is_empty()), what: parts.join("; ") }
}

/// The lines of a list that only one of the versions has.
fn lines(copy: &[u8], file: &[u8]) -> String {
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let (Some(copy), Some(file)) = (text(copy), text(file)) else {
        return "other contents".into();
    };
    let entries = |text: &str| {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        lines.filter(|line| !line.is_empty()).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let (new, old) = (entries(copy), entries(file));
    let signed = |sign: char, from: &BTreeSet<String>, other: &BTreeSet<String>| {
        from.difference(other).map(|line| format!("{sign}{line}")).collect::<Vec<_>>()
    };
    let (added, gone) = (signed('+', &new, &old), signed('-', &old, &new));
    let counts = format!("+{} -{} entries", added.len(), gone.len());
    // Removed lines first: an old copy lacks them.
    let all: Vec<_> = gone.into_iter().chain(added).collect();
    if all.is_empty() { counts } else { format!("{counts}: {}", listed(&all)) }
}

/// The first names, and how many more there are.
fn listed(names: &[String]) -> String {
    let (first, more) = names.split_at(names.len().min(MAX_NAMED));
    match more.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
    };

    /// Compares the second version with the first, of which the second is older by its time.
    fn check(file: &str, copy: &str, is_newer: bool, what: &str) {
        let early = Some(SystemTime::UNIX_EPOCH);
        let late = early.map(|at| at + Duration::from_secs(1));
        let copy = DatedBytes { bytes: copy.as_bytes(), modified: early };
        let file = DatedBytes { bytes: file.as_bytes(), modified: late };
        let found = compare(copy, file, &[]);
        assert_eq!(found.is_newer, is_newer, "{}", found.what);
        assert!(found.what.contains(what), "{}", found.what);
    }

    fn crl(authority: &Issuer<'_, KeyPair>, number: u64, serials: &[u64]) -> String {
        let time = date_time_ymd(2026, 1, number as u8);
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: time,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: time,
            next_update: date_time_ymd(2027, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(authority).unwrap().pem().unwrap()
    }

    #[test]
    fn revocation_list_is_newer_if_it_revokes_all_that_was() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = Issuer::new(params, KeyPair::generate().unwrap());
        let now = crl(&authority, 2, &[7, 9]);
        check(&now, &crl(&authority, 1, &[7]), false, "no longer revoked: 09");
        check(&now, &crl(&authority, 1, &[7, 9]), false, "number 0x01");
        check(&now, &crl(&authority, 3, &[7]), false, "no longer revoked: 09");
        check(&now, &crl(&authority, 3, &[7, 9, 11]), true, "0x03 of 2026-01-03");
        check(&now, "# nothing\n", false, "no revocation list instead of");
    }

    #[test]
    fn certificate_is_newer_if_it_is_valid_from_later_and_its_key_follows() {
        let pair = |day| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["ws.example.com".into()]).unwrap();
            params.not_before = date_time_ymd(2026, 1, day);
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let (old, old_key) = pair(1);
        let (new, new_key) = pair(2);
        check(&new, &old, false, "ws.example.com, 2026-01-01T00:00:00Z");
        check(&old, &new, true, "instead of ws.example.com, 2026-01-01");
        check(&new_key, &old_key, false, "another private key");
        let key = |key: &str, chains: &[&[u8]]| {
            let version = DatedBytes { bytes: key.as_bytes(), modified: Some(SystemTime::now()) };
            compare(version, version, chains).is_newer
        };
        assert!(key(&new_key, &[old.as_bytes(), new.as_bytes()]));
        assert!(!key(&new_key, &[old.as_bytes()]) && !key("PRIVATE KEY-----", &[new.as_bytes()]));
    }

    #[test]
    fn list_is_newer_by_its_time_and_its_entries_are_named() {
        let what = "+1 -1 entries: -203.0.113.2, +203.0.113.3";
        check("203.0.113.1 # a\n203.0.113.2\n", "203.0.113.1\n203.0.113.3\n", false, what);
        let now = Some(SystemTime::now());
        let newer = DatedBytes { bytes: b"a", modified: now };
        let older = DatedBytes { bytes: b"b", modified: Some(SystemTime::UNIX_EPOCH) };
        assert!(compare(newer, older, &[]).is_newer && !compare(newer, newer, &[]).is_newer);
        let unknown = DatedBytes { modified: None, ..newer };
        assert!(!compare(unknown, older, &[]).is_newer);
    }
}

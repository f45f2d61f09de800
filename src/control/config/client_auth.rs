//! The files of a listener's `client_certificates`: authorities, revocation lists, revoked serials.
//!
//! What the libraries say about a file is a finding at its key, a panic of theirs included: the
//! reload is rejected then, and the former generation stays.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::CertificateRevocationListDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::certificate;
use super::crl::{self, CrlFacts, CrlSigner, facts};
use super::diagnostic::Diagnostic;
use super::document::TomlValue;
use super::encoding;
use super::load_context::{LoadContext, about};
use super::source::MAX_LIST_BYTES;
use super::source_text::{Finding, SourceText, error, warning};
use crate::policy::list::{EntryError, RevokedSerials, SerialEntry};
use crate::snapshot::client_auth::{ClientAuthError, fenced};
use crate::snapshot::client_certificate::key_pin;
use crate::snapshot::listener::CrlDue;

/// Most errors in a file of serial numbers that are shown.
const MAX_ERRORS: usize = 20;

/// Most bytes in a line of serial numbers.
const MAX_LINE_BYTES: usize = 4 << 10;

/// The effect of a revocation list after its `nextUpdate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiredCrl {
    /// The list is an error of `check`, and refuses new connections of its authority's clients.
    Reject,
    /// The list is used as it is, with a warning.
    Warn,
}

/// A revocation list, in DER.
pub struct RevocationList {
    pub der: CertificateRevocationListDer<'static>,
    /// Expiry of the list. `None` means that it has no `nextUpdate`.
    pub due: Option<CrlDue>,
}

/// A list that was read, and its place.
struct FoundList<'v> {
    value: TomlValue<'v>,
    file: &'v str,
    /// Number of the list in its file, from 1.
    number: usize,
    der: CertificateRevocationListDer<'static>,
    facts: CrlFacts,
    signer: CrlSigner,
}

/// Reads the authorities that sign client certificates. `None` means that an error was reported.
pub fn authorities(load: &mut LoadContext<'_>, value: TomlValue<'_>) -> Option<Arc<RootCertStore>> {
    let name = value.string()?;
    let certificates = certificate::sections(load, name, "clients");
    let certificates = certificates.map_err(|finding| value.report(finding)).ok()?;
    let mut roots = RootCertStore::empty();
    for (number, certificate) in (1..).zip(certificates) {
        let (mut expiry, mut finding) = (None, None);
        if let Ok((_, parsed)) = X509Certificate::from_der(&certificate) {
            let not_after = parsed.validity().not_after.timestamp();
            expiry = Timestamp::from_second(not_after).ok();
            finding = no_authority(&parsed, number, name);
        }
        finding.into_iter().for_each(|finding| value.report(finding));
        if let Err(fault) = fenced(|| roots.add(certificate).map_err(|error| error.to_string())) {
            let what = format!("certificate {number} in {name} is no authority: {fault}");
            value.report(error(what));
            return None;
        }
        // webpki does not look at the validity of an authority.
        if let Some(expiry) = expiry.filter(|expiry| *expiry < load.now) {
            let what = format!("authority {number} in {name} expired at {expiry}");
            value.report(
                warning(what).with_remedy("it is trusted all the same; remove or renew it"),
            );
        }
    }
    Some(Arc::new(roots))
}

/// The finding about a certificate that is no authority's. webpki takes every certificate as one.
fn no_authority(certificate: &X509Certificate<'_>, number: usize, name: &str) -> Option<Finding> {
    // Certificates before version 3 cannot say so.
    if certificate.version() != X509Version::V3 || certificate.is_ca() {
        return None;
    }
    let what = format!("certificate {number} in {name} is no authority's (CA:FALSE)");
    Some(if certificate.subject() == certificate.issuer() {
        warning(what).with_remedy("only a client with this very certificate is accepted")
    } else {
        error(what).with_remedy("the certificate of the authority that signs those of clients")
    })
}

/// Reads the revocation lists in the files that `values` name, of the authorities `roots`. `None`
/// means that an error was reported.
pub fn revocation_lists(
    load: &mut LoadContext<'_>,
    values: &[TomlValue<'_>],
    roots: &RootCertStore,
    expired: ExpiredCrl,
) -> Option<Vec<RevocationList>> {
    revocation_lists_by(load, values, roots, expired, &facts)
}

/// As [`revocation_lists`], with another parser.
pub fn revocation_lists_by(
    load: &mut LoadContext<'_>,
    values: &[TomlValue<'_>],
    roots: &RootCertStore,
    expired: ExpiredCrl,
    parse: &dyn Fn(&[u8]) -> Result<CrlFacts, String>,
) -> Option<Vec<RevocationList>> {
    let (mut all, mut is_sound) = (Vec::new(), true);
    for value in values {
        match lists_of_file(load, value, roots, parse) {
            Some(lists) => all.extend(lists),
            None => is_sound = false,
        }
    }
    if !is_sound {
        return None;
    }
    let lists = without_replaced(all);
    for list in &lists {
        let FoundList { value, facts, file, .. } = list;
        if let Some(finding) = expiry(facts, file, expired, load) {
            is_sound &= expired == ExpiredCrl::Warn || !load.rejects_expired_crls;
            value.report(finding);
        }
        let begins_later = facts.this_update.filter(|at| *at > load.now);
        if let Some(at) = begins_later {
            let what = format!("the revocation list of {} in {file} is dated {at}", facts.shown);
            value.report(warning(what).with_remedy("is the clock of this host right?"));
        }
    }
    if !is_sound {
        return None;
    }
    let has_list = |subject: &[u8]| lists.iter().any(|list| *list.facts.issuer == *subject);
    let lacking = roots.roots.iter().position(|root| !has_list(&root.subject));
    if let (Some(index), Some(value)) = (lacking, values.first()) {
        let number = index + 1;
        let what = format!("authority {number} of `ca` has no revocation list");
        value.report(warning(what).with_remedy("its clients are refused: add its list"));
    }
    let due = |list: FoundList<'_>| {
        let FoundList { der, file, facts, .. } = list;
        let (issuer, file) = (facts.shown.into(), file.into());
        RevocationList { der, due: facts.next_update.map(|at| CrlDue { issuer, file, at }) }
    };
    Some(lists.into_iter().map(due).collect())
}

/// Reads the lists of the file that `value` names. `None` means that an error was reported.
fn lists_of_file<'v>(
    load: &mut LoadContext<'_>,
    value: &'v TomlValue<'v>,
    roots: &RootCertStore,
    parse: &dyn Fn(&[u8]) -> Result<CrlFacts, String>,
) -> Option<Vec<FoundList<'v>>> {
    let file = value.string()?;
    let lists = certificate::revocation_lists(load, file);
    let lists = lists.map_err(|finding| value.report(finding)).ok()?;
    let (mut found, mut is_sound) = (Vec::new(), true);
    for (number, der) in (1..).zip(lists) {
        let read = fenced(|| {
            let facts = parse(&der)?;
            let signer = crl::signer(&der, &facts.issuer, roots);
            Ok((facts, signer))
        });
        match read {
            Ok((facts, Some(signer))) => {
                found.push(FoundList { value: *value, file, number, der, facts, signer });
            }
            Ok((facts, None)) => {
                value.report(signed_by_another(&facts, file, number));
                is_sound = false;
            }
            Err(fault) => {
                value.report(unreadable(file, number, &fault));
                is_sound = false;
            }
        }
    }
    is_sound.then_some(found)
}

/// The lists without copies and without lists that newer ones replace. Each replaced list is
/// reported.
fn without_replaced(all: Vec<FoundList<'_>>) -> Vec<FoundList<'_>> {
    let is_newer = |one: &FoundList<'_>, other: &FoundList<'_>| {
        one.facts.replaces(one.signer, &other.facts, other.signer)
    };
    let mut kept = Vec::new();
    for (index, list) in all.iter().enumerate() {
        let is_copy = all[..index].iter().any(|before| before.der == list.der);
        let mut newer = all.iter().filter(|other| is_newer(other, list));
        // The newest of all, since the warning says which list counts.
        let first = newer.next();
        let newest = first.map(|first| {
            newer.fold(first, |best, other| if is_newer(other, best) { other } else { best })
        });
        if let Some(newest) = newest.filter(|_| !is_copy) {
            list.value.report(replaced(list, newest));
        }
        kept.push(!is_copy && newest.is_none());
    }
    all.into_iter().zip(kept).filter_map(|(list, is_kept)| is_kept.then_some(list)).collect()
}

fn replaced(list: &FoundList<'_>, newest: &FoundList<'_>) -> Finding {
    let place = |list: &FoundList<'_>| format!("list {} in {}", list.number, list.file);
    let (old, new) = (place(list), place(newest));
    let what = format!("{old} is older than {new}, of the same authority ({})", list.facts.shown);
    warning(what).with_remedy(format!("only {new} counts: remove the older one"))
}

fn signed_by_another(facts: &CrlFacts, name: &str, number: usize) -> Finding {
    let what = format!(
        "revocation list {number} in {name} is not signed by the authority of its name in `ca` \
         ({})",
        facts.shown
    );
    error(what).with_remedy(
        "fetch the list of the authority in `ca`, or add the certificate of the key that signs it",
    )
}

/// The finding about a list that has expired. An agent publishes in spite of it: its clients fail
/// at their TLS handshakes, and everything else takes effect.
fn expiry(
    facts: &CrlFacts,
    name: &str,
    expired: ExpiredCrl,
    load: &LoadContext<'_>,
) -> Option<Finding> {
    let due = facts.next_update.filter(|due| *due < load.now)?;
    let what = format!("the revocation list of {} in {name} expired at {due}", facts.shown);
    Some(match expired {
        ExpiredCrl::Reject if load.rejects_expired_crls => error(what)
            .with_remedy("fetch the authority's newest list; on_expired = \"warn\" uses this one"),
        ExpiredCrl::Reject => warning(format!("{what}: new TLS handshakes of its clients fail"))
            .with_remedy("fetch the authority's newest list; on_expired = \"warn\" uses this one"),
        ExpiredCrl::Warn => warning(what)
            .with_remedy("fetch the authority's newest list; until then this one is used"),
    })
}

fn unreadable(name: &str, number: usize, fault: &ClientAuthError) -> Finding {
    error(format!("revocation list {number} in {name} cannot be read: {fault}"))
        .with_remedy(format!("was it cut short? See openssl crl -noout -text -in {name}"))
}

/// Reads the file of revoked serial numbers that `value` names, with the findings in that file.
/// Lines without an issuer need `roots` to have one authority. `None` means that an error was
/// reported.
pub fn revoked_serials(
    load: &mut LoadContext<'_>,
    value: TomlValue<'_>,
    roots: &RootCertStore,
) -> (Option<Arc<RevokedSerials>>, Vec<Diagnostic>) {
    let Some(name) = value.string() else { return (None, Vec::new()) };
    let read = load.path(name).and_then(|path| {
        let bytes = load.files.read_open(&path, MAX_LIST_BYTES, false);
        let bytes = bytes.map_err(|fault| about(name, &fault))?;
        Ok((path, bytes))
    });
    let (path, bytes) = match read {
        Ok(read) => read,
        Err(finding) => {
            value.report(finding);
            return (None, Vec::new());
        }
    };
    let (text, fault) = encoding::text(&bytes);
    let file = Arc::from(path.display().to_string());
    let source_text =
        SourceText::new(file, text, load.files.disclosure(&path).for_list(), MAX_ERRORS);
    if let Some(fault) = fault {
        source_text.report(text.len()..text.len(), fault);
        return (None, source_text.into_diagnostics());
    }
    let entries = serials(&source_text, roots.len() == 1);
    if source_text.errors() > 0 {
        return (None, source_text.into_diagnostics());
    }
    let lapsed = entries.iter().filter(|entry| entry.lapsed(load.now)).count();
    if lapsed > 0 {
        let what = match lapsed {
            1 => format!("a serial number in {name} has lapsed"),
            several => format!("{several} serial numbers in {name} have lapsed"),
        };
        value.report(warning(what).with_remedy("a lapsed line is as if absent: remove it"));
    }
    report_unknown_issuers(&entries, value, name, roots);
    (Some(Arc::new(RevokedSerials::new(entries))), source_text.into_diagnostics())
}

/// Warns of entries whose issuer is no authority of `ca`: a wrong digest revokes nothing.
fn report_unknown_issuers(
    entries: &[SerialEntry],
    value: TomlValue<'_>,
    name: &str,
    roots: &RootCertStore,
) {
    let known: Vec<_> =
        roots.roots.iter().map(|root| key_pin(&webpki::spki_for_anchor(root))).collect();
    let is_unknown =
        |entry: &&SerialEntry| entry.issuer.as_ref().is_some_and(|issuer| !known.contains(issuer));
    let mut unknown = entries.iter().filter(is_unknown);
    let Some(first) = unknown.next() else { return };
    let what = match unknown.count() {
        0 => format!("the issuer of {first} in {name} is no authority of `ca`"),
        more => format!("the issuers of {} lines in {name} are no authorities of `ca`", more + 1),
    };
    value.report(warning(what).with_remedy(
        "such a line only revokes what an authority between `ca` and the clients has signed: is \
         ISSUER the SHA-256 of the right key?",
    ));
}

/// Every entry of a file; faults are reported.
fn serials(source_text: &SourceText<'_>, is_sole: bool) -> Vec<SerialEntry> {
    let (mut all, mut start) = (Vec::new(), 0);
    for line in source_text.text().split_inclusive('\n') {
        // As in lists: an editor puts a byte order mark first, and joined files have them inside.
        let bare = line.trim_start_matches('\u{feff}');
        let at = start + line.len() - bare.len();
        start += line.len();
        if bare.len() > MAX_LINE_BYTES {
            let finding = error(format!("a line of more than {} KiB", MAX_LINE_BYTES >> 10));
            source_text.report(at..at, finding.with_remedy("write one serial number on each line"));
            continue;
        }
        match SerialEntry::parse(bare, is_sole) {
            Ok(entry) => all.extend(entry),
            Err(EntryError { span, fault, remedy }) => {
                let finding = error(fault).with_remedy(remedy);
                source_text.report(at + span.start..at + span.end, finding);
            }
        }
    }
    all
}

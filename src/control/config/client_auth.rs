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
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Version;

use super::certificate;
use super::diagnostic::Diagnostic;
use super::document::TomlValue;
use super::encoding;
use super::load_context::{LoadContext, about};
use super::source::MAX_LIST_BYTES;
use super::source_text::{Finding, SourceText, error, warning};
use crate::policy::list::{EntryError, RevokedSerials, SerialEntry};
use crate::snapshot::client_auth::{ClientAuthError, fenced};
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

/// Facts of a revocation list.
pub struct CrlFacts {
    /// The issuer's name in DER, without its outer tag and length.
    issuer: Box<[u8]>,
    /// The issuer's name for people.
    shown: String,
    /// The list's `nextUpdate`. `None` means that it has none.
    next_update: Option<Timestamp>,
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
    let (mut all, mut issuers, mut is_sound) = (Vec::new(), Vec::new(), true);
    for value in values {
        let Some(name) = value.string() else {
            is_sound = false;
            continue;
        };
        let lists = match certificate::revocation_lists(load, name) {
            Ok(lists) => lists,
            Err(finding) => {
                value.report(finding);
                is_sound = false;
                continue;
            }
        };
        for (number, list) in (1..).zip(lists) {
            match fenced(|| parse(&list)) {
                Ok(facts) => {
                    if let Some(finding) = expiry(&facts, name, expired, load) {
                        is_sound &= expired == ExpiredCrl::Warn || !load.rejects_expired_crls;
                        value.report(finding);
                    }
                    let due = facts.next_update.map(|at| CrlDue {
                        issuer: facts.shown.into(),
                        file: name.into(),
                        at,
                    });
                    issuers.push(facts.issuer);
                    all.push(RevocationList { der: list, due });
                }
                Err(fault) => {
                    value.report(unreadable(name, number, &fault));
                    is_sound = false;
                }
            }
        }
    }
    if !is_sound {
        return None;
    }
    let has_list = |subject: &[u8]| issuers.iter().any(|issuer| **issuer == *subject);
    let lacking = roots.roots.iter().position(|root| !has_list(&root.subject));
    if let (Some(index), Some(value)) = (lacking, values.first()) {
        let number = index + 1;
        let what = format!("authority {number} of `ca` has no revocation list");
        value.report(warning(what).with_remedy("its clients are refused: add its list"));
    }
    Some(all)
}

/// Reads a revocation list, in the ways of webpki, which checks clients, and of x509-parser.
fn facts(der: &[u8]) -> Result<CrlFacts, String> {
    let list = webpki::OwnedCertRevocationList::from_der(der).map_err(|error| error.to_string())?;
    let issuer = webpki::CertRevocationList::from(list).issuer().into();
    let (_, list) = CertificateRevocationList::from_der(der).map_err(|error| error.to_string())?;
    let next_update = list.next_update();
    Ok(CrlFacts {
        issuer,
        shown: list.issuer().to_string(),
        next_update: next_update.and_then(|time| Timestamp::from_second(time.timestamp()).ok()),
    })
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
        let bytes = load.files.read(&path, MAX_LIST_BYTES).map_err(|fault| about(name, &fault))?;
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
    (Some(Arc::new(RevokedSerials::new(entries))), source_text.into_diagnostics())
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

//! Why a connection to a server failed, in plain words: the libraries' words on TLS are for
//! programmers.
//!
//! The words are for people; nothing is decided by them.

use std::error::Error;
use std::io;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerMisbehaved};

/// The most names of a certificate that a message lists.
const MAX_NAMES: usize = 3;

/// Describes the TLS fault that `error` comes from, if any; else `error` itself and its deepest
/// cause.
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    loop {
        if let Some(fault) = deepest.downcast_ref() {
            return tls(fault);
        }
        let Some(beneath) = source_of(deepest) else { break };
        deepest = beneath;
    }
    let (above, beneath) = (error.to_string(), deepest.to_string());
    if above == beneath { above } else { format!("{above}: {beneath}") }
}

/// Why a dial failed. Only in its TLS handshake can a connection that was made end early.
pub fn describe_dial(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the connection in the TLS handshake".into(),
        _ => describe(error),
    }
}

/// The cause of `error`. `io::Error::source` skips the error which the I/O error carries.
fn source_of<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(carried) => Some(carried),
        None => error.source(),
    }
}

fn tls(fault: &rustls::Error) -> String {
    match fault {
        rustls::Error::InvalidCertificate(fault) => certificate(fault),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS".into()
        }
        rustls::Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
            "it chose a protocol that was not offered: only http/1.1 is".into()
        }
        rustls::Error::PeerIncompatible(why) => {
            format!("it supports no TLS version or cipher suite that Sidegate supports: {why:?}")
        }
        rustls::Error::AlertReceived(alert) => describe_alert(*alert),
        other => format!("TLS failed: {other}"),
    }
}

fn certificate(fault: &CertificateError) -> String {
    match fault {
        CertificateError::Expired => "its certificate has expired".into(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate expired at {}", time(not_after))
        }
        CertificateError::NotValidYet => "its certificate is not valid yet".into(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate is not valid before {}", time(not_before))
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("its certificate is for {}, not for {}", names(presented), expected.to_str())
        }
        CertificateError::UnknownIssuer => "its certificate is not signed by a trusted CA".into(),
        other => format!("its certificate is not valid: {other}"),
    }
}

/// What an alert of the backend's means (RFC 8446 §6.2).
fn describe_alert(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => {
            "it requires a client certificate, and none is configured".into()
        }
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => format!("it rejected the client certificate: {alert:?}"),
        Alert::NoApplicationProtocol => {
            "it does not support http/1.1, the only protocol offered".into()
        }
        Alert::UnrecognisedName => "it has no certificate for the requested name".into(),
        other => format!("it closed the TLS connection with an alert: {other:?}"),
    }
}

fn time(at: &UnixTime) -> String {
    let at = i64::try_from(at.as_secs()).ok().and_then(|at| Timestamp::from_second(at).ok());
    at.unwrap_or(Timestamp::MAX).to_string()
}

/// A certificate's names as webpki prints them: `DnsName("app.internal")`, `IpAddress(127.0.0.1)`.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "no name at all".into();
    }
    let bare =
        |name: &String| match name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')) {
            Some(within) => within.trim_matches('"').to_owned(),
            None => name.clone(),
        };
    let mut told = presented.iter().take(MAX_NAMES).map(bare).collect::<Vec<_>>().join(", ");
    if presented.len() > MAX_NAMES {
        told += &format!(" and {} more", presented.len() - MAX_NAMES);
    }
    told
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::*;

    #[track_caller]
    fn check(fault: rustls::Error, words: &str) {
        // As it comes: an I/O error beneath others.
        let carried = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, fault));
        assert_eq!(describe(&carried), words);
    }

    #[test]
    fn tls_error_is_described_at_any_depth_of_sources() {
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let expired = CertificateError::ExpiredContext {
            time: at(1_800_000_000),
            not_after: at(1_700_000_000),
        };
        check(expired.into(), "its certificate expired at 2023-11-14T22:13:20Z");
        let early =
            CertificateError::NotValidYetContext { time: at(0), not_before: at(1_700_000_000) };
        check(early.into(), "its certificate is not valid before 2023-11-14T22:13:20Z");
        check(
            rustls::Error::AlertReceived(AlertDescription::UnknownCA),
            "it rejected the client certificate: UnknownCA",
        );
        check(
            rustls::Error::AlertReceived(AlertDescription::HandshakeFailure),
            "it closed the TLS connection with an alert: HandshakeFailure",
        );
    }

    #[test]
    fn certificate_names_are_listed_up_to_a_bound() {
        let check_names = |presented: &[&str], words: &str| {
            let presented = presented.iter().map(ToString::to_string).collect();
            let expected = ServerName::try_from("app.internal").unwrap();
            check(CertificateError::NotValidForNameContext { expected, presented }.into(), words);
        };
        check_names(&[], "its certificate is for no name at all, not for app.internal");
        check_names(
            &[
                "DnsName(\"a\")",
                "IpAddress(127.0.0.1)",
                "DirectoryName",
                "DnsName(\"b\")",
                "DnsName(\"c\")",
            ],
            "its certificate is for a, 127.0.0.1, DirectoryName and 2 more, not for app.internal",
        );
    }

    #[test]
    fn other_errors_keep_their_text() {
        assert_eq!(describe(&io::Error::other("refused")), "refused");
        let carried = io::Error::other(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(describe(&carried), "broken pipe");
    }
}

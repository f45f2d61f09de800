//! ClientHellos whose server name is not a DNS name, such as `host:443` or `[::1]`.
//!
//! rustls refuses them, OpenSSL and Go serve them, and clients that take the name from a Host field
//! send them. Until rustls can ignore such a name (`InvalidSniPolicy`, in 0.24: rustls#2403), it is
//! hidden: the extension gets a type that rustls skips, so that the client appears to send no name.
//! The transcript has to hold the bytes that the client sent (RFC 8446 §4.4.1), so the hash
//! restores the type. Nothing else of the handshake is touched. A ClientHello may span several
//! records, and a second one may follow a HelloRetryRequest: it is hidden like the first.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};
use rustls::pki_types::ServerName;
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite};

/// Length of a record's header: type, version, length.
const RECORD_HEADER_BYTES: usize = 5;
const HANDSHAKE_TYPE: u8 = 0x16;
const CLIENT_HELLO_TYPE: u8 = 1;

/// The longest record that may hold a ClientHello (RFC 8446 §5.1).
const MAX_RECORD_BYTES: usize = 1 << 14;

/// The longest ClientHello that is examined.
const MAX_MESSAGE_BYTES: usize = 1 << 14;

/// The record that a client may send before its second ClientHello (RFC 8446 §D.4).
const CHANGE_CIPHER_SPEC: [u8; 6] = [0x14, 3, 3, 0, 1, 1];

/// The extension `server_name` (RFC 6066 §3), and the type that hides it, from the range for
/// private use.
const SERVER_NAME_TYPE: [u8; 2] = [0, 0];
const HIDDEN_NAME_TYPE: [u8; 2] = [0xff, 0x53];

/// The start of the bytes that a client has sent.
#[derive(Debug, PartialEq, Eq)]
enum HelloState {
    /// Part of a ClientHello; more bytes are needed.
    Partial,
    /// A complete ClientHello, with the ranges of its bytes, record by record.
    Whole(Vec<Range<usize>>),
    /// Anything else, which rustls handles.
    Other,
}

/// Whether `said` is part of a ClientHello, of which the rest is still to come.
pub fn is_partial(said: &[u8]) -> bool {
    framing(said) == HelloState::Partial
}

/// Hides the server name of the ClientHello at the start of `said`, if rustls would refuse it.
/// Returns whether it did: then the TLS handshake needs [`provider`].
pub fn hide_name(said: &mut [u8]) -> bool {
    let HelloState::Whole(pieces) = framing(said) else { return false };
    if let [whole] = &pieces[..] {
        return hide(&mut said[whole.clone()]);
    }
    // The message spans several records. It is changed without their headers, and then put back.
    let mut message = gathered(said, &pieces);
    if !hide(&mut message) {
        return false;
    }
    let mut rest = &message[..];
    for piece in pieces {
        let (own, others) = rest.split_at(piece.len());
        said[piece].copy_from_slice(own);
        rest = others;
    }
    true
}

/// Returns the part of `said` that may begin with a second ClientHello.
pub fn second_hello(said: &mut [u8]) -> &mut [u8] {
    let at = if said.starts_with(&CHANGE_CIPHER_SPEC) { CHANGE_CIPHER_SPEC.len() } else { 0 };
    &mut said[at..]
}

/// Hides the server name in a ClientHello without record headers.
fn hide(message: &mut [u8]) -> bool {
    let Some(extension) = extension(message, SERVER_NAME_TYPE) else { return false };
    let name = name(&message[extension.clone()]);
    // A malformed extension is left as it is, for rustls to refuse.
    if name.is_none_or(|name| ServerName::try_from(name).is_ok()) {
        return false;
    }
    // Both types have two bytes, so no length field has to change.
    message[extension.clone()][..2].copy_from_slice(&HIDDEN_NAME_TYPE);
    if self::extension(message, SERVER_NAME_TYPE).is_some() {
        // A duplicate extension is an error (RFC 8446 §4.2), which rustls reports.
        message[extension][..2].copy_from_slice(&SERVER_NAME_TYPE);
        return false;
    }
    true
}

/// Classifies the start of `said`.
fn framing(said: &[u8]) -> HelloState {
    let mut pieces: Vec<Range<usize>> = Vec::new();
    let (mut at, mut length) = (0, 0);
    loop {
        let rest = &said[at..];
        let Some(record) = record_length(rest) else {
            // Fewer bytes than a header: more are awaited only if they begin like a handshake
            // record.
            let may_be_one = rest.len() < RECORD_HEADER_BYTES
                && [HANDSHAKE_TYPE, 3].starts_with(&rest[..rest.len().min(2)]);
            return if may_be_one { HelloState::Partial } else { HelloState::Other };
        };
        // Only the first record shows the type of the message; later ones continue it.
        let is_hello = !pieces.is_empty()
            || rest.get(RECORD_HEADER_BYTES).is_none_or(|kind| *kind == CLIENT_HELLO_TYPE);
        // A handshake record may not be empty (RFC 8446 §5.1).
        if !is_hello || !(1..=MAX_RECORD_BYTES).contains(&record) {
            return HelloState::Other;
        }
        if rest.len() < RECORD_HEADER_BYTES + record {
            return HelloState::Partial;
        }
        pieces.push(at + RECORD_HEADER_BYTES..at + RECORD_HEADER_BYTES + record);
        (at, length) = (at + RECORD_HEADER_BYTES + record, length + record);
        match stated_length(said, &pieces) {
            Some(stated) if stated > MAX_MESSAGE_BYTES => return HelloState::Other,
            Some(stated) if stated <= length => return HelloState::Whole(pieces),
            _ => {}
        }
    }
}

/// The message length, header included, as stated by the header in `pieces` of `said`.
fn stated_length(said: &[u8], pieces: &[Range<usize>]) -> Option<usize> {
    let mut header =
        pieces.iter().flat_map(|piece| &said[piece.clone()]).map(|byte| usize::from(*byte));
    let (_kind, high, middle, low) =
        (header.next()?, header.next()?, header.next()?, header.next()?);
    Some(4 + (high << 16 | middle << 8 | low))
}

/// Copies the bytes of `pieces` of `said`.
fn gathered(said: &[u8], pieces: &[Range<usize>]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| &said[piece.clone()]).copied().collect()
}

/// The length stated by a handshake record's header. `None` means that `said` begins with no such
/// header.
fn record_length(said: &[u8]) -> Option<usize> {
    match said {
        // The second byte of the version means nothing and must be ignored (RFC 8446 §5.1).
        [HANDSHAKE_TYPE, 3, _, high, low, ..] => {
            Some(usize::from(u16::from_be_bytes([*high, *low])))
        }
        _ => None,
    }
}

/// The range of the extension of this type in a ClientHello, its header included. `None` means that
/// there is none, or that `message` is not a complete ClientHello.
fn extension(message: &[u8], wanted: [u8; 2]) -> Option<Range<usize>> {
    if *message.first()? != CLIENT_HELLO_TYPE {
        return None;
    }
    // Message header, legacy version, random bytes; then session id, cipher suites, compression
    // methods.
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(*message.get(at)?);
    at += 2 + number(message, at)?;
    at += 1 + usize::from(*message.get(at)?);
    let end = at + 2 + number(message, at)?;
    at += 2;
    while at < end {
        let next = at + 4 + number(message, at + 2)?;
        if message.get(at..next)?.starts_with(&wanted) {
            return Some(at..next);
        }
        at = next;
    }
    None
}

/// The name in the extension `server_name`: a list of exactly one name, of the type `host_name`.
fn name(extension: &[u8]) -> Option<&[u8]> {
    // Type and length of the extension (4 bytes), length of the list (2), type of the name (1);
    // then the length of the name (2).
    let length = number(extension, 7)?;
    let name = extension.get(9..)?;
    (extension.get(6) == Some(&0) && name.len() == length).then_some(name)
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 2)?;
    Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
}

/// The crypto provider for TLS handshakes with a hidden name: its hashes cover the name as sent.
pub fn provider() -> Arc<CryptoProvider> {
    let usual = rustls::crypto::aws_lc_rs::default_provider();
    Arc::new(CryptoProvider { cipher_suites: SUITES.clone(), ..usual })
}

/// rustls requires cipher suites with a `'static` lifetime; these are leaked once.
static SUITES: LazyLock<Vec<SupportedCipherSuite>> = LazyLock::new(|| {
    let suites = rustls::crypto::aws_lc_rs::default_provider().cipher_suites;
    suites.into_iter().map(restoring_suite).collect()
});

fn restoring_suite(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    match suite {
        SupportedCipherSuite::Tls13(suite) => {
            let suite = Tls13CipherSuite {
                common: restoring_hash(&suite.common),
                hkdf_provider: suite.hkdf_provider,
                aead_alg: suite.aead_alg,
                quic: None,
            };
            SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
        }
        SupportedCipherSuite::Tls12(suite) => {
            let suite = Tls12CipherSuite {
                common: restoring_hash(&suite.common),
                prf_provider: suite.prf_provider,
                kx: suite.kx,
                sign: suite.sign,
                aead_alg: suite.aead_alg,
            };
            SupportedCipherSuite::Tls12(Box::leak(Box::new(suite)))
        }
    }
}

fn restoring_hash(common: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: common.suite,
        hash_provider: Box::leak(Box::new(RestoringHash(common.hash_provider))),
        confidentiality_limit: common.confidentiality_limit,
    }
}

/// A hash that restores the type of a hidden name in a ClientHello.
struct RestoringHash(&'static dyn Hash);

impl Hash for RestoringHash {
    fn start(&self) -> Box<dyn Context> {
        Box::new(RestoringTranscript(self.0.start()))
    }

    fn hash(&self, data: &[u8]) -> Output {
        self.0.hash(data)
    }

    fn output_len(&self) -> usize {
        self.0.output_len()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.0.algorithm()
    }
}

struct RestoringTranscript(Box<dyn Context>);

impl Context for RestoringTranscript {
    fn fork_finish(&self) -> Output {
        self.0.fork_finish()
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(RestoringTranscript(self.0.fork()))
    }

    fn finish(self: Box<Self>) -> Output {
        self.0.finish()
    }

    fn update(&mut self, data: &[u8]) {
        // rustls passes one message at a time, and only a ClientHello has such an extension.
        match extension(data, HIDDEN_NAME_TYPE) {
            Some(hidden) => {
                let mut sent = data.to_vec();
                sent[hidden][..2].copy_from_slice(&SERVER_NAME_TYPE);
                self.0.update(&sent);
            }
            None => self.0.update(data),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// A record with a ClientHello that has this server name, between two other extensions.
    fn hello(name: &[u8]) -> Vec<u8> {
        hello_of(&[name])
    }

    /// The same with an extension for each name.
    fn hello_of(names: &[&[u8]]) -> Vec<u8> {
        let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        let names = names
            .iter()
            .map(|name| [&[0, 0][..], &sized(&sized(&[&[0][..], &sized(name)].concat()))].concat());
        let names = names.collect::<Vec<_>>().concat();
        let extensions = [&[0, 43, 0, 1, 9][..], &names, &[0, 10, 0, 0]].concat();
        let body =
            [&[3, 3][..], &[7; 32], &[1, 5], &[0, 2, 19, 1], &[1, 0], &sized(&extensions)].concat();
        let message = [&[CLIENT_HELLO_TYPE, 0][..], &sized(&body)].concat();
        [&[HANDSHAKE_TYPE, 3, 1][..], &sized(&message)].concat()
    }

    #[track_caller]
    fn check(name: &str, hidden: bool) {
        let sent = hello(name.as_bytes());
        let mut said = sent.clone();
        assert_eq!(hide_name(&mut said), hidden, "{name:?}");
        assert_eq!(said != sent, hidden, "{name:?}");
        let hash = RestoringHash(
            rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.common_hash(),
        );
        let mut transcript = hash.start();
        transcript.update(&[]);
        transcript.update(&said[RECORD_HEADER_BYTES..]);
        assert_eq!(transcript.finish().as_ref(), hash.hash(&sent[RECORD_HEADER_BYTES..]).as_ref());
    }

    /// The hash of a cipher suite.
    trait CommonHash {
        fn common_hash(&self) -> &'static dyn Hash;
    }

    impl CommonHash for SupportedCipherSuite {
        fn common_hash(&self) -> &'static dyn Hash {
            match self {
                SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider,
                SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider,
            }
        }
    }

    #[test]
    fn refused_name_is_hidden_and_kept_in_the_transcript() {
        for name in [
            "localhost:443",
            "[::1]",
            "[::1]:443",
            "[a.example]",
            "a b",
            "http://a.example",
            "é.example",
        ] {
            check(name, true);
        }
        for name in ["localhost", "a.example", "A_b.example", "192.0.2.1", "::1"] {
            check(name, false);
        }
    }

    /// The message of a record, in records of this size.
    fn cut_up(whole: &[u8], size: usize) -> Vec<u8> {
        let record =
            |piece: &[u8]| [&[HANDSHAKE_TYPE, 3, 3, 0, piece.len() as u8][..], piece].concat();
        whole[RECORD_HEADER_BYTES..].chunks(size).flat_map(record).collect()
    }

    #[test]
    fn a_second_hello_may_have_a_change_cipher_spec_in_front() {
        let sent = hello(b"localhost:443");
        let mut said = [&CHANGE_CIPHER_SPEC[..], &sent].concat();
        assert!(!is_partial(&said) && !hide_name(&mut said));
        assert!(is_partial(second_hello(&mut said[..7].to_vec())));
        assert!(hide_name(second_hello(&mut said)) && !hide_name(second_hello(&mut said)));
        assert!(hide_name(second_hello(&mut sent.clone())));
        assert!(!is_partial(&CHANGE_CIPHER_SPEC));
    }

    #[test]
    fn name_is_hidden_at_any_record_split() {
        let sent = hello(b"localhost:443");
        let mut hidden = sent.clone();
        assert!(hide_name(&mut hidden));
        for size in 1..sent.len() {
            let mut said = cut_up(&sent, size);
            assert!((0..said.len()).all(|length| is_partial(&said[..length])), "{size}");
            // What follows it is not looked at.
            said.extend([0x17, 3, 3]);
            assert!(hide_name(&mut said), "{size}");
            assert_eq!(said, [&cut_up(&hidden, size)[..], &[0x17, 3, 3]].concat(), "{size}");
            let mut usual = cut_up(&hello(b"localhost"), size);
            assert!(!hide_name(&mut usual) && !is_partial(&usual), "{size}");
        }
    }

    #[test]
    fn oversize_hello_is_left_to_rustls() {
        for length in [1_u8, 0x41, 0xff] {
            let mut said = [HANDSHAKE_TYPE, 3, 1, 0, 6, CLIENT_HELLO_TYPE, length, 0, 0, 3, 3];
            assert!(!is_partial(&said) && !hide_name(&mut said), "{length}");
        }
        assert!(is_partial(&[HANDSHAKE_TYPE, 3, 1, 0, 6, CLIENT_HELLO_TYPE, 0, 0x3f, 0, 3, 3]));
    }

    #[test]
    fn hello_with_two_names_is_left_to_rustls() {
        let sent = hello_of(&[b"a:1", b"localhost"]);
        let mut said = sent.clone();
        assert!(!hide_name(&mut said));
        assert_eq!(said, sent);
    }

    #[test]
    fn a_hello_is_partial_until_its_record_is_whole() {
        let whole = hello(b"a.example");
        for length in 0..whole.len() {
            assert!(is_partial(&whole[..length]), "{length}");
        }
        assert!(!is_partial(&whole));
        for other in [
            &b"GET /"[..],
            b"\x16\x03\x01\xff\xff",
            b"\x16\x03\x01\0\0",
            b"\x15\x03\x01\0\x02",
            b"\x16\x02",
        ] {
            assert!(!is_partial(other), "{other:?}");
        }
        assert!(!is_partial(b"\x16\x03\x01\0\x20\x02"));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_without_a_panic(at in 0usize..90, byte in any::<u8>(), length in 0usize..100) {
            let mut said = hello(b"localhost:443");
            let at = at.min(said.len() - 1);
            said[at] = byte;
            said.truncate(length);
            let _ = is_partial(&said);
            let _ = hide_name(&mut said);
        }
    }
}

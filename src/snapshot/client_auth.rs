//! Verification of client certificates: by authorities, revocation lists and revoked serials.
//!
//! It proves that a certificate is valid, and never whether a policy admits its names
//! (`policy/certificate.rs`). webpki parses what strangers send and what other programs write, and
//! has panicked on a CRL before (RUSTSEC-2026-0104): each call from outside a TLS handshake is
//! fenced, and a panic counts as a refusal.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::policy::list::RevokedSerials;
use crate::snapshot::client_certificate::{key_pin, serial};
use crate::snapshot::revocation::{ChainCheck, SharedLists, links};

/// Trust settings for the certificates of a listener's clients.
#[derive(Debug, Clone)]
pub struct ClientAuthOptions {
    /// Certificate authorities that may sign client certificates.
    pub roots: Arc<RootCertStore>,
    /// Revocation lists, as DER. If there are any, each authority of a client's chain needs one.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// Whether an expired revocation list refuses the clients that it is about.
    pub enforces_crl_expiry: bool,
    /// Serial numbers that are revoked besides.
    pub revoked: Arc<RevokedSerials>,
    /// Whether a client has to present a certificate.
    pub mode: ClientAuthMode,
}

impl ClientAuthOptions {
    /// Whether these are the same options, by value.
    pub fn is_same(&self, other: &ClientAuthOptions) -> bool {
        self.roots.roots == other.roots.roots
            && self.crls == other.crls
            && self.enforces_crl_expiry == other.enforces_crl_expiry
            && self.revoked == other.revoked
            && self.mode == other.mode
    }
}

/// Whether clients of a listener have to present a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuthMode {
    /// The TLS handshake fails without a valid certificate.
    Required,
    /// A client may come without a certificate. An invalid one fails the TLS handshake.
    Optional,
}

/// Verifies the client certificates of a listener.
pub struct ClientAuth {
    /// Unique in this process, and never 0.
    id: u64,
    options: ClientAuthOptions,
    /// Verifies paths and revocation lists. It does not know the revoked serials.
    webpki: Arc<dyn ClientCertVerifier>,
    /// As `webpki`, and uses expired revocation lists: what clients were granted is not taken back
    /// because a list is late (`docs/decisions/045-expired-crl.md`).
    webpki_of_open: Arc<dyn ClientCertVerifier>,
    /// The revocation lists, if issuers have several: the two above then know none. `None` means
    /// that they know all.
    shared: Option<SharedLists>,
    provider: Arc<CryptoProvider>,
}

/// The number of the latest verifier.
static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// Why there is no verifier, or why a chain is not valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuthError {
    /// The fault, in the words of rustls.
    Invalid(String),
    /// The library has panicked.
    Panicked,
}

impl ClientAuth {
    /// Builds the verifier.
    ///
    /// # Errors
    /// There is no authority, or a revocation list cannot be read.
    pub fn new(options: ClientAuthOptions) -> Result<Self, ClientAuthError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let shared = fenced(|| SharedLists::read(&options.crls))?;
        let crls = if shared.is_some() { &[][..] } else { &options.crls[..] };
        let build = |enforces_expiry: bool| {
            let roots = Arc::clone(&options.roots);
            // rustls' defaults hold: each certificate of the path is checked, and an unknown
            // revocation status is a refusal (`docs/decisions/040-certificates.md`).
            let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .with_crls(crls.iter().cloned());
            let builder = match options.mode {
                ClientAuthMode::Required => builder,
                ClientAuthMode::Optional => builder.allow_unauthenticated(),
            };
            // Off by default in rustls, which would then use an expired list without a word.
            let builder =
                if enforces_expiry { builder.enforce_revocation_expiration() } else { builder };
            builder.build().map_err(|error| error.to_string())
        };
        let webpki = fenced(|| build(options.enforces_crl_expiry))?;
        let webpki_of_open = match options.enforces_crl_expiry {
            true => fenced(|| build(false))?,
            false => Arc::clone(&webpki),
        };
        let id = LAST_ID.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(ClientAuth { id, options, webpki, webpki_of_open, shared, provider })
    }

    /// Whether the verifier has the same `options`, by value: then sessions that it has verified
    /// may be resumed, and clients need not be verified again.
    pub fn has_options(&self, options: &ClientAuthOptions) -> bool {
        self.options.is_same(options)
    }

    /// The number of the verifier, by which a client that it has verified is known. Never 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether clients may come without a certificate.
    pub fn mode(&self) -> ClientAuthMode {
        self.options.mode
    }

    /// The serial numbers that are revoked besides the revocation lists.
    pub fn revoked(&self) -> &Arc<RevokedSerials> {
        &self.options.revoked
    }

    /// Verifies the chain of an open connection after a reload, the client's own certificate first.
    /// An expired revocation list is used as it is.
    ///
    /// # Errors
    /// The chain is not valid at `now`, or verifying it has panicked.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<(), ClientAuthError> {
        self.verify_chain(chain, now, false)
    }

    /// Verifies the chain of a session that a client resumes, as at a full handshake: an expired
    /// revocation list refuses it.
    ///
    /// # Errors
    /// The chain is not valid at `now`, or verifying it has panicked.
    pub fn verify_resumed(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<(), ClientAuthError> {
        self.verify_chain(chain, now, self.options.enforces_crl_expiry)
    }

    fn verify_chain(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
        enforces_expiry: bool,
    ) -> Result<(), ClientAuthError> {
        let seconds = now.as_second().try_into().unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        fenced(|| {
            let (own, others) = chain.split_first().ok_or("there is no certificate")?;
            self.verify_by(own, others, now, enforces_expiry)
                .map(|_| ())
                .map_err(|error| error.to_string())
        })
    }

    fn verify_by(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        enforces_expiry: bool,
    ) -> Result<ClientCertVerified, Error> {
        let webpki = if enforces_expiry { &self.webpki } else { &self.webpki_of_open };
        // In this order: `check_serials` takes the lack of a path for a revocation.
        let verified = webpki.verify_client_cert(end_entity, intermediates, now)?;
        if let Some(lists) = &self.shared {
            lists.check(&ChainCheck {
                end_entity,
                intermediates,
                roots: &self.options.roots.roots,
                algorithms: self.provider.signature_verification_algorithms.all,
                now,
                enforces_expiry,
            })?;
        }
        self.check_serials(end_entity, intermediates, now)?;
        Ok(verified)
    }

    /// Looks for revoked serials on the path from the client's certificate to an authority. webpki
    /// finds the path once more: the issuer's key counts, which a name alone does not prove.
    fn check_serials(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let revoked = &self.options.revoked;
        if revoked.is_empty() {
            return Ok(());
        }
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let at = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
        let check = |path: &VerifiedPath<'_>| {
            if is_revoked(revoked, path, at) { Err(webpki::Error::CertRevoked) } else { Ok(()) }
        };
        // Revocation lists are checked before; a path that they refuse may be found here, and then
        // another that they admit exists.
        let verified = EndEntityCert::try_from(end_entity).and_then(|certificate| {
            certificate
                .verify_for_usage(
                    self.provider.signature_verification_algorithms.all,
                    &self.options.roots.roots,
                    intermediates,
                    now,
                    KeyUsage::client_auth(),
                    None,
                    Some(&check),
                )
                .map(|_| ())
        });
        // The certificate was valid, so that a path exists: `check` has refused each.
        verified.map_err(|_| Error::InvalidCertificate(CertificateError::Revoked))
    }
}

/// Whether a certificate of `path` is revoked. An entry without an issuer is about the client's own
/// certificate.
fn is_revoked(revoked: &RevokedSerials, path: &VerifiedPath<'_>, now: Timestamp) -> bool {
    // The issuer's key counts, since a client may send another certificate with the issuer's name.
    links(path).enumerate().any(|(index, (certificate, issuer))| {
        let (issuer, number) = (key_pin(&issuer), serial(certificate.serial()));
        revoked.revokes(&issuer, &number, index == 0, now)
    })
}

/// Runs `call`, and turns a panic into an error.
pub fn fenced<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, ClientAuthError> {
    // What it borrows is only read: a call that panics leaves no value half changed.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(done) => done.map_err(ClientAuthError::Invalid),
        Err(_) => Err(ClientAuthError::Panicked),
    }
}

impl ClientCertVerifier for ClientAuth {
    fn offer_client_auth(&self) -> bool {
        self.webpki.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.webpki.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify_by(end_entity, intermediates, now, self.options.enforces_crl_expiry)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuth").field("mode", &self.options.mode).finish_non_exhaustive()
    }
}

impl fmt::Display for ClientAuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientAuthError::Invalid(fault) => f.write_str(fault),
            ClientAuthError::Panicked => f.write_str("a bug in the library that reads it"),
        }
    }
}

impl std::error::Error for ClientAuthError {}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
        CrlIssuingDistributionPoint, CrlScope, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
    };

    use crate::policy::list::SerialEntry;

    /// An authority, whose certificate is valid from 2020 to 2040.
    pub struct Authority {
        pub issuer: Issuer<'static, KeyPair>,
        pub der: CertificateDer<'static>,
    }

    impl Authority {
        /// An authority of this name that signs itself.
        pub fn root(name: &str) -> Authority {
            Authority::new(name, 1, None)
        }

        fn new(name: &str, number: u8, by: Option<&Authority>) -> Authority {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.serial_number = Some(SerialNumber::from_slice(&[number]));
            (params.not_before, params.not_after) =
                (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
            let signed = match by {
                Some(by) => params.signed_by(&key, &by.issuer),
                None => params.self_signed(&key),
            }
            .unwrap();
            Authority { der: signed.der().clone(), issuer: Issuer::new(params, key) }
        }

        /// A client's certificate, valid from 2020 to 2030.
        fn client(&self, number: u8, usage: ExtendedKeyUsagePurpose) -> CertificateDer<'static> {
            let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
            params.extended_key_usages = vec![usage];
            params.serial_number = Some(SerialNumber::from_slice(&[number]));
            (params.not_before, params.not_after) =
                (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
            let key = KeyPair::generate().unwrap();
            params.signed_by(&key, &self.issuer).unwrap().der().clone()
        }

        /// A list that revokes these serial numbers, and expires on the first day of `year`.
        pub fn crl(&self, revoked: &[u8], year: i32) -> CertificateRevocationListDer<'static> {
            self.crl_with(revoked, year, |_| ())
        }

        /// As [`Authority::crl`], with other changes.
        pub fn crl_with(
            &self,
            revoked: &[u8],
            year: i32,
            change: impl FnOnce(&mut CertificateRevocationListParams),
        ) -> CertificateRevocationListDer<'static> {
            let revoked = revoked.iter().map(|number| RevokedCertParams {
                serial_number: SerialNumber::from_slice(&[*number]),
                revocation_time: date_time_ymd(2021, 1, 1),
                reason_code: None,
                invalidity_date: None,
            });
            let mut params = CertificateRevocationListParams {
                this_update: date_time_ymd(2021, 1, 1),
                next_update: date_time_ymd(year, 1, 1),
                crl_number: SerialNumber::from_slice(&[1]),
                issuing_distribution_point: None,
                revoked_certs: revoked.collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            change(&mut params);
            params.signed_by(&self.issuer).unwrap().der().clone()
        }

        /// The SHA-256 of its public key, in hexadecimal.
        pub fn pin(&self) -> String {
            use x509_parser::prelude::FromDer;
            let (_, certificate) =
                x509_parser::certificate::X509Certificate::from_der(&self.der).unwrap();
            key_pin(certificate.public_key().raw).to_string()
        }
    }

    /// The options of a listener that trusts `roots`.
    pub fn options(roots: &[&Authority]) -> ClientAuthOptions {
        let mut store = RootCertStore::empty();
        roots.iter().for_each(|root| store.add(root.der.clone()).unwrap());
        ClientAuthOptions {
            roots: Arc::new(store),
            crls: Vec::new(),
            enforces_crl_expiry: true,
            revoked: Arc::default(),
            mode: ClientAuthMode::Required,
        }
    }

    fn revoked(lines: &[String]) -> Arc<RevokedSerials> {
        let entries = lines.iter().map(|line| SerialEntry::parse(line, true).unwrap().unwrap());
        Arc::new(RevokedSerials::new(entries))
    }

    /// The verdict on a chain in the middle of `year`: nothing, or the words of the fault.
    fn verdict(
        options: ClientAuthOptions,
        chain: &[&CertificateDer<'static>],
        year: u16,
    ) -> String {
        let chain: Vec<_> = chain.iter().map(|one| (*one).clone()).collect();
        let now = format!("{year}-06-01T00:00:00Z").parse().unwrap();
        at_handshake(&ClientAuth::new(options).unwrap(), &chain, now)
    }

    /// The words of the fault that a TLS handshake at `now` meets.
    fn at_handshake(
        verifier: &ClientAuth,
        chain: &[CertificateDer<'static>],
        now: Timestamp,
    ) -> String {
        let seconds = now.as_second().try_into().unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let Some((own, others)) = chain.split_first() else {
            return "there is no certificate".to_owned();
        };
        let verified = verifier.verify_client_cert(own, others, at);
        verified.err().map(|error| error.to_string()).unwrap_or_default()
    }

    type Crl = CertificateRevocationListDer<'static>;

    const CLIENT: ExtendedKeyUsagePurpose = ExtendedKeyUsagePurpose::ClientAuth;
    const REVOKED: &str = "invalid peer certificate: Revoked";

    #[test]
    fn chain_leads_to_an_authority_and_is_valid_now() {
        let (root, other) = (Authority::root("root"), Authority::root("root"));
        let inter = Authority::new("inter", 2, Some(&root));
        let (leaf, direct) = (inter.client(7, CLIENT), root.client(8, CLIENT));
        let server = root.client(9, ExtendedKeyUsagePurpose::ServerAuth);
        let verdict = |chain: &[_], year| verdict(options(&[&root]), chain, year);
        assert_eq!(verdict(&[&direct], 2026), "");
        assert_eq!(verdict(&[&leaf, &inter.der], 2026), "");
        for (chain, year, word) in [
            (&[&leaf][..], 2026, "UnknownIssuer"),
            (&[&direct], 2031, "expired"),
            (&[&other.client(1, CLIENT), &other.der], 2026, "BadSignature"),
            (&[&server], 2026, "certificate does not allow"),
            (&[], 2026, "there is no certificate"),
        ] {
            let found = verdict(chain, year);
            assert!(found.contains(word), "{word}: {found:?}");
        }
    }

    #[test]
    fn revoked_serial_is_refused_by_the_key_of_its_issuer() {
        let (root, twin) = (Authority::root("root"), Authority::root("inter"));
        let inter = Authority::new("inter", 2, Some(&root));
        let (leaf, direct) = (inter.client(7, CLIENT), root.client(8, CLIENT));
        let verdict = |line: String, chain: &[_]| {
            let options = ClientAuthOptions { revoked: revoked(&[line]), ..options(&[&root]) };
            verdict(options, chain, 2026)
        };
        let chain: &[_] = &[&leaf, &inter.der];
        assert_eq!(verdict(format!("{}:07", inter.pin()), chain), REVOKED);
        assert_eq!(verdict("07".into(), chain), REVOKED);
        // An authority is revoked with all that it has signed, but not by a bare number.
        assert_eq!(verdict(format!("{}:02", root.pin()), chain), REVOKED);
        assert_eq!(verdict("02".into(), chain), "");
        assert_eq!(verdict(format!("{}:07", root.pin()), chain), "");
        assert_eq!(verdict(format!("{}:08", root.pin()), &[&direct]), REVOKED);
        assert_eq!(verdict("07 expires=2026-01-01".into(), chain), "");
        // Another certificate of the issuer's name hides nothing.
        let line = || format!("{}:07", inter.pin());
        assert_eq!(verdict(line(), &[&leaf, &twin.der, &inter.der]), REVOKED);
        assert_eq!(verdict(line(), &[&leaf, &inter.der, &twin.der]), REVOKED);
    }

    #[test]
    fn expired_list_refuses_handshakes_and_no_open_connection() {
        let root = Authority::root("root");
        let [good, bad] = [1, 7].map(|number| [root.client(number, CLIENT)]);
        let options = ClientAuthOptions { crls: vec![root.crl(&[7], 2026)], ..options(&[&root]) };
        let verifier = ClientAuth::new(options).unwrap();
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let fault = at_handshake(&verifier, &good, now);
        assert!(fault.contains("revocation list expired"), "{fault}");
        let fault = verifier.verify_resumed(&good, now).unwrap_err().to_string();
        assert!(fault.contains("revocation list expired"), "{fault}");
        assert_eq!(verifier.verify(&good, now), Ok(()));
        let revoked = verifier.verify(&bad, now).unwrap_err();
        assert_eq!(revoked.to_string(), REVOKED);
    }

    #[test]
    fn revocation_lists_refuse_and_expire() {
        let (root, other) = (Authority::root("root"), Authority::root("other"));
        let leaf = root.client(7, CLIENT);
        let with = |crls: Vec<_>, enforces_crl_expiry, year| {
            let options =
                ClientAuthOptions { crls, enforces_crl_expiry, ..options(&[&root, &other]) };
            verdict(options, &[&leaf], year)
        };
        assert_eq!(with(vec![root.crl(&[7], 2027)], true, 2026), REVOKED);
        assert_eq!(with(vec![root.crl(&[8], 2027)], true, 2026), "");
        assert!(with(vec![root.crl(&[8], 2027)], true, 2028).contains("expired"));
        assert_eq!(with(vec![root.crl(&[8], 2027)], false, 2028), "");
        assert_eq!(with(vec![root.crl(&[7], 2027)], false, 2028), REVOKED);
        // A list of another authority says nothing about this one.
        assert!(with(vec![other.crl(&[8], 2027)], true, 2026).contains("UnknownRevocationStatus"));
        assert_eq!(with(vec![other.crl(&[], 2027), root.crl(&[7], 2027)], true, 2026), REVOKED);
    }

    /// A partition of the authority's list.
    fn part(authority: &Authority, revoked: &[u8], year: i32, of: CrlScope) -> Crl {
        authority.crl_with(revoked, year, |params| {
            let uris = vec![format!("http://crl.example/{of:?}")];
            let distribution_point = CrlDistributionPoint { uris };
            let point = CrlIssuingDistributionPoint { distribution_point, scope: Some(of) };
            params.issuing_distribution_point = Some(point);
        })
    }

    #[test]
    fn each_list_of_one_issuer_refuses_in_any_order() {
        let root = Authority::root("root");
        let (leaf, other) = (root.client(7, CLIENT), root.client(9, CLIENT));
        let users = |revoked: &[u8], year| part(&root, revoked, year, CrlScope::UserCertsOnly);
        for (one, two, expected, is_open_refused) in [
            (root.crl(&[8], 2027), root.crl(&[7], 2027), "Revoked", true),
            (root.crl(&[8], 2027), root.crl(&[7], 2025), "expired", true),
            (root.crl(&[], 2027), users(&[7], 2027), "Revoked", true),
            (users(&[8], 2027), users(&[7], 2027), "Revoked", true),
            (root.crl(&[7], 2027), users(&[], 2025), "e", true),
            (root.crl(&[8], 2027), users(&[], 2025), "expired", false),
        ] {
            for crls in [vec![one.clone(), two.clone()], vec![two, one]] {
                let options = ClientAuthOptions { crls, ..options(&[&root]) };
                let auth = ClientAuth::new(options).unwrap();
                let now = "2026-06-01T00:00:00Z".parse().unwrap();
                let found = at_handshake(&auth, std::slice::from_ref(&leaf), now);
                assert!(found.contains(expected), "{expected}: {found:?}");
                let open = auth.verify(std::slice::from_ref(&leaf), now);
                assert_eq!(open.is_err(), is_open_refused, "{open:?}");
            }
        }
        let with = |crls: Vec<_>| {
            verdict(ClientAuthOptions { crls, ..options(&[&root]) }, &[&other], 2026)
        };
        assert_eq!(with(vec![root.crl(&[7], 2027), users(&[8], 2027)]), "");
        // A list of authorities alone covers no client.
        let of_authorities = || part(&root, &[], 2027, CrlScope::CaCertsOnly);
        let unknown = with(vec![of_authorities(), part(&root, &[9], 2027, CrlScope::CaCertsOnly)]);
        assert!(unknown.contains("UnknownRevocationStatus"), "{unknown}");
        assert_eq!(with(vec![of_authorities(), users(&[8], 2027)]), "");
    }

    #[test]
    fn authorities_of_one_name_have_a_list_each() {
        let (old, new) = (Authority::root("root"), Authority::root("root"));
        let (third, fourth) = (Authority::root("other"), Authority::root("other"));
        let lists = [old.crl(&[7], 2027), new.crl(&[8], 2027), third.crl(&[7], 2027)];
        for turn in 0..3 {
            let mut crls = lists.to_vec();
            crls.rotate_left(turn);
            let with = |authority: &Authority, number| {
                let all = options(&[&old, &new, &third, &fourth]);
                let options = ClientAuthOptions { crls: crls.clone(), ..all };
                verdict(options, &[&authority.client(number, CLIENT)], 2026)
            };
            assert_eq!(with(&old, 7), REVOKED);
            assert_eq!(with(&new, 7), "");
            assert_eq!(with(&old, 8), "");
            assert_eq!(with(&new, 8), REVOKED);
            assert_eq!(with(&third, 7), REVOKED);
            assert_ne!(with(&fourth, 9), "");
        }
    }

    #[test]
    fn verifier_without_an_authority_or_with_a_broken_list_is_an_error() {
        assert!(ClientAuth::new(options(&[])).is_err());
        let root = Authority::root("root");
        let broken = CertificateRevocationListDer::from(root.crl(&[7], 2027)[..50].to_vec());
        let broken = ClientAuthOptions { crls: vec![broken], ..options(&[&root]) };
        assert!(matches!(ClientAuth::new(broken), Err(ClientAuthError::Invalid(_))));
    }

    #[test]
    fn panic_of_the_library_is_an_error() {
        let fenced = fenced(|| -> Result<(), String> { panic!("injected") });
        assert_eq!(fenced, Err(ClientAuthError::Panicked));
    }

    #[test]
    fn options_are_compared_by_value() {
        let (root, other) = (Authority::root("root"), Authority::root("root"));
        let auth = ClientAuth::new(options(&[&root])).unwrap();
        assert!(auth.has_options(&options(&[&root])));
        let same = options(&[&root]);
        for changed in [
            options(&[&other]),
            options(&[&root, &other]),
            ClientAuthOptions { crls: vec![root.crl(&[], 2027)], ..same.clone() },
            ClientAuthOptions { enforces_crl_expiry: false, ..same.clone() },
            ClientAuthOptions { revoked: revoked(&["07".into()]), ..same.clone() },
            ClientAuthOptions { mode: ClientAuthMode::Optional, ..same.clone() },
        ] {
            assert!(!auth.has_options(&changed), "{changed:?}");
        }
    }
}

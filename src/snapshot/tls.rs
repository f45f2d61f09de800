//! TLS configurations: one rustls configuration for each listener, and for each route with backends
//! over TLS, in each generation.
//!
//! This module chooses and configures; `data/tls` accepts and drives TLS, and
//! `data/stream/socket.rs` connects.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;
use rustls::client::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert,
    ResolvesServerCertUsingSni, ServerConfig,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::snapshot::certificate::{Certificates, ServedCertificate};
use crate::snapshot::client_auth::{ClientAuth, ClientAuthOptions};
use crate::snapshot::client_hello;
use crate::snapshot::key_type::SignatureOffer;
use crate::snapshot::listener::TlsRules;

/// The part of TLS that outlives a generation. A session resumes across reloads as long as what its
/// handshake decided (a client certificate, later) is unchanged.
#[derive(Debug, Clone)]
pub struct TicketKeys(Arc<dyn ProducesTickets>);

impl TicketKeys {
    /// Creates fresh ticket keys, which rustls rotates every six hours.
    pub fn new() -> Result<Self, rustls::Error> {
        rustls::crypto::aws_lc_rs::Ticketer::new().map(TicketKeys)
    }

    /// No keys, for a generation that only a check compiles: the first random bytes of a process
    /// cost aws-lc some 40 ms of measuring the jitter of the CPU.
    pub fn unused() -> TicketKeys {
        TicketKeys(Arc::new(NoTickets))
    }

    /// Other keys of the same kind: fresh ones, or again none.
    fn renewed(&self) -> Result<TicketKeys, rustls::Error> {
        if self.0.enabled() { TicketKeys::new() } else { Ok(self.clone()) }
    }
}

/// Makes no tickets, and resumes no session.
#[derive(Debug)]
struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// The crypto provider aws-lc-rs, which prefers post-quantum key exchange.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The TLS configuration of one listener.
#[derive(Debug)]
pub struct ListenerTls {
    config: ServerConfig,
    /// For clients whose server name is hidden (see `client_hello`).
    nameless: ServerConfig,
    certificates: Arc<Certificates>,
    strict: bool,
    /// Verification of client certificates. `None` means off.
    client_auth: Option<ListenerClientAuth>,
}

/// How a listener verifies clients, and the keys of the tickets that rest on that. A session is
/// resumed only by the same verifier.
#[derive(Debug, Clone)]
pub struct ListenerClientAuth {
    /// Verifies the chain in each full handshake.
    pub verifier: Arc<ClientAuth>,
    tickets: TicketKeys,
}

impl ListenerClientAuth {
    /// Builds the verifier of `options`, or keeps that of `before` if it has the same. A new one
    /// has tickets of its own, of the kind of `tickets`.
    ///
    /// # Errors
    /// A sentence: a revocation list cannot be used, or the machine has no randomness.
    pub fn new(
        options: &ClientAuthOptions,
        before: Option<&ListenerTls>,
        tickets: &TicketKeys,
    ) -> Result<Self, String> {
        let kept = before.and_then(|before| before.client_auth.as_ref());
        // By value, since each reload reads the files anew. A kept verifier keeps its number, so
        // that no client is verified again, and its tickets, so that sessions resume.
        if let Some(kept) = kept.filter(|kept| kept.verifier.has_options(options)) {
            return Ok(kept.clone());
        }
        let verifier = ClientAuth::new(options.clone()).map_err(|error| error.to_string())?;
        // rustls calls no verifier for a resumed session: with the former keys, a ticket would
        // resume the session of a client that this verifier refuses.
        let tickets = tickets.renewed().map_err(|error| error.to_string())?;
        Ok(ListenerClientAuth { verifier: Arc::new(verifier), tickets })
    }
}

impl ListenerTls {
    /// Builds the configuration of a listener with these rules.
    pub fn new(
        rules: TlsRules,
        certificates: Arc<Certificates>,
        tickets: &TicketKeys,
        client_auth: Option<ListenerClientAuth>,
    ) -> Result<Self, rustls::Error> {
        let tickets = client_auth.as_ref().map_or(tickets, |auth| &auth.tickets);
        let versions: &[&rustls::SupportedProtocolVersion] = if rules.only_13 {
            &[&rustls::version::TLS13]
        } else {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        };
        let configuration = |provider| {
            let builder =
                ServerConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
            // Each handshake replaces it with its own resolver, which has the certificates.
            let resolver = Arc::new(ResolvesServerCertUsingSni::new());
            let builder = match &client_auth {
                None => builder.with_no_client_auth(),
                Some(auth) => {
                    builder.with_client_cert_verifier(Arc::clone(&auth.verifier) as Arc<_>)
                }
            };
            Ok::<_, rustls::Error>(builder.with_cert_resolver(resolver))
        };
        let mut nameless = configuration(client_hello::provider())?;
        let mut config = configuration(provider())?;
        // A client that offers only http/1.0 would be refused otherwise. Both are served alike.
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
        config.ticketer = Arc::clone(&tickets.0);
        // Tickets resume statelessly; a session store would only cost memory.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // One ticket serves the next connection; each further one costs 6 µs a handshake.
        config.send_tls13_tickets = 1;
        nameless.alpn_protocols.clone_from(&config.alpn_protocols);
        // Without tickets: a binder is over a hello that rustls writes anew (RFC 8446 §4.2.11.2).
        nameless.send_tls13_tickets = 0;
        nameless.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(ListenerTls { config, nameless, certificates, strict: rules.strict_sni, client_auth })
    }

    /// The verifier of client certificates. `None` means off.
    pub fn client_auth(&self) -> Option<&Arc<ClientAuth>> {
        self.client_auth.as_ref().map(|auth| &auth.verifier)
    }

    /// Returns the configuration of one handshake, and the resolver that chooses its certificate
    /// and remembers the choice. rustls' unbuffered connection doesn't reveal the requested name;
    /// reading the ClientHello with its `Acceptor` before costs 15,000 instructions, and
    /// this copy 500. `is_nameless` says that the server name of its ClientHello is hidden.
    pub fn for_connection(&self, is_nameless: bool) -> (Arc<ServerConfig>, Arc<SniResolver>) {
        let by_sni = Arc::new(SniResolver {
            certificates: Arc::clone(&self.certificates),
            strict: self.strict,
            choice: OnceLock::new(),
        });
        let mut config = if is_nameless { self.nameless.clone() } else { self.config.clone() };
        config.cert_resolver = Arc::clone(&by_sni) as _;
        (Arc::new(config), by_sni)
    }
}

/// TLS settings for backends.
#[derive(Debug)]
pub struct BackendTls {
    /// The configuration of their TLS handshakes. It holds the sessions that may be resumed.
    pub config: Arc<ClientConfig>,
    options: BackendTlsOptions,
}

/// Trust settings for backends over TLS, and Sidegate's own identity.
#[derive(Debug, Clone)]
pub struct BackendTlsOptions {
    /// Certificate authorities that may sign backend certificates.
    pub roots: Arc<RootCertStore>,
    /// Client certificate for a backend that requests one. `None` means that none is presented.
    pub identity: Option<Arc<CertifiedKey>>,
    /// The name that a backend has to prove. `None` means its address.
    pub name: Option<ServerName<'static>>,
}

impl BackendTls {
    /// Builds the configuration with these options, without any session yet.
    ///
    /// # Errors
    /// Errors of rustls about its own settings.
    pub fn new(options: BackendTlsOptions) -> Result<Self, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(Arc::clone(&options.roots));
        let mut config = match &options.identity {
            Some(identity) => builder
                .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(identity)))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(BackendTls { config: Arc::new(config), options })
    }

    /// Whether the configuration has the same `options`: then verified backends stay verified, and
    /// their sessions stay resumable.
    pub fn has_options(&self, options: &BackendTlsOptions) -> bool {
        let own = &self.options;
        // Compared by value: each reload parses the files again, so equal settings are other
        // objects. A key that fits the same certificate is the same key.
        let shows_the_same = match (&own.identity, &options.identity) {
            (Some(own), Some(identity)) => own.cert == identity.cert,
            (own, identity) => own.is_none() && identity.is_none(),
        };
        shows_the_same && own.name == options.name && own.roots.roots == options.roots.roots
    }

    /// The name that a backend has to prove. `None` means its address.
    pub fn name(&self) -> Option<&ServerName<'static>> {
        self.options.name.as_ref()
    }
}

/// Chooses the certificate for a ClientHello: one for its name, else, unless `strict`, the default.
/// Where several fit, the client's signature schemes choose.
pub struct SniResolver {
    certificates: Arc<Certificates>,
    strict: bool,
    choice: OnceLock<Choice>,
}

/// The outcome of a ClientHello.
struct Choice {
    served: ServedCertificate,
    /// Whether the ClientHello has a server name.
    is_named: bool,
}

impl SniResolver {
    /// The certificate that was chosen by a server name. `None` before the ClientHello was read, if
    /// no certificate was chosen, or if the ClientHello has no server name: such a client knows the
    /// certificate for no name that a request could contradict.
    pub fn served(&self) -> Option<&ServedCertificate> {
        self.choice.get().filter(|choice| choice.is_named).map(|choice| &choice.served)
    }

    fn choose(&self, hello: &ClientHello<'_>) -> Option<Choice> {
        let (schemes, groups) = (hello.signature_schemes(), hello.named_groups());
        let offer = SignatureOffer { schemes, groups, suites: hello.cipher_suites() };
        let name = hello.server_name().map(str::to_ascii_lowercase);
        // rustls has removed the dot at the end of a name, which some clients copy from a URL.
        let name = name.as_deref();
        let named = name.and_then(|name| self.certificates.choose(name, &offer));
        let default = || self.certificates.choose_default(&offer);
        let chosen = named.or_else(|| if self.strict { None } else { default() })?;
        let served = ServedCertificate {
            certificate: Arc::clone(chosen),
            // Remembered for the requests: one for this very host is never 421, even after a reload
            // has added a certificate for it.
            uncovered_name: name.filter(|_| named.is_none()).map(Box::from),
        };
        Some(Choice { served, is_named: name.is_some() })
    }
}

impl ResolvesServerCert for SniResolver {
    /// `None` makes rustls end the TLS handshake with a fatal alert.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // A second ClientHello, after a HelloRetryRequest, has the same name and the same signature
        // schemes (RFC 8446 §4.1.2).
        let choice = match self.choice.get() {
            Some(choice) => choice,
            None => {
                let choice = self.choose(&hello)?;
                self.choice.get_or_init(|| choice)
            }
        };
        Some(Arc::clone(&choice.served.certificate.key))
    }
}

impl fmt::Debug for SniResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BySni").field("strict", &self.strict).finish_non_exhaustive()
    }
}

//! Client certificates: who may connect with which, and what a change of any file does.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::sidegate::admin::wire::{
    AdminRequest as _, CloseRequest, ExplainRequest, OverviewRequest, TunnelsRequest, Warning,
    WarningKind,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, HandshakeKind};
use tempfile::TempDir;

use crate::bans::order;
use crate::cli::check;
use crate::harness::client::{self, Client};
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::{backend, process, unit, within};

const OPTIONAL: &str = "client_certificates = { ca = 'clients.pem', mode = 'optional', \
                        revoked_serials = 'revoked.serials' }";
const REQUIRED: &str = "client_certificates = { ca = 'clients.pem' }";

/// Lets a client show a certificate.
type ClientSetting = Box<dyn FnOnce(&mut ClientConfig)>;

/// An authority for clients.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate with this URI and serial number, and its key.
    fn client(&self, uri: &str, serial: u8) -> ClientSetting {
        self.client_until(uri, serial, 2040)
    }

    fn client_until(&self, uri: &str, serial: u8, year: i32) -> ClientSetting {
        self.client_with(uri, serial, |params| params.not_after = date_time_ymd(year, 1, 1))
    }

    fn client_with(
        &self,
        uri: &str,
        serial: u8,
        change: impl FnOnce(&mut CertificateParams),
    ) -> ClientSetting {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.serial_number = Some(SerialNumber::from_slice(&[serial]));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2020, 1, 1);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        Box::new(move |config| shows(config, vec![chain], key))
    }

    /// A revocation list with these serial numbers.
    fn crl(&self, revoked: &[u8]) -> String {
        self.crl_until(revoked, 2040)
    }

    fn crl_until(&self, revoked: &[u8], year: i32) -> String {
        self.crl_with(revoked, |params| params.next_update = date_time_ymd(year, 1, 1))
    }

    fn crl_with(
        &self,
        revoked: &[u8],
        change: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> String {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[*serial]),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let mut params = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2040, 1, 1),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut params);
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// Lets a client show `chain`.
fn shows(
    config: &mut ClientConfig,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) {
    let key = config.crypto_provider().key_provider.load_private_key(key).unwrap();
    let certified = Arc::new(rustls::sign::CertifiedKey::new(chain, key));
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
}

/// A sidegate over TLS with these keys of its listener, whose clients `authority` signs.
fn asking(authority: &Authority, keys: &str, backend: &backend::Backend) -> Builder {
    sidegate::new()
        .tls()
        .route("/chat", backend)
        .on_listener(keys)
        .toml("reload.revoke_spread = '0s'")
        .file("clients.pem", &authority.pem)
        .file("revoked.serials", "# none\n")
        .file("clients.crl", &authority.crl(&[]))
}

/// Expects that a connection of `client` fails before it is answered.
async fn expect_no_answer(client: &Client) {
    let asked = async {
        let Ok(mut wire) = client.try_connect().await else { return };
        wire.send(client.attempt_head("/chat", "")).await;
        assert_eq!(String::from_utf8_lossy(&wire.rest().await), "");
    };
    within("a connection without an answer", asked).await;
}

#[tokio::test]
async fn required_certificate_is_verified_in_the_handshake() {
    let (authority, other) = (Authority::new("clients"), Authority::new("others"));
    let backend = backend::echo().run().await;
    let sidegate = asking(&authority, REQUIRED, &backend).run().await;
    let client = || client::new(&sidegate);
    client().tls_with(authority.client("spiffe://a/ws/1", 1)).open("/chat").await;
    for wrong in [
        client(),
        client().tls_with(other.client("spiffe://a/ws/1", 1)),
        client().tls_with(authority.client_until("spiffe://a/ws/1", 1, 2021)),
    ] {
        expect_no_answer(&wrong).await;
    }
    let refused = [("result", "failed")];
    sidegate.expect_metric("sidegate_tls_handshakes_total", refused, 3).await;
}

#[tokio::test]
async fn policy_judges_the_names_of_a_certificate() {
    let authority = Authority::new("clients");
    let backend = backend::echo().run().await;
    let rule = "client.certificate = { allow = ['spiffe://a/ws/*'], deny = ['spiffe://a/ws/9'] }";
    let sidegate = asking(&authority, OPTIONAL, &backend).policy(|page| page.toml(rule));
    let sidegate = sidegate.on_route("http = 'forward'").run().await;
    let client = || client::new(&sidegate);
    client().tls_with(authority.client("spiffe://a/ws/1", 1)).open("/chat").await;
    for refused in [
        client(),
        client().tls_with(authority.client("spiffe://a/other", 2)),
        client().tls_with(authority.client("spiffe://a/ws/9", 3)),
        client().tls_with(authority.client("spiffe://a/ws/%2e%2e", 4)),
    ] {
        let head = refused.attempt_head("/chat", "");
        refused.expect_refused(head, 403, "identity").await;
        refused.get("/chat").await.expect_refused(403, "identity");
    }
    expect_no_answer(&client().tls_with(Authority::new("x").client("spiffe://a/ws/1", 1))).await;
}

#[tokio::test]
async fn tunnels_are_selected_by_identity() {
    let authority = Authority::new("clients");
    let backend = backend::echo().run().await;
    let sidegate = asking(&authority, OPTIONAL, &backend).run().await;
    let known = |uri| client::new(&sidegate).tls_with(authority.client(uri, 1));
    let mut one = known("spiffe://a/ws/1").open("/chat").await;
    let mut other = known("spiffe://a/ws/2").open("/chat").await;
    let mut unnamed = client::new(&sidegate).open("/chat").await;
    for (query, matching) in
        [("spiffe://a/ws/1", 1), ("spiffe://a/ws/*", 2), ("spiffe://a/ws/3", 0), ("dns:a.b", 0)]
    {
        let request = TunnelsRequest::parse(&format!("identity={query}")).unwrap();
        let page = sidegate.answer_to(&request).await;
        assert_eq!((page.matching, page.tunnels.len()), (matching, matching as usize), "{query}");
        assert!(page.tunnels.iter().all(|one| one.identity.is_some()), "{query}");
    }
    let close = CloseRequest::parse("identity=spiffe://a/ws/1").unwrap();
    assert_eq!(sidegate.answer_to(&close).await.tunnels, 1);
    one.expect_close_with(1001, "operator").await;
    other.expect_echo("another name").await;
    unnamed.expect_echo("no certificate").await;
    // Both clients have one address, which no single identity names.
    let most = sidegate.answer_to(&OverviewRequest::default()).await.most_tunnels;
    assert_eq!((most[0].tunnels, most[0].identity.as_deref()), (2, None));
    let named = known("spiffe://a/ws/2").from("127.0.0.9");
    named.open("/chat").await.expect_echo("a client of its own").await;
    named.attempt("/nowhere").await.expect_refused(404, "route");
    for (short, identity) in [(false, Some("spiffe://a/ws/2")), (true, None)] {
        let request = OverviewRequest { short, ..OverviewRequest::default() };
        let refused = sidegate.answer_to(&request).await.refused_clients.unwrap();
        assert_eq!(refused.clients[0].identity.as_deref(), identity, "{short}");
    }
}

#[tokio::test]
async fn banned_identity_loses_its_tunnel_and_no_other_does() {
    let authority = Authority::new("clients");
    let backend = backend::echo().run().await;
    let sidegate = asking(&authority, OPTIONAL, &backend).toml("process.state = 'state'");
    let sidegate = sidegate.run().await;
    let known = |uri| client::new(&sidegate).tls_with(authority.client(uri, 1));
    let mut banned = known("spiffe://a/ws/1").open("/chat").await;
    let mut other = known("spiffe://a/ws/2").open("/chat").await;
    let ban = ["ban", "--identity", "spiffe://a/ws/1", "--why", "key leaked", "--forever"];
    order(&ban, sidegate.folder(), 0, &["banned: spiffe://a/ws/1 for ever", "1 tunnel"]).await;
    banned.expect_close_with(1008, "banned").await;
    known("spiffe://a/ws/1").attempt("/chat").await.expect_refused(403, "banned");
    other.expect_echo("untouched").await;
    let lift = ["unban", "--identity", "spiffe://a/ws/1"];
    order(&lift, sidegate.folder(), 0, &["unbanned: spiffe://a/ws/1"]).await;
    known("spiffe://a/ws/1").open("/chat").await.expect_echo("again").await;
}

#[tokio::test]
async fn listed_serial_closes_its_tunnel_and_no_other() {
    let authority = Authority::new("clients");
    let backend = backend::echo().run().await;
    let sidegate = asking(&authority, OPTIONAL, &backend).run().await;
    let known =
        |serial| client::new(&sidegate).tls_with(authority.client("spiffe://a/ws/1", serial));
    let (mut listed, mut kept) = (known(0x7e).open("/chat").await, known(2).open("/chat").await);
    let mut bare = client::new(&sidegate).open("/chat").await;
    sidegate.write("revoked.serials", "7E ticket=SEC-9\n").await;
    listed.expect_close_with(1008, "identity").await;
    kept.expect_echo("still here").await;
    bare.expect_echo("still here").await;
    expect_no_answer(&known(0x7e)).await;
    known(3).open("/chat").await;
}

#[tokio::test]
async fn revocation_list_takes_effect_on_save() {
    let authority = Authority::new("clients");
    let backend = backend::echo().run().await;
    let keys = "client_certificates = { ca = 'clients.pem', crl = ['clients.crl'] }";
    let sidegate = asking(&authority, keys, &backend).run().await;
    let known =
        |serial| client::new(&sidegate).tls_with(authority.client("spiffe://a/ws/1", serial));
    let (mut listed, mut kept) = (known(1).open("/chat").await, known(2).open("/chat").await);
    sidegate.write("clients.crl", &authority.crl(&[1])).await;
    listed.expect_close_with(1008, "identity").await;
    kept.expect_echo("still here").await;
    expect_no_answer(&known(1)).await;
    let broken = sidegate.write_rejected("clients.crl", "nothing of the kind\n").await;
    assert!(broken.contains("holds no revocation list"), "{broken}");
    kept.expect_echo("still here").await;
}

/// The files of a listener whose clients need a certificate, and which has a revocation list.
async fn with_list(authority: &Authority) -> (TempDir, backend::Backend) {
    let backend = backend::echo().run().await;
    let keys = "client_certificates = { ca = 'clients.pem', crl = ['clients.crl'] }";
    (asking(authority, keys, &backend).write(), backend)
}

/// Replaces the list with a list that expires in two seconds.
fn let_expire(authority: &Authority, folder: &Path) {
    let soon = SystemTime::now() + Duration::from_secs(2);
    let list = authority.crl_with(&[], |params| params.next_update = soon.into());
    std::fs::write(folder.join("clients.crl"), list).unwrap();
}

const EXPIRED: &str =
    "listener public: the revocation list of CN=clients in clients.crl expired at ";

#[tokio::test]
async fn status_tells_systemd_when_a_revocation_list_expires() {
    let authority = Authority::new("clients");
    let (folder, _backend) = with_list(&authority).await;
    let unit = unit::of(folder.path()).run().await;
    let_expire(&authority, folder.path());
    let then = ": new TLS handshakes of its clients fail until a newer one is there";
    unit.expect_told(&["STATUS=generation 2 (", " on 1 route; ", EXPIRED, then]).await;
    std::fs::write(folder.path().join("clients.crl"), authority.crl(&[])).unwrap();
    unit.expect_told(&["STATUS=generation 3 (", " on 1 route\n"]).await;
}

#[tokio::test]
async fn expiry_of_a_revocation_list_is_logged_once() {
    let authority = Authority::new("clients");
    let (folder, _backend) = with_list(&authority).await;
    let mut process = process::new(folder.path()).run().await;
    // Twice: a second list that expires is news again.
    for _ in 0..2 {
        let_expire(&authority, folder.path());
        let line = process.line(&format!("\"message\":\"{EXPIRED}")).await;
        assert!(line.contains("\"level\":\"WARN\""), "{line}");
    }
    let rest = process.ended().await;
    assert!(!rest.iter().any(|line| line.contains(EXPIRED)), "{rest:?}");
}

#[tokio::test]
async fn expired_revocation_list_blocks_no_reload_and_no_start() {
    let authority = Authority::new("clients");
    let backend = backend::echo().run().await;
    let keys = "client_certificates = { ca = 'clients.pem', crl = ['clients.crl'], \
                revoked_serials = 'revoked.serials' }";
    let plain = "[[listener]]\nname = 'plain'\nlisten = '127.0.0.1:0'\ntls = false";
    let builder =
        asking(&authority, keys, &backend).toml(plain).file("revoked.serials", "# none\n");
    let sidegate = builder.clone().run().await;
    let known =
        |serial| client::new(&sidegate).tls_with(authority.client("spiffe://a/ws/1", serial));
    let [mut listed, mut numbered, mut kept] =
        [known(1).open("/chat").await, known(2).open("/chat").await, known(3).open("/chat").await];
    // Newly expired, and with one client more: that one is refused, and the others keep theirs.
    sidegate.write("clients.crl", &authority.crl_until(&[1], 2022)).await;
    listed.expect_close_with(1008, "identity").await;
    expect_no_answer(&known(4)).await;
    // While it lasts, a stricter rule takes effect, and other listeners are served.
    sidegate.write("revoked.serials", "02\n").await;
    numbered.expect_close_with(1008, "identity").await;
    kept.expect_echo("still here").await;
    client::clear(sidegate.listener("plain")).open("/chat").await.expect_echo("here").await;
    let said = "listener public: the revocation list of CN=clients in clients.crl expired at 2022";
    let (status, body) = sidegate.readyz().await;
    assert!(status == 200 && body.contains(said), "{body}");
    let warnings = sidegate.status().await.warnings;
    let warns = |one: &Warning| one.word == WarningKind::CrlExpired && one.sentence.contains(said);
    assert!(warnings.iter().any(warns), "{warnings:?}");
    let due = "sidegate_crl_next_update_timestamp_seconds";
    assert_eq!(sidegate.metric(due, [("listener", "public")]).await, 1_640_995_200.0);
    sidegate.policy().deny("127.0.0.1").write().await;
    kept.expect_close_with(1008, "network").await;
    // A start goes on too, and `check` calls it an error.
    let builder = builder.file("clients.crl", &authority.crl_until(&[], 2022));
    let folder = builder.clone().write();
    let expected = &["error: crl: the revocation list of CN=clients in clients.crl expired"];
    check(&["check", "--config", "sidegate.toml"], folder.path(), 1, expected).await;
    let started = builder.run().await;
    client::clear(started.listener("plain")).open("/chat").await.expect_echo("served").await;
    expect_no_answer(&client::new(&started).tls_with(authority.client("spiffe://a/ws/1", 3))).await;
    // The newest list ends it.
    started.write("clients.crl", &authority.crl(&[])).await;
    let known = client::new(&started).tls_with(authority.client("spiffe://a/ws/1", 3));
    known.open("/chat").await.expect_echo("served").await;
    assert!(!started.readyz().await.1.contains("expired at"));
}

#[tokio::test]
async fn ticket_does_not_outlive_what_it_rests_on() {
    let authority = Authority::new("clients");
    let backend = backend::echo().run().await;
    let sidegate = asking(&authority, OPTIONAL, &backend).run().await;
    let client = client::new(&sidegate).tls_with(authority.client("spiffe://a/ws/1", 1));
    let client = client.tls_with(|config| config.resumption = Resumption::in_memory_sessions(8));
    client.open("/chat").await;
    // A reload that changes nothing of it keeps the ticket.
    sidegate.policy().limits("idle = '1h'").write().await;
    let mut resumed = client.open_wire("/chat").await;
    assert_eq!(resumed.tls().handshake_kind(), Some(HandshakeKind::Resumed));
    sidegate.write("revoked.serials", "01\n").await;
    assert!(!resumed.rest().await.is_empty(), "a Close");
    expect_no_answer(&client).await;
    sidegate.write("revoked.serials", "02\n").await;
    let wire = client.open_wire("/chat").await;
    assert_ne!(wire.tls().handshake_kind(), Some(HandshakeKind::Resumed));
}

#[tokio::test]
async fn ticket_is_no_way_around_an_expired_list() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let authority = Authority::new("clients");
        let backend = backend::echo().run().await;
        let keys = "client_certificates = { ca = 'clients.pem', crl = ['clients.crl'] }";
        let due = SystemTime::now() + Duration::from_secs(5);
        let list = authority.crl_with(&[], |params| params.next_update = due.into());
        let sidegate = asking(&authority, keys, &backend).file("clients.crl", &list).run().await;
        let client = client::new(&sidegate).tls_version(version);
        let client = client.tls_with(authority.client("spiffe://a/ws/1", 1));
        let client =
            client.tls_with(|config| config.resumption = Resumption::in_memory_sessions(8));
        let mut open = client.open("/chat").await;
        let resumed = client.open_wire("/chat").await;
        assert_eq!(resumed.tls().handshake_kind(), Some(HandshakeKind::Resumed));
        let expired = async { while !sidegate.readyz().await.1.contains("expired at") {} };
        within("an expired list", expired).await;
        expect_no_answer(&client).await;
        open.expect_echo("granted before").await;
    }
}

#[tokio::test]
async fn tunnels_are_judged_again_by_mode_and_authority() {
    let (authority, other) = (Authority::new("clients"), Authority::new("others"));
    let backend = backend::echo().run().await;
    let sidegate = asking(&authority, OPTIONAL, &backend).run().await;
    let known = || client::new(&sidegate).tls_with(authority.client("spiffe://a/ws/1", 1));
    let (mut bare, mut known_to_one) =
        (client::new(&sidegate).open("/chat").await, known().open("/chat").await);
    let listener = |mode: &str| {
        let mode = mode.to_owned();
        move |table: &mut toml::Table| {
            table["listener"][0]["client_certificates"]["mode"] = mode.into();
        }
    };
    sidegate.reconfigure(listener("required")).await;
    bare.expect_close_with(1008, "identity").await;
    known_to_one.expect_echo("still here").await;
    sidegate.write("clients.pem", &other.pem).await;
    known_to_one.expect_close_with(1008, "identity").await;
    expect_no_answer(&known()).await;
}

#[tokio::test]
async fn certificate_counts_no_more_when_no_listener_verifies_it() {
    let authority = Authority::new("clients");
    let backend = backend::echo().run().await;
    let rule = "client.certificate = { allow = ['spiffe://a/**'] }";
    let sidegate =
        asking(&authority, OPTIONAL, &backend).policy(|page| page.toml(rule)).run().await;
    let client = client::new(&sidegate).tls_with(authority.client("spiffe://a/ws/1", 1));
    let mut tunnel = client.open("/chat").await;
    sidegate
        .reconfigure(|table| {
            let listener = table["listener"][0].as_table_mut().unwrap();
            listener.remove("client_certificates");
        })
        .await;
    tunnel.expect_close_with(1008, "identity").await;
    client.expect_refused(client.attempt_head("/chat", ""), 403, "identity").await;
}

#[tokio::test]
async fn backend_gets_the_certificate_and_no_forged_one() {
    let authority = Authority::new("clients");
    let server = backend::manual().run().await;
    let sidegate = asking(&authority, OPTIONAL, &server)
        .on_route("client_certificate = 'chain'\nhttp = 'forward'")
        .run()
        .await;
    let known = client::new(&sidegate).tls_with(authority.client("spiffe://a/ws/1", 1));
    let forged = "Client-Cert: :AAAA:\r\nCLIENT-CERT-CHAIN: :AAAA:\r\n";
    for (client, is_known) in [(client::new(&sidegate), false), (known, true)] {
        for head in
            [client.attempt_head("/chat", forged), client.request("GET /chat HTTP/1.1", forged)]
        {
            let mut wire = client.connect().await;
            wire.send(head).await;
            let got = server.accepted().await.head().await;
            let certificate = got.header("client-cert");
            assert_eq!(certificate.is_some(), is_known, "{certificate:?}");
            let is_der = |field: &str| field.starts_with(":MII") && field.ends_with(':');
            assert!(certificate.is_none_or(is_der), "{certificate:?}");
            assert_eq!(got.header("client-cert-chain"), None);
        }
    }
}

#[tokio::test]
async fn certificate_that_expires_counts_no_more_on_its_connection() {
    let authority = Authority::new("clients");
    let server = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = asking(&authority, OPTIONAL, &server).on_route("http = 'forward'").run().await;
    // A certificate has whole seconds, so it is valid for one to two.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let end = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_secs() + 2);
    let soon = authority.client_with("spiffe://a/ws/1", 1, |params| params.not_after = end);
    let client = client::new(&sidegate).tls_with(soon);
    let mut wire = client.connect().await;
    let expires = async {
        loop {
            wire.send(client.request("GET /chat HTTP/1.1", "")).await;
            let answer = wire.answer().await;
            if answer.status() != 200 {
                answer.expect_refused(403, "identity");
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("a certificate expires", expires).await;
}

/// A sidegate that asks for certificates, under these limits.
async fn limited(authority: &Authority, limits: &str) -> (Sidegate, backend::Backend) {
    let backend = backend::echo().run().await;
    let sidegate = asking(authority, OPTIONAL, &backend).on_route("http = 'forward'");
    (sidegate.limits(limits).run().await, backend)
}

/// One attempt for each client, and one in an hour.
const ONE: &str = "upgrades = { rate = '1/m', burst = 1, per = 'identity' }";

/// One tunnel for each client.
const ONE_AT_ONCE: &str = "connections = { per_client = 1, per = 'identity' }";

/// Asserts that an attempt is granted or not; a granted tunnel is closed again.
async fn expect_granted(client: &Client, is_granted: bool) {
    let answer = client.attempt("/chat").await;
    if is_granted {
        answer.expect(101);
    } else {
        answer.expect_refused(429, "rate");
    }
}

#[tokio::test]
async fn certificates_behind_one_address_have_own_budgets() {
    let authority = Authority::new("clients");
    let (sidegate, _backend) = limited(&authority, ONE).await;
    let known = |name: &str| client::new(&sidegate).tls_with(authority.client(name, 1));
    let (one, two) = (known("spiffe://a/ws/1"), known("spiffe://a/ws/2"));
    for is_granted in [true, false] {
        expect_granted(&one, is_granted).await;
        expect_granted(&two, is_granted).await;
        // Without a certificate a client is counted by its address.
        expect_granted(&client::new(&sidegate), is_granted).await;
    }
    expect_granted(&client::new(&sidegate).from("127.0.0.2"), true).await;
    let keys = [("policy", "default"), ("limit", "upgrades")];
    sidegate.expect_metric("sidegate_limiter_keys", keys, 4).await;
}

#[tokio::test]
async fn one_identity_shares_a_budget_at_all_addresses() {
    let authority = Authority::new("clients");
    let (sidegate, _backend) = limited(&authority, ONE).await;
    // Another key and serial number under the same name, as after a renewal.
    let at = |address: &str, serial| {
        let client = client::new(&sidegate).from(address);
        client.tls_with(authority.client("spiffe://a/ws/1", serial))
    };
    expect_granted(&at("127.0.0.1", 1), true).await;
    expect_granted(&at("127.0.0.2", 1), false).await;
    expect_granted(&at("127.0.0.2", 2), false).await;
    // Its address was not charged.
    expect_granted(&client::new(&sidegate), true).await;
}

#[tokio::test]
async fn resumed_session_has_the_budget_of_its_certificate() {
    let authority = Authority::new("clients");
    let limits = "requests = { rate = '1/m', burst = 2, per = 'identity' }";
    let server = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = asking(&authority, OPTIONAL, &server).on_route("http = 'forward'");
    let sidegate = sidegate.limits(limits).run().await;
    let client = client::new(&sidegate).tls_with(authority.client("spiffe://a/ws/1", 1));
    let client = client.tls_with(|config| config.resumption = Resumption::in_memory_sessions(8));
    client.get("/chat").await.expect(200);
    let mut resumed = client.connect().await;
    for status in [200, 429] {
        resumed.send(client.request("GET /chat HTTP/1.1", "")).await;
        resumed.answer().await.expect(status);
    }
    assert_eq!(resumed.tls().handshake_kind(), Some(HandshakeKind::Resumed));
    client::new(&sidegate).get("/chat").await.expect(200);
}

#[tokio::test]
async fn tunnels_are_counted_by_identity_and_given_back() {
    let authority = Authority::new("clients");
    let (sidegate, _backend) = limited(&authority, ONE_AT_ONCE).await;
    let known = |name: &str| client::new(&sidegate).tls_with(authority.client(name, 1));
    let (one, two) = (known("spiffe://a/ws/1"), known("spiffe://a/ws/2"));
    let mut open = one.open("/chat").await;
    let (_two, _bare) = (two.open("/chat").await, client::new(&sidegate).open("/chat").await);
    let elsewhere = one.clone().from("127.0.0.2");
    let full = elsewhere.attempt_head("/chat", "");
    elsewhere.expect_refused(full, 429, "connections").await;
    open.close(1000, "").await;
    open.expect_close(1000).await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 2).await;
    elsewhere.open("/chat").await.expect_echo("again").await;
}

#[tokio::test]
async fn saved_unit_counts_new_tunnels_and_frees_old_ones() {
    let authority = Authority::new("clients");
    let (sidegate, _backend) = limited(&authority, "connections = { per_client = 1 }").await;
    let known = client::new(&sidegate).tls_with(authority.client("spiffe://a/ws/1", 1));
    let bare = client::new(&sidegate);
    let mut old = known.open("/chat").await;
    bare.expect_refused(bare.attempt_head("/chat", ""), 429, "connections").await;
    sidegate.policy().limits(ONE_AT_ONCE).write().await;
    let mut new = known.open("/chat").await;
    old.expect_echo("the count closes no tunnel").await;
    known.expect_refused(known.attempt_head("/chat", ""), 429, "connections").await;
    old.close(1000, "").await;
    old.expect_close(1000).await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 1).await;
    // The old tunnel has freed the address that it was counted by, and the new one is counted.
    known.expect_refused(known.attempt_head("/chat", ""), 429, "connections").await;
    bare.open("/chat").await.expect_echo("of the address").await;
    new.close(1000, "").await;
    new.expect_close(1000).await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 0).await;
    known.open("/chat").await.expect_echo("again").await;
}

#[tokio::test]
async fn exception_by_identity_raises_and_lowers_limits() {
    let authority = Authority::new("clients");
    let limits = "connections = { per_client = 2 }\n\
                  [[limits.for]]\nclient = ['127.0.0.0/8']\nconnections = { per_client = 1 }\n\
                  [[limits.for]]\nidentity = ['spiffe://a/ws/*']\n\
                  connections = { per_client = 3 }\n\
                  [[limits.for]]\nidentity = ['spiffe://a/ws/slow']\nidle = '1h'\n\
                  connections = { per_client = 1 }";
    let (sidegate, _backend) = limited(&authority, limits).await;
    let known = |name: &str| client::new(&sidegate).tls_with(authority.client(name, 1));
    let bare = client::new(&sidegate);
    let mut open = Vec::new();
    for (client, most) in
        [(known("spiffe://a/ws/1"), 3), (known("spiffe://a/ws/slow"), 1), (bare, 1)]
    {
        for _ in 0..most {
            open.push(client.open("/chat").await);
        }
        let head = client.attempt_head("/chat", "");
        client.expect_refused(head, 429, "connections").await;
    }
}

#[tokio::test]
async fn client_that_a_proxy_names_has_no_identity() {
    let authority = Authority::new("clients");
    let limits = "requests = { rate = '1/m', burst = 1, per = 'identity' }";
    let server = backend::http(|_| backend::reply(200)).run().await;
    let keys =
        format!("{OPTIONAL}\nforwarded = {{ header = 'x-forwarded-for', from = ['127.0.0.1'] }}");
    let sidegate = asking(&authority, &keys, &server).on_route("http = 'forward'");
    let sidegate = sidegate.limits(limits).run().await;
    // The certificate is the proxy's: its clients must share no budget.
    let proxy = client::new(&sidegate).tls_with(authority.client("spiffe://a/proxy", 1));
    let mut wire = proxy.connect().await;
    for (named, status) in [("192.0.2.1", 200), ("192.0.2.2", 200), ("192.0.2.1", 429)] {
        let forwarded = format!("X-Forwarded-For: {named}\r\n");
        wire.send(proxy.request("GET /chat HTTP/1.1", &forwarded)).await;
        wire.answer().await.expect(status);
    }
    proxy.get("/chat").await.expect(200);
}

#[tokio::test]
async fn candidate_by_identity_counts_open_tunnels_by_its_own_unit() {
    let authority = Authority::new("clients");
    let backend = backend::echo().run().await;
    let candidate = format!("schema = 1\n[client]\nallow = [\"any\"]\n[limits]\n{ONE_AT_ONCE}\n");
    let sidegate = asking(&authority, OPTIONAL, &backend)
        .file("policies/default.shadow.toml", &candidate)
        .run()
        .await;
    let known = |name: &str| client::new(&sidegate).tls_with(authority.client(name, 1));
    let mut open = Vec::new();
    for client in [known("spiffe://a/1"), known("spiffe://a/2"), client::new(&sidegate)] {
        open.push(client.open("/chat").await);
    }
    let differences = "sidegate_candidate_differences_total";
    assert_eq!(sidegate.metric(differences, []).await, 0.0);
    open.push(known("spiffe://a/1").from("127.0.0.2").open("/chat").await);
    let labels = [("difference", "would_refuse"), ("reason", "connections")];
    sidegate.expect_metric(differences, labels, 1).await;
}

/// The question about an attempt of this client.
fn explained_for(client: &str, identity: Option<&str>) -> ExplainRequest {
    ExplainRequest {
        client: client.into(),
        forwarded_for: None,
        listener: None,
        url: "wss://localhost/chat".into(),
        origin: None,
        subprotocol: None,
        identity: identity.map(str::to_owned),
        at: None,
    }
}

#[tokio::test]
async fn explain_has_the_rest_of_the_limits_of_an_identity() {
    let authority = Authority::new("clients");
    let limits = "upgrades = { rate = '1/m', burst = 5, per = 'identity' }\n\
                  connections = { per_client = 9 }\n\
                  [[limits.for]]\nidentity = ['spiffe://a/ws/*']\nconnections = { per_client = 3 }";
    let (sidegate, _backend) = limited(&authority, limits).await;
    let known = client::new(&sidegate).tls_with(authority.client("spiffe://a/ws/1", 1));
    let (_one, _two) = (known.open("/chat").await, known.open("/chat").await);
    for (client, identity, rest) in [
        ("127.0.0.2", Some("spiffe://a/ws/1"), [3, 1]),
        ("127.0.0.1", Some("spiffe://a/ws/2"), [5, 3]),
        ("127.0.0.1", None, [5, 9]),
    ] {
        let answer = sidegate.answer_to(&explained_for(client, identity)).await;
        let of_each: Vec<_> = answer.limits.iter().map(|limit| limit.left).collect();
        assert_eq!(of_each, rest.map(Some), "{}", answer.text);
        let per_client = &answer.limits[1];
        let own = ("identity", identity.unwrap_or("127.0.0.1"), Some("spiffe://a/ws/*"));
        let common = ("address", "127.0.0.1", None);
        let of_client = (
            per_client.per.as_deref().unwrap(),
            per_client.key.as_deref().unwrap(),
            per_client.pattern.as_deref(),
        );
        assert_eq!(of_client, if identity.is_some() { own } else { common });
    }
}

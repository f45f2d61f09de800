//! `client_certificates` of a listener: authorities, revocation lists and revoked serials.
//!
//! Reads and checks files only; `snapshot/client_auth` verifies clients.

use std::sync::Arc;

use rustls::RootCertStore;

use crate::control::config::client_auth::{self, ExpiredCrl, RevocationList};
use crate::control::config::document::{TomlTable, TomlValue};
use crate::control::config::keys::sidegate::client_certificates as keys;
use crate::control::config::keys::sidegate::listener::CLIENT_CERTIFICATES;
use crate::control::config::load_context::LoadContext;
use crate::control::config::off_host;
use crate::control::config::source_text::error;
use crate::policy::list::RevokedSerials;
use crate::snapshot::client_auth::{ClientAuth, ClientAuthOptions};
use crate::snapshot::listener::{ClientCertificates, Protocol};

/// Reads `client_certificates` of the listener `table`. `None` means that it has none, or that an
/// error was reported.
pub fn read(
    table: &mut TomlTable<'_>,
    speaks: Protocol,
    load: &mut LoadContext<'_>,
) -> Option<Arc<ClientCertificates>> {
    let value = table.get(&CLIENT_CERTIFICATES)?;
    if !matches!(speaks, Protocol::Tls(_)) {
        let finding = error("only a listener with TLS can ask for certificates");
        value.report(finding.with_remedy("tls = true"));
    }
    let mut keys = value.table("`client_certificates`".to_owned())?;
    let ca = keys.require(&keys::CA, "ca = \"certs/clients.pem\", the authorities of clients");
    let mode = keys.read_or_default(&keys::MODE);
    let crl = keys.get(&keys::CRL);
    let expired = keys.read_or_default(&keys::ON_EXPIRED);
    let serials = keys.get(&keys::REVOKED_SERIALS);
    keys.finish();
    let crl_files = crl.and_then(|crl| crl.items()).unwrap_or_default();
    let (roots, lists, revoked) = authorities(load, ca?, &crl_files, expired, serials)?;
    let crls_due = lists.iter().filter_map(|list| list.due.clone()).collect();
    let crls = lists.into_iter().map(|list| list.der).collect();
    let enforces_crl_expiry = expired == ExpiredCrl::Reject;
    let options = ClientAuthOptions { roots, crls, enforces_crl_expiry, revoked, mode };
    // Built once here and dropped. rustls reads the lists only now, and a list that it cannot read
    // is an error with a place; found later, it would fail the publish without one.
    if let Err(fault) = ClientAuth::new(options.clone()) {
        crl.unwrap_or(value)
            .report(error(format!("client certificates cannot be verified: {fault}")));
        return None;
    }
    let named =
        |value: Option<TomlValue<'_>>| value.and_then(|value| value.as_str()).map(Arc::from);
    Some(Arc::new(ClientCertificates {
        options,
        ca: named(ca)?,
        crl: crl_files.iter().filter_map(|file| Some(file.as_str()?.into())).collect(),
        revoked_serials: named(serials),
        crls_due,
    }))
}

/// Reads the authorities `ca` with their revocation lists and revoked serials. `None` means that an
/// error was reported.
fn authorities(
    load: &mut LoadContext<'_>,
    ca: TomlValue<'_>,
    crls: &[TomlValue<'_>],
    expired: ExpiredCrl,
    serials: Option<TomlValue<'_>>,
) -> Option<(Arc<RootCertStore>, Vec<RevocationList>, Arc<RevokedSerials>)> {
    let is_left_out = off_host::is_left_out(load, ca);
    let roots = match is_left_out {
        true => off_host::placeholder_authorities(),
        false => client_auth::authorities(load, ca)?,
    };
    // Without the authorities, nothing that they have signed can be checked.
    let mut is_read = |file: &TomlValue<'_>| !off_host::is_left_out(load, *file) && !is_left_out;
    let crls: Vec<_> = crls.iter().copied().filter(&mut is_read).collect();
    let serials = serials.filter(is_read);
    let crls = client_auth::revocation_lists(load, &crls, &roots, expired);
    let revoked = match serials {
        None => Some(Arc::default()),
        Some(serials) => {
            let (revoked, found) = client_auth::revoked_serials(load, serials, &roots);
            load.found.extend(found);
            revoked
        }
    };
    Some((roots, crls?, revoked?))
}

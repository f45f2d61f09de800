//! `[crowdsec]`: the Local API, its key and the bounds of its decisions.
//!
//! Connects to nothing.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Uri;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use zeroize::Zeroizing;

use super::unix_socket::UNIX_PREFIX;
use super::value::socket_path;
use crate::control::config::certificate::{authorities, is_open_to_others};
use crate::control::config::crowdsec_settings::{
    ApiKey, CrowdsecSettings, KeySource, LapiAddress, LapiTls,
};
use crate::control::config::document::{TomlTable, TomlValue};
use crate::control::config::keys::sidegate::crowdsec as keys;
use crate::control::config::load_context::{LoadContext, about};
use crate::control::config::off_host;
use crate::control::config::source_text::{Finding, error, note, warning};
use crate::snapshot::tls::{BackendTls, BackendTlsOptions};

/// Most bytes of a file with a key.
const MAX_KEY_BYTES: u64 = 4 << 10;

/// The parts of the key `url`.
struct LapiUrl {
    https: bool,
    /// Name or address of the host. `None` means a Unix socket.
    host: Option<Box<str>>,
    port: u16,
    /// Path of the socket; empty for TCP.
    socket: PathBuf,
    /// Value of the field `Host`.
    authority: Box<str>,
    /// Path in front of that of each request; without a final slash.
    path: Box<str>,
}

/// Reads `[crowdsec]`. `None` means that there is none, or that an error was reported.
pub fn read(
    mut table: TomlTable<'_>,
    is_there: bool,
    load: &mut LoadContext<'_>,
) -> Option<Arc<CrowdsecSettings>> {
    if !is_there {
        table.finish();
        return None;
    }
    let url = table.require(&keys::URL, "url = \"http://127.0.0.1:8080\", the Local API");
    let key = table.require(&keys::KEY, "key = { file = \"crowdsec.key\" }, that of the bouncer");
    let ca = table.get(&keys::CA);
    let interval = table.read_or_default(&keys::INTERVAL);
    let max_age = table.read_or_default(&keys::MAX_AGE);
    let widest_v4 = table.read_or_default(&keys::WIDEST_V4);
    let widest_v6 = table.read_or_default(&keys::WIDEST_V6);
    let total_v4 = table.read_or_default(&keys::TOTAL_V4);
    let total_v6 = table.read_or_default(&keys::TOTAL_V6);
    let max_revoked = table.read_or_default(&keys::MAX_REVOKED);
    let key = key.and_then(|key| read_key(load, key));
    let parts = url.and_then(|url| read_url(load, url));
    let address = parts.as_ref().and_then(|parts| address(load, &table, parts, ca));
    table.finish();
    let ((key, key_source), parts) = (key?, parts?);
    Some(Arc::new(CrowdsecSettings {
        url: url?.as_str()?.into(),
        address: address?,
        host: parts.authority,
        path: parts.path,
        key,
        key_source,
        ca: ca.and_then(|ca| ca.as_str()).map(Into::into),
        interval,
        max_age,
        widest_v4,
        widest_v6,
        total_v4,
        total_v6,
        max_revoked,
    }))
}

fn read_url(load: &LoadContext<'_>, value: TomlValue<'_>) -> Option<LapiUrl> {
    let parts = value.parse("a URL like \"http://127.0.0.1:8080\"", |text| url(load, text))?;
    let is_near = |host: &str| {
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        address.map_or(host == "localhost", |address| address.is_loopback())
    };
    if !parts.https && parts.host.as_ref().is_some_and(|host| !is_near(host)) {
        let finding = warning("the key and the decisions cross the network in the clear");
        value.report(finding.with_remedy("https://, or an API on this host"));
    }
    Some(parts)
}

fn url(load: &LoadContext<'_>, text: &str) -> Result<LapiUrl, Finding> {
    if let Some(path) = text.strip_prefix(UNIX_PREFIX) {
        let (socket, authority) = (socket_path(load, path)?, "localhost".into());
        let (host, path) = (None, "".into());
        return Ok(LapiUrl { https: false, host, port: 0, socket, authority, path });
    }
    let fault = |what: &str| {
        let finding = error(format!("the URL of a Local API {what}"));
        finding.with_remedy("like \"http://127.0.0.1:8080\" or \"unix:/run/crowdsec.sock\"")
    };
    let uri: Uri = text.parse().map_err(|_| fault("has another form"))?;
    let https = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(fault("begins with http:// or https://")),
    };
    let authority = uri.authority().ok_or_else(|| fault("has a host"))?;
    if authority.as_str().contains('@') || uri.query().is_some() || authority.host().is_empty() {
        return Err(fault("has a host, and neither a user nor a query"));
    }
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let host = authority.host().trim_matches(['[', ']']);
    Ok(LapiUrl {
        https,
        host: Some(host.into()),
        port,
        socket: PathBuf::new(),
        authority: authority.as_str().into(),
        path: uri.path().trim_end_matches('/').into(),
    })
}

fn address(
    load: &mut LoadContext<'_>,
    table: &TomlTable<'_>,
    url: &LapiUrl,
    ca: Option<TomlValue<'_>>,
) -> Option<LapiAddress> {
    if let Some(ca) = ca.filter(|_| !url.https) {
        ca.report(warning("`ca` does nothing: `url` is not https://"));
    }
    let Some(host) = url.host.clone() else { return Some(LapiAddress::Unix(url.socket.clone())) };
    if !url.https {
        return Some(LapiAddress::Tcp { host, port: url.port, tls: None });
    }
    let roots = match ca {
        Some(ca) if off_host::is_left_out(load, ca) => RootCertStore::empty(),
        Some(ca) => authorities(load, ca)?,
        None => system(load, table)?,
    };
    let Ok(name) = ServerName::try_from(host.to_string()) else {
        table.report(error(format!("`url`: {host} is not a name that a certificate can have")));
        return None;
    };
    let options = BackendTlsOptions { roots: Arc::new(roots), identity: None, name: None };
    let built = BackendTls::new(options);
    let fault = |fault| table.report(error(format!("TLS cannot be set up: {fault}")));
    let tls = Some(LapiTls { config: built.map_err(fault).ok()?.config, name });
    Some(LapiAddress::Tcp { host, port: url.port, tls })
}

/// The authorities that the system trusts.
fn system(load: &mut LoadContext<'_>, table: &TomlTable<'_>) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let certificates = load.files.call(|| rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(certificates.unwrap_or_default());
    if roots.is_empty() && load.is_off_host {
        table.report(note("this system trusts no authority: not checked with --off-host"));
    } else if roots.is_empty() {
        let finding = error("this system trusts no authority that could vouch for the Local API");
        table.report(finding.with_remedy("ca = \"certs/lapi-ca.pem\", or install ca-certificates"));
        return None;
    }
    Some(roots)
}

fn read_key(load: &mut LoadContext<'_>, value: TomlValue<'_>) -> Option<(ApiKey, KeySource)> {
    let mut table = value.table("`key`".to_owned())?;
    let (credential, file) = (table.get(&keys::CREDENTIAL), table.get(&keys::FILE));
    table.finish();
    match (credential, file) {
        (Some(credential), None) => {
            let name = credential.string()?;
            let source = KeySource::Credential(name.into());
            let key = credential_key(load, name).map_err(|finding| credential.report(finding));
            Some((key.ok()?, source))
        }
        (None, Some(file)) => {
            let name = file.string()?;
            if load.is_off_host {
                off_host::leave_key_out(file);
                return Some((ApiKey::default(), KeySource::File(name.into())));
            }
            let key = load.path(name).and_then(|path| key_in(load, &path, name));
            if key.is_ok() && is_open_to_others(load, name) {
                let finding = warning("others can read the key");
                file.report(finding.with_remedy(format!("chmod o-rwx {name}")));
            }
            let key = key.map_err(|finding| file.report(finding)).ok()?;
            Some((key, KeySource::File(name.into())))
        }
        _ => {
            let finding = error("exactly one of `credential` and `file` is needed");
            value.report(finding.with_remedy("key = { file = \"crowdsec.key\" }"));
            None
        }
    }
}

/// The key in a credential that systemd passes (systemd.exec(5), "Credentials").
fn credential_key(load: &mut LoadContext<'_>, name: &str) -> Result<ApiKey, Finding> {
    let is_name = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    if !is_name {
        return Err(error(format!("\"{name}\" is not the name of a credential")));
    }
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|folder| !folder.is_empty());
    match folder {
        Some(folder) => key_in(load, &Path::new(&folder).join(name), name),
        // Only the service has its credentials. A check by a person must not fail for that.
        None if load.passed.is_none() => Ok(ApiKey::default()),
        None => {
            let finding = error("systemd passes no credentials to this process");
            let remedy =
                format!("LoadCredential={name}:/PATH in the unit, or key = {{ file = … }}");
            Err(finding.with_remedy(remedy))
        }
    }
}

fn key_in(load: &mut LoadContext<'_>, path: &Path, name: &str) -> Result<ApiKey, Finding> {
    let bytes = load.files.read(path, MAX_KEY_BYTES).map_err(|fault| about(name, &fault))?;
    let text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
    let key = text.trim();
    // Nothing of the file is shown: it may be another secret.
    match key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Err(error(format!("{name} holds no key"))
            .with_remedy("one line, as `cscli bouncers add` prints it")),
        false => Ok(ApiKey::new(key.to_owned())),
    }
}

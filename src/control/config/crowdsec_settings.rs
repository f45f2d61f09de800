//! The values of `[crowdsec]`, defaults filled in.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use zeroize::Zeroizing;

use crate::control::config::document::unit::ShareOrCount;

/// The Local API of CrowdSec, and the bounds of its decisions.
#[derive(Debug)]
pub struct CrowdsecSettings {
    /// The key `url`, as written in the file.
    pub url: Box<str>,
    /// Where the API answers.
    pub address: LapiAddress,
    /// Value of the field `Host`.
    pub host: Box<str>,
    /// Path of `url` in front of that of each request; without a final slash.
    pub path: Box<str>,
    /// The key of the bouncer.
    pub key: ApiKey,
    /// Where the key is written.
    pub key_source: KeySource,
    /// File of the authorities, as written. `None` means the authorities of the system.
    pub ca: Option<Box<str>>,
    /// Time between two polls.
    pub interval: Duration,
    /// Time without an answer after which status and log warn.
    pub max_age: Duration,
    /// Length of the widest IPv4 network.
    pub widest_v4: u32,
    /// Length of the widest IPv6 network.
    pub widest_v6: u32,
    /// Length of the IPv4 network with as many addresses as all decisions may ban; 0 for any.
    pub total_v4: u32,
    /// The same of IPv6.
    pub total_v6: u32,
    /// Share or number of clients with tunnels that new decisions may end.
    pub max_revoked: ShareOrCount,
}

/// Where the Local API answers.
#[derive(Debug)]
pub enum LapiAddress {
    /// At a TCP port.
    Tcp {
        /// Name or address of the host.
        host: Box<str>,
        /// TCP port of the API.
        port: u16,
        /// TLS of `https://`. `None` means in the clear.
        tls: Option<LapiTls>,
    },
    /// At a Unix socket with this path.
    Unix(PathBuf),
}

/// TLS towards the Local API.
pub struct LapiTls {
    /// Verifies the certificate of the API.
    pub config: Arc<ClientConfig>,
    /// The name that the certificate must have.
    pub name: ServerName<'static>,
}

impl fmt::Debug for LapiTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LapiTls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Where the key is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In a credential of systemd with this name.
    Credential(Box<str>),
    /// In the file with this path.
    File(Box<str>),
}

/// The key of a bouncer. It is not shown by `Debug`, and is overwritten in memory at its end.
#[derive(Clone, Default)]
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// Takes the key over.
    pub fn new(key: String) -> ApiKey {
        ApiKey(Zeroizing::new(key))
    }

    /// The key itself, for the request alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

#[cfg(test)]
impl CrowdsecSettings {
    /// Settings with the defaults, for an API in the clear at this port.
    pub fn at_port(port: u16) -> CrowdsecSettings {
        CrowdsecSettings {
            url: format!("http://127.0.0.1:{port}").into(),
            address: LapiAddress::Tcp { host: "127.0.0.1".into(), port, tls: None },
            host: format!("127.0.0.1:{port}").into(),
            path: "".into(),
            key: ApiKey::new("a-key".into()),
            key_source: KeySource::File("crowdsec.key".into()),
            ca: None,
            interval: Duration::from_secs(10),
            max_age: Duration::from_secs(300),
            widest_v4: 16,
            widest_v6: 32,
            total_v4: 8,
            total_v6: 24,
            max_revoked: ShareOrCount::Percent(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_not_shown() {
        let key = ApiKey::new("s3cret".into());
        assert_eq!((format!("{key:?}").as_str(), key.reveal()), ("ApiKey(…)", "s3cret"));
    }
}

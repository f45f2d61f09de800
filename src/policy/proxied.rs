//! The connection that a PROXY header describes: who connected to the proxy in front, and where.
//!
//! Pure data. `data/proxy_protocol` reads and writes headers; the listener says whose count.

use std::fmt;
use std::net::SocketAddr;

use crate::policy::network::Client;

/// A connection to the proxy in front, as its PROXY header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxiedConnection {
    /// The version of the header.
    pub version: HeaderVersion,
    /// Both ends of the connection. `None` means that the peer speaks for itself (`LOCAL`), or that
    /// it does not know the client (`UNKNOWN`, or an address that is no IP address).
    pub endpoints: Option<Endpoints>,
    /// Further facts, which are logged.
    pub details: ProxyDetails,
}

/// Both ends of a connection to the proxy in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoints {
    /// The client's address and port.
    pub source: SocketAddr,
    /// The address and port that the client connected to.
    pub destination: SocketAddr,
}

/// The version of a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderVersion {
    /// A line of text.
    V1,
    /// Binary, with room for TLVs.
    V2,
}

/// Facts in the TLVs of a PROXY header of version 2. Their texts are bounded, and come from the
/// network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProxyDetails {
    /// The host that the client asked for, mostly its SNI (`PP2_TYPE_AUTHORITY`).
    pub authority: Option<Box<str>>,
    /// The id that the proxy gave the connection (`PP2_TYPE_UNIQUE_ID`), in hex unless it is text.
    pub unique_id: Option<Box<str>>,
    /// The client's TLS. `None` means that it is not known (`PP2_TYPE_SSL`).
    pub tls: Option<ProxiedTls>,
}

/// The client's TLS with the proxy in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxiedTls {
    /// Whether the client spoke TLS.
    pub is_tls: bool,
    /// The version of TLS (`PP2_SUBTYPE_SSL_VERSION`).
    pub version: Option<Box<str>>,
    /// The common name of the client's certificate (`PP2_SUBTYPE_SSL_CN`).
    pub common_name: Option<Box<str>>,
    /// Whether the client showed a certificate, on this connection or earlier in the session.
    pub has_certificate: bool,
    /// The outcome of its verification: 0 means verified.
    pub verify: u32,
}

impl ProxiedConnection {
    /// The client that the header names. `None` means that the peer's own address holds.
    pub fn client(&self) -> Option<Client> {
        self.endpoints.map(|endpoints| Client::new(endpoints.source.ip()))
    }
}

impl HeaderVersion {
    /// The word in the log.
    pub const fn word(self) -> &'static str {
        match self {
            HeaderVersion::V1 => "v1",
            HeaderVersion::V2 => "v2",
        }
    }
}

impl ProxyDetails {
    /// Whether there is nothing to log.
    pub fn is_empty(&self) -> bool {
        *self == ProxyDetails::default()
    }
}

/// Displays as `authority="a.example" unique_id="7f" tls="TLSv1.3" cn="a" verify=0`. The quotes
/// keep a value from posing as another fact.
impl fmt::Display for ProxyDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let texts = [("authority", &self.authority), ("unique_id", &self.unique_id)];
        for (name, text) in texts {
            if let Some(text) = text {
                write!(f, "{separator}{name}={text:?}")?;
                separator = " ";
            }
        }
        let Some(tls) = &self.tls else { return Ok(()) };
        match &tls.version {
            Some(version) => write!(f, "{separator}tls={version:?}")?,
            None => write!(f, "{separator}tls={}", tls.is_tls)?,
        }
        if let Some(name) = &tls.common_name {
            write!(f, " cn={name:?}")?;
        }
        if tls.has_certificate { write!(f, " verify={}", tls.verify) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_quoted() {
        let tls = ProxiedTls {
            is_tls: true,
            version: Some("TLSv1.3".into()),
            common_name: Some("a\" verify=0\n".into()),
            has_certificate: true,
            verify: 10,
        };
        let authority = Some("a.example".into());
        let details = ProxyDetails { authority, unique_id: None, tls: Some(tls) };
        let expected = r#"authority="a.example" tls="TLSv1.3" cn="a\" verify=0\n" verify=10"#;
        assert_eq!(details.to_string(), expected);
        assert_eq!(ProxyDetails::default().to_string(), "");
    }
}

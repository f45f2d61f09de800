//! Writes the PROXY header, of version 2, that a connection to a backend begins with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader, SslInfo, Tlv};

use crate::policy::network::Client;
use crate::policy::proxied::Endpoints;

/// What the header says about a client.
#[derive(Debug, Clone, Copy)]
pub struct ClientFacts<'f> {
    /// The client that was judged.
    pub client: Client,
    /// Both ends of its connection. `None` means that they are not known.
    pub endpoints: Option<Endpoints>,
    /// The client's TLS with Sidegate. `None` means that it came in the clear.
    pub tls: Option<TlsFacts<'f>>,
}

/// What the header says about a client's TLS.
#[derive(Debug, Clone, Copy)]
pub struct TlsFacts<'f> {
    /// The version, in the words of OpenSSL. `None` means that it is not known.
    pub version: Option<&'static str>,
    /// The host that the client named in its ClientHello. `None` means that it named none.
    pub authority: Option<&'f str>,
    /// Whether the client has a certificate, which was verified.
    pub has_certificate: bool,
    /// The common name of that certificate. `None` means that it has none.
    pub common_name: Option<&'f str>,
}

/// The position of the command in a header, and `PROXY` of version 2.
const COMMAND_AT: usize = 12;
const PROXY_COMMAND: u8 = 0x21;

/// The header for these facts. A client without an IP address is relayed with `UNSPEC`: the
/// receiver uses the address of the connection (section 2.2).
pub fn v2_header(facts: &ClientFacts<'_>) -> Box<[u8]> {
    let addresses = addresses(facts);
    let mut header = ProxyHeader::with_tlvs(addresses, []);
    if let Some(tls) = &facts.tls {
        if let Some(authority) = tls.authority {
            header.append_tlv(Tlv::Authority(authority.into()));
        }
        header.append_tlv(Tlv::Ssl(ssl(tls)));
    }
    let mut bytes = Vec::new();
    // Fails only for two families, which `addresses` rules out, and for more than 64 KiB.
    if header.encode_v2(&mut bytes).is_err() {
        bytes.clear();
        let bare = ProxyHeader::with_tlvs(None, []);
        let _ = bare.encode_v2(&mut bytes);
    }
    // The crate writes LOCAL where there is no address. That is a proxy's own connection.
    bytes[COMMAND_AT] = PROXY_COMMAND;
    bytes.into()
}

fn ssl(tls: &TlsFacts<'_>) -> SslInfo<'static> {
    // `verify` is not zero where there was no certificate to verify.
    let verify = u32::from(!tls.has_certificate);
    let mut ssl = SslInfo::new(true, tls.has_certificate, tls.has_certificate, verify);
    if let Some(version) = tls.version {
        ssl.append_tlv(Tlv::SslVersion(version.into()));
    }
    if let Some(name) = tls.common_name {
        ssl.append_tlv(Tlv::SslCn(name.into()));
    }
    ssl
}

/// Both addresses in one family. A client that is not the source of its connection, since a
/// forwarder has named it, has no port that is known.
fn addresses(facts: &ClientFacts<'_>) -> Option<ProxiedAddress> {
    let client = facts.client.ip()?;
    // A connection that is older than the route's key: its client is known all the same.
    let Some(endpoints) = facts.endpoints else {
        let nowhere = if client.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let (source, destination) = (SocketAddr::new(client, 0), SocketAddr::new(nowhere, 0));
        return Some(ProxiedAddress::stream(source, destination));
    };
    let is_source = endpoints.source.ip().to_canonical() == client;
    let source = SocketAddr::new(client, if is_source { endpoints.source.port() } else { 0 });
    let to = endpoints.destination;
    let destination = SocketAddr::new(to.ip().to_canonical(), to.port());
    Some(if source.is_ipv4() == destination.is_ipv4() {
        ProxiedAddress::stream(source, destination)
    } else {
        ProxiedAddress::stream(mapped(source), mapped(destination))
    })
}

/// The address in IPv6, mapped where it is one of IPv4 (RFC 4291 §2.5.5.2).
fn mapped(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::proxy_protocol::header::parse;
    use crate::policy::network::{Peer, UnixUser};
    use crate::policy::proxied::ProxiedConnection;

    fn endpoints(source: &str, destination: &str) -> Endpoints {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Endpoints { source, destination }
    }

    fn facts(client: &str, endpoints: Endpoints) -> ClientFacts<'static> {
        let client = Client::new(client.parse().unwrap());
        ClientFacts { client, endpoints: Some(endpoints), tls: None }
    }

    /// What a receiver reads.
    fn read(facts: &ClientFacts<'_>) -> ProxiedConnection {
        let header = v2_header(facts);
        let (connection, length) = parse(&header).unwrap().unwrap();
        assert_eq!(length, header.len());
        connection
    }

    #[test]
    fn addresses_are_those_of_the_client_in_one_family() {
        let v4 = endpoints("192.0.2.7:51234", "198.51.100.1:443");
        assert_eq!(read(&facts("192.0.2.7", v4)).endpoints, Some(v4));
        let v6 = endpoints("[2001:db8::7]:1", "[2001:db8::1]:443");
        assert_eq!(read(&facts("2001:db8::7", v6)).endpoints, Some(v6));
        let dual = endpoints("192.0.2.7:51234", "[::ffff:198.51.100.1]:443");
        assert_eq!(read(&facts("192.0.2.7", dual)).endpoints, Some(v4));
        let mixed = endpoints("[2001:db8::7]:0", "[::ffff:198.51.100.1]:443");
        assert_eq!(read(&facts("2001:db8::7", v4)).endpoints, Some(mixed));
        let older = ClientFacts { endpoints: None, ..facts("192.0.2.7", v4) };
        assert_eq!(read(&older).endpoints, Some(endpoints("192.0.2.7:0", "0.0.0.0:0")));
        let named = endpoints("203.0.113.9:0", "198.51.100.1:443");
        assert_eq!(read(&facts("203.0.113.9", v4)).endpoints, Some(named));
    }

    #[test]
    fn client_without_an_ip_address_is_relayed_as_unspecified() {
        let client = Client::of_peer(Peer::unix(UnixUser { uid: 33, gid: 33 }));
        let header = v2_header(&ClientFacts { client, endpoints: None, tls: None });
        assert_eq!(header[12..], [0x21, 0x00, 0, 0]);
    }

    #[test]
    fn tls_is_told_in_tlvs() {
        let mut tls = TlsFacts {
            version: Some("TLSv1.3"),
            authority: Some("ws.example.com"),
            has_certificate: false,
            common_name: None,
        };
        let both = endpoints("192.0.2.7:51234", "198.51.100.1:443");
        let with = |tls| read(&ClientFacts { tls: Some(tls), ..facts("192.0.2.7", both) }).details;
        assert_eq!(with(tls).to_string(), r#"authority="ws.example.com" tls="TLSv1.3""#);
        assert_eq!(with(tls).tls.unwrap().verify, 1);
        (tls.has_certificate, tls.common_name) = (true, Some("a"));
        let expected = r#"authority="ws.example.com" tls="TLSv1.3" cn="a" verify=0"#;
        assert_eq!(with(tls).to_string(), expected);
    }
}

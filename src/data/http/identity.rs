//! Identity headers: fields in which a gateway names the client of a request to a backend, its
//! origin and its target.
//!
//! A client may not set them, since backends and frameworks believe them. `docs/spec/wire.md`
//! lists them. Names that applications use for their own purposes (`X-User-Id`,
//! `X-Auth-Token`, `X-Client-Version`) are none of them, nor are signed tokens.

/// The longest name that is compared whole. Of a longer name only the beginning is looked at.
const MAX_NAME_BYTES: usize = 64;

/// Names, sorted. Bytes other than letters and digits are written as `-`.
const IDENTITY_NAMES: [&str; 102] = [
    "akamai-client-ip",
    "akamai-edgescape",
    "ali-cdn-real-ip",
    "cdn-src-ip",
    "cdn-src-port",
    "cf-access-authenticated-user-email",
    "cf-connecting-o2o",
    "cf-pseudo-ipv4",
    "cf-visitor",
    "client-address",
    "client-ip",
    "client-verify",
    "cluster-client-ip",
    "coming-from",
    "do-connecting-ip",
    "eo-client-ip",
    "eo-connecting-ip",
    "fastly-ssl",
    "fastly-temp-xff",
    "forwarded",
    "forwarded-for",
    "forwarded-for-ip",
    "forwarded-host",
    "forwarded-proto",
    "front-end-https",
    "incap-client-ip",
    "nsc-client-ip",
    "path-info",
    "proxy",
    "proxy-auth-cert",
    "proxy-client-ip",
    "proxy-ssl-id",
    "proxy-user",
    "rlnclientipaddr",
    "script-name",
    "source-ip",
    "true-client-ip",
    "x-accel-mapping",
    "x-akamai-edgescape",
    "x-anonymous-consumer",
    "x-auth-cert",
    "x-cdn-src-ip",
    "x-cdn-src-port",
    "x-client-address",
    "x-client-cn",
    "x-client-dn",
    "x-client-host",
    "x-client-ip",
    "x-client-port",
    "x-client-s-dn",
    "x-client-ssl",
    "x-client-verify",
    "x-cluster-client-ip",
    "x-cluster-ip",
    "x-coming-from",
    "x-credential-identifier",
    "x-custom-ip-authorization",
    "x-forward-for",
    "x-forwarded",
    "x-forwarder-for",
    "x-from-ip",
    "x-host",
    "x-host-override",
    "x-http-destinationurl",
    "x-http-host-override",
    "x-https",
    "x-ip",
    "x-ip-trail",
    "x-middleware-subrequest",
    "x-original-for",
    "x-original-host",
    "x-original-method",
    "x-original-path",
    "x-original-proto",
    "x-original-remote-addr",
    "x-original-uri",
    "x-original-url",
    "x-peer-ip",
    "x-proxy-client-ip",
    "x-proxy-host",
    "x-proxy-ip",
    "x-proxy-url",
    "x-proxyuser-ip",
    "x-real-host",
    "x-real-ip",
    "x-real-port",
    "x-real-proto",
    "x-realip",
    "x-replaced-path",
    "x-request-id",
    "x-requesting-ip",
    "x-scheme",
    "x-script-name",
    "x-sendfile-type",
    "x-source-ip",
    "x-sp-client-ip",
    "x-true-client-ip",
    "x-true-ip",
    "x-url-scheme",
    "x-user-ip",
    "x-userinfo",
    "x-wap-network-client-ip",
];

/// How further names begin, sorted. None of them begins with another one.
const IDENTITY_PREFIXES: [&str; 53] = [
    "-ws",
    "cf-connecting-ip",
    "cf-ip",
    "client-cert",
    "cloudfront-forwarded-",
    "cloudfront-viewer-",
    "fastly-client",
    "fly-client-",
    "fly-forwarded-",
    "iv-",
    "mellon-",
    "oam-",
    "oidc-",
    "remote-",
    "shib-",
    "sm-",
    "ssl-",
    "tailscale-user-",
    "wl-proxy-",
    "x-amzn-lattice-",
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-amzn-source-",
    "x-amzn-tls-",
    "x-appengine-",
    "x-arr-clientcert",
    "x-arr-ssl",
    "x-auth-request-",
    "x-authenticated-",
    "x-authentik-",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-cert",
    "x-consumer-",
    "x-envoy-",
    "x-forwarded-",
    "x-goog-authenticated-user-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-nf-client-",
    "x-original-forwarded-",
    "x-originating-",
    "x-pomerium-",
    "x-remote-",
    "x-rewrite-",
    "x-ssl",
    "x-sucuri-",
    "x-tls-client-",
    "x-vercel-forwarded-",
    "x-vercel-ip-",
    "x-vercel-proxied-",
    "x-vouch-",
    "x-webauth-",
];

/// Whether `name`, in lower case, is an identity header, as any backend may read it: CGI, WSGI and
/// PHP take `_` for `-`, and lighttpd takes every other punctuation for it. A `HTTP_` in front is
/// skipped, since code that was written for CGI variables looks for fields of such names.
pub fn is_identity(name: &str) -> bool {
    let mut read = [0; MAX_NAME_BYTES];
    let length = name.len().min(MAX_NAME_BYTES);
    for (to, from) in read.iter_mut().zip(name.bytes()) {
        *to = if from.is_ascii_alphanumeric() { from } else { b'-' };
    }
    let read = &read[..length];
    let read = read.strip_prefix(b"http-").unwrap_or(read);
    // A longer name equals no listed one, but may still begin with one of `IDENTITY_PREFIXES`.
    let whole = name.len() <= MAX_NAME_BYTES;
    let is_listed =
        whole && IDENTITY_NAMES.binary_search_by(|known| known.as_bytes().cmp(read)).is_ok();
    is_listed || {
        // Only the last beginning that does not sort behind the name can match: any between a match
        // and the name would begin with that match, and none begins with another.
        let behind = IDENTITY_PREFIXES.partition_point(|begins| begins.as_bytes() <= read);
        behind.checked_sub(1).is_some_and(|at| read.starts_with(IDENTITY_PREFIXES[at].as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, identity: bool) {
        assert_eq!(is_identity(&name.to_ascii_lowercase()), identity, "{name}");
    }

    #[test]
    fn the_tables_are_sorted_and_no_beginning_hides_another() {
        assert!(IDENTITY_NAMES.is_sorted() && IDENTITY_PREFIXES.is_sorted());
        for (at, begins) in IDENTITY_PREFIXES.iter().enumerate() {
            assert!(begins.len() < MAX_NAME_BYTES);
            let rest = &IDENTITY_PREFIXES[at + 1..];
            assert!(!rest.iter().any(|other| other.starts_with(begins)), "{begins}");
            assert!(!IDENTITY_NAMES.iter().any(|name| name.starts_with(begins)), "{begins}");
        }
    }

    #[test]
    fn every_name_is_found_in_every_spelling() {
        let begun = IDENTITY_PREFIXES.iter().map(|begins| format!("{begins}abc"));
        for name in IDENTITY_NAMES.iter().map(|name| (*name).to_owned()).chain(begun) {
            check(&name, true);
            check(&name.replace('-', "_"), true);
            check(&name.replace('-', "."), true);
            check(&format!("HTTP_{}", name.replace('-', "_")), true);
        }
    }

    #[test]
    fn fields_that_frameworks_trust_are_identity_headers() {
        for name in [
            "X-Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-User",
            "X-Forwarded-By",
            "Fastly-Client-IP",
            "X-Originating-IP",
            "X-Envoy-External-Address",
            "CF-Connecting-IPv6",
            "CF-IPCountry",
            "X-ProxyUser-Ip",
            "X-Appengine-User-IP",
            "X-Azure-ClientIP",
            "WL-Proxy-Client-IP",
            "X-Remote-Addr",
            "REMOTE_USER",
            "HTTP_CLIENT_IP",
            "X-Amzn-Mtls-Clientcert-Subject",
            "X-SSL-Client-Verify",
            "X-WEBAUTH-USER",
            "X-Original-URL",
            "$WSRA",
            "Proxy",
            "SCRIPT_NAME",
            "PATH_INFO",
            "X-Script-Name",
            "X-Middleware-Subrequest",
        ] {
            check(name, true);
        }
        check(&format!("X-Forwarded-{}", "a".repeat(200)), true);
    }

    #[test]
    fn application_fields_pass() {
        for name in [
            "X-Forward",
            "X-Api-Key",
            "X-User-Id",
            "X-Auth-Token",
            "X-Client-Version",
            "X-Client-Info",
            "X-Original-Filename",
            "X-HTTP-Method-Override",
            "X-Amzn-Trace-Id",
            "CF-Ray",
            "Traceparent",
            "Authorization",
            "Cookie",
            "HTTP2-Settings",
            "Proxy-Authorization",
            "Sec-WebSocket-Key",
            "Client",
            "Remote",
            "Via",
            "A",
        ] {
            check(name, false);
        }
        check(&"a".repeat(200), false);
    }

    #[test]
    fn the_specification_lists_every_name() {
        let page = include_str!("../../../docs/spec/wire.md").to_ascii_lowercase();
        for name in IDENTITY_NAMES {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
        for begins in IDENTITY_PREFIXES {
            let written = if begins == "-ws" { "$ws" } else { begins };
            assert!(page.contains(&format!("`{written}*`")), "{begins}");
        }
    }

    #[test]
    fn the_specification_lists_no_name_that_passes() {
        let page = include_str!("../../../docs/spec/wire.md");
        let (_, section) = page.split_once("## Identity headers\n").unwrap();
        let rows =
            section.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| "));
        let names: Vec<_> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
        assert!(names.len() >= IDENTITY_NAMES.len() + IDENTITY_PREFIXES.len(), "{}", names.len());
        for name in names {
            check(&name.replace('*', "abc"), true);
        }
    }
}

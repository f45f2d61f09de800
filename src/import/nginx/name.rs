//! `server_name`: the names of a server.

use sidegate::policy::route::HostPattern;

/// One name of a `server_name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerName {
    /// `ws.example.com`: this host alone.
    Exact(String),
    /// `*.example.com`: any number of labels before it.
    Subdomains(String),
    /// `.example.com`: `example.com` and every host below it.
    Both(String),
    /// `www.example.*`, a regular expression, or `""` for requests without a host: no route's host
    /// can express these.
    Unsupported(String),
    /// `_` and the like: no request has this host.
    Unmatchable,
}

impl ServerName {
    /// Parses one word of a `server_name`.
    pub fn parse(text: &str) -> ServerName {
        let lower = text.to_ascii_lowercase();
        if text.starts_with('~') || text.is_empty() {
            return ServerName::Unsupported(text.to_owned());
        }
        if let Some(parent) = lower.strip_prefix("*.") {
            return ServerName::host(parent, ServerName::Subdomains);
        }
        if let Some(parent) = lower.strip_prefix('.') {
            return ServerName::host(parent, ServerName::Both);
        }
        // `$hostname` is known only on the machine where nginx runs.
        if lower.ends_with(".*") || lower.starts_with('$') {
            return ServerName::Unsupported(lower);
        }
        ServerName::host(&lower, ServerName::Exact)
    }

    fn host(text: &str, name: impl Fn(String) -> ServerName) -> ServerName {
        match HostPattern::parse(text) {
            // `_` is a valid host by the grammar, and by convention matches no request.
            Ok(HostPattern::Exact(host)) if &*host != "_" => name(host.into()),
            _ => ServerName::Unmatchable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_are_classified() {
        let exact = |name: &str| ServerName::Exact(name.into());
        for (text, name) in [
            ("WS.Example.com", exact("ws.example.com")),
            ("*.example.com", ServerName::Subdomains("example.com".into())),
            (".example.com", ServerName::Both("example.com".into())),
            ("www.example.*", ServerName::Unsupported("www.example.*".into())),
            ("~^(?<user>.+)\\.A$", ServerName::Unsupported("~^(?<user>.+)\\.A$".into())),
            ("_", ServerName::Unmatchable),
            ("", ServerName::Unsupported("".into())),
            ("--", exact("--")),
            ("!", ServerName::Unmatchable),
        ] {
            assert_eq!(ServerName::parse(text), name, "{text:?}");
        }
    }
}

//! `server_name`: the names of a server.

use sidegate::policy::route::HostPattern;

/// One name of a `server_name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// `ws.example.com`: this host alone.
    Exact(String),
    /// `*.example.com`: any number of labels before it.
    Below(String),
    /// `.example.com`: `example.com` and every host below it.
    Both(String),
    /// `www.example.*`, a regular expression, or `""` for requests without a host: no route's host
    /// can express these.
    Odd(String),
    /// `_` and the like: no request has this host.
    Nobody,
}

impl Name {
    /// Parses one word of a `server_name`.
    pub fn parse(text: &str) -> Name {
        let lower = text.to_ascii_lowercase();
        if text.starts_with('~') || text.is_empty() {
            return Name::Odd(text.to_owned());
        }
        if let Some(parent) = lower.strip_prefix("*.") {
            return Name::host(parent, Name::Below);
        }
        if let Some(parent) = lower.strip_prefix('.') {
            return Name::host(parent, Name::Both);
        }
        if lower.ends_with(".*") || lower.starts_with('$') {
            return Name::Odd(lower);
        }
        Name::host(&lower, Name::Exact)
    }

    fn host(text: &str, name: impl Fn(String) -> Name) -> Name {
        match HostPattern::parse(text) {
            // `_` is a valid host by the grammar, and by convention matches no request.
            Ok(HostPattern::Exact(host)) if &*host != "_" => name(host.into()),
            _ => Name::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_exact_below_another_or_nobodys() {
        let exact = |name: &str| Name::Exact(name.into());
        for (text, name) in [
            ("WS.Example.com", exact("ws.example.com")),
            ("*.example.com", Name::Below("example.com".into())),
            (".example.com", Name::Both("example.com".into())),
            ("www.example.*", Name::Odd("www.example.*".into())),
            ("~^(?<user>.+)\\.A$", Name::Odd("~^(?<user>.+)\\.A$".into())),
            ("_", Name::Nobody),
            ("", Name::Odd("".into())),
            ("--", exact("--")),
            ("!", Name::Nobody),
        ] {
            assert_eq!(Name::parse(text), name, "{text:?}");
        }
    }
}

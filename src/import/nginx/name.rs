//! `server_name`: the names that a server goes by.

use sidegate::policy::route::HostPattern;

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// `ws.example.com`
    Exact(String),
    /// `*.example.com`: so many labels as you like before it.
    Below(String),
    /// `.example.com`: `example.com`, and all below it.
    Both(String),
    /// `www.example.*`, a regular expression, or `""` for requests without a host: what no route's host
    /// can say.
    Odd(String),
    /// `_` and the like: no request has it.
    Nobody,
}

impl Name {
    /// Reads one word of `server_name`.
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
            // `_` is a host as far as the grammar goes, and the customary way to say nobody.
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

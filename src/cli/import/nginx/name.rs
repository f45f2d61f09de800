//! `server_name`: the names that a server goes by.

use sidegate::policy::route::HostPattern;

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// `ws.example.com`
    Exact(String),
    /// `*.example.com`: so many labels as you like before it. `.example.com` is that, and `example.com`.
    Below(String),
    /// `www.example.*`, or a regular expression: what no route's host can say.
    Odd(String),
    /// `""`, `_` and the like: no request has it.
    Nobody,
}

impl Name {
    /// Reads one word of `server_name`: one name, or two.
    pub fn parse(text: &str) -> Vec<Name> {
        let lower = text.to_ascii_lowercase();
        if text.starts_with('~') {
            return vec![Name::Odd(text.to_owned())];
        }
        if let Some(parent) = lower.strip_prefix("*.") {
            return vec![Name::host(parent, Name::Below)];
        }
        if let Some(parent) = lower.strip_prefix('.') {
            return vec![Name::host(parent, Name::Exact), Name::host(parent, Name::Below)];
        }
        if lower.ends_with(".*") || lower.starts_with('$') {
            return vec![Name::Odd(lower)];
        }
        vec![Name::host(&lower, Name::Exact)]
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
        let (exact, below) = (|name: &str| Name::Exact(name.into()), |name: &str| Name::Below(name.into()));
        for (text, names) in [
            ("WS.Example.com", vec![exact("ws.example.com")]),
            ("*.example.com", vec![below("example.com")]),
            (".example.com", vec![exact("example.com"), below("example.com")]),
            ("www.example.*", vec![Name::Odd("www.example.*".into())]),
            ("~^(?<user>.+)\\.A$", vec![Name::Odd("~^(?<user>.+)\\.A$".into())]),
            ("_", vec![Name::Nobody]),
            ("", vec![Name::Nobody]),
            ("--", vec![exact("--")]),
            ("!", vec![Name::Nobody]),
        ] {
            assert_eq!(Name::parse(text), names, "{text:?}");
        }
    }
}

//! The parameters of a request: `name=value&…`, percent-encoded, each at most once.

use std::fmt::Write;

use crate::policy::request::decoded;

/// `?name=value&…` with percent-encoded values (RFC 3986 §2.1). Empty without parameters.
pub fn encode_query(parameters: &[(&str, String)]) -> String {
    let mut query = String::new();
    for (at, (name, value)) in parameters.iter().enumerate() {
        query.push(if at == 0 { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                query.push(char::from(byte));
            } else {
                // Writing to a string doesn't fail.
                let _ = write!(query, "%{byte:02X}");
            }
        }
    }
    query
}

/// The parameters of `query` by name, in the order written.
///
/// # Errors
/// A sentence that says which one is wrong.
pub fn pairs(query: &str) -> Result<Vec<(&str, String)>, String> {
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // A `+` stays a `+`: only percent-escapes are decoded, unlike in HTML forms.
        let value = String::from_utf8(decoded(value).into_owned())
            .map_err(|_| format!("`{}` is not UTF-8", name.escape_debug()))?;
        if pairs.iter().any(|(known, _)| *known == name) {
            return Err(format!("`{}` is given twice", name.escape_debug()));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// The sentence about a parameter that the request doesn't have. `known` lists its parameters.
pub fn unknown(name: &str, known: &str) -> String {
    format!("there is no `{}`: {known}", name.escape_debug())
}

/// An error for any parameter at all.
pub fn none(query: &str, path: &str) -> Result<(), String> {
    match pairs(query)?.first() {
        Some((name, _)) => Err(unknown(name, &format!("{path} has no parameters"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_decoded_and_names_are_unique() {
        let found = pairs("url=wss%3A%2F%2Fa.example%2F&origin=&live").unwrap();
        let expected = [("url", "wss://a.example/"), ("origin", ""), ("live", "")];
        assert_eq!(found, expected.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(pairs("a=1&b=2&a=3").unwrap_err(), "`a` is given twice");
        assert_eq!(pairs("a=%ff").unwrap_err(), "`a` is not UTF-8");
    }

    #[test]
    fn any_value_survives_query_encoding() {
        for value in ["", "a b&c=d?e#f", "%41", "é\n\u{9b}", "wss://a.example/?x={\"y\"}"] {
            let query = encode_query(&[("url", value.to_owned()), ("at", value.to_owned())]);
            assert!(query.is_ascii() && query.starts_with("?url="), "{query}");
            let expected = vec![("url", value.to_owned()), ("at", value.to_owned())];
            assert_eq!(pairs(&query[1..]).unwrap(), expected);
        }
    }
}

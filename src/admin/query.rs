//! The parameters of a request: `name=value&…`, percent-encoded, each at most once.

use crate::policy::request::decoded;

/// The parameters of `query` by name, in the order written.
///
/// # Errors
/// A sentence that says which one is wrong.
pub fn pairs(query: &str) -> Result<Vec<(&str, String)>, String> {
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = String::from_utf8(decoded(value).into_owned()).map_err(|_| format!("`{name}` is not UTF-8"))?;
        if pairs.iter().any(|(known, _)| *known == name) {
            return Err(format!("`{name}` is there twice"));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// The sentence about a parameter that there isn't.
pub fn unknown(name: &str, known: &str) -> String {
    format!("there is no `{}`: {known}", name.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_names_stand_once() {
        let found = pairs("url=wss%3A%2F%2Fa.example%2F&origin=&live").unwrap();
        assert_eq!(found, [("url", "wss://a.example/".to_owned()), ("origin", String::new()), ("live", String::new())]);
        assert_eq!(pairs("a=1&b=2&a=3").unwrap_err(), "`a` is there twice");
        assert_eq!(pairs("a=%ff").unwrap_err(), "`a` is not UTF-8");
    }
}

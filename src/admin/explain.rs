//! Why somebody is admitted or not: `POST /v1/explain`, of the generation that runs.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::admin::query;
use crate::policy::network::Client;
use crate::policy::request::Request;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::snapshot::explanation::Question;

/// Who asks for what, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    client: Client,
    request: Result<Request, Refusal>,
    at: Option<Timestamp>,
}

impl Asked {
    /// Reads `client=ADDRESS&url=URL&origin=O&subprotocol=S&at=T`, of which the first two must be there.
    ///
    /// # Errors
    /// A sentence that says which parameter is wrong, and what to write.
    pub fn parse(text: &str) -> Result<Asked, String> {
        let mut found: [Option<String>; 5] = Default::default();
        for (name, value) in query::pairs(text)? {
            let names = ["client", "url", "origin", "subprotocol", "at"];
            let place = names.iter().position(|known| *known == name);
            found[place.ok_or_else(|| query::unknown(name, "client, url, origin, subprotocol and at"))?] = Some(value);
        }
        let [client, url, origin, subprotocol, at] = found;
        Asked::of(
            client.as_deref().ok_or("`client` is missing")?,
            url.as_deref().ok_or("`url` is missing")?,
            origin.as_deref(),
            subprotocol.as_deref(),
            at.as_deref(),
        )
    }

    /// Of what somebody typed.
    ///
    /// # Errors
    /// A sentence that says what is wrong, and what to write.
    pub fn of(
        client: &str,
        url: &str,
        origin: Option<&str>,
        subprotocol: Option<&str>,
        at: Option<&str>,
    ) -> Result<Asked, String> {
        let address: Result<IpAddr, _> = client.parse();
        let address = address.map_err(|_| format!("`{}` is not an address: write one like 192.0.2.1", client.escape_debug()))?;
        let request = Request::of_url(url, origin, subprotocol)
            .map_err(|fault| format!("`{}`: {}: {}", url.escape_debug(), fault.fault, fault.remedy))?;
        Ok(Asked { client: Client::new(address), request, at: at.map(instant).transpose()? })
    }

    /// The question, of `now` where no time was given. `live`: of an agent that runs.
    pub fn question(&self, now: Timestamp, live: bool) -> Question<'_> {
        let request = self.request.as_ref().map_err(|refusal| *refusal);
        Question { client: self.client, request, at: Some(self.at.unwrap_or(now)), live, candidate: None }
    }
}

/// A day, which stands for its first second in UTC, or an instant (RFC 3339 §5.6).
fn instant(text: &str) -> Result<Timestamp, String> {
    let is_day = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let parsed = if is_day { format!("{text}T00:00:00Z").parse() } else { text.parse() };
    parsed.map_err(|_| format!("`{}` is no time: write 2027-01-01 or 2027-01-01T18:00:00Z", text.escape_debug()))
}

/// The answer of `live`.
pub fn explain(asked: &Asked, live: &Snapshot, now: Timestamp) -> Value {
    let explanation = live.explain(asked.question(now, true));
    let text = explanation.to_string();
    let mut told = json!(explanation);
    told["text"] = text.into();
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_parameter_is_named_with_what_to_write() {
        for (query, said) in [
            ("url=wss://a.example/", "`client` is missing"),
            ("client=192.0.2.1", "`url` is missing"),
            ("client=office&url=wss://a.example/", "`office` is not an address: write one like 192.0.2.1"),
            ("client=::1&url=a.example", "`a.example`: not a URL"),
            ("client=::1&url=wss://a.example/&at=tomorrow", "`tomorrow` is no time: write 2027-01-01"),
            ("client=::1&url=wss://a.example/&host=x", "there is no `host`"),
        ] {
            let sentence = Asked::parse(query).unwrap_err();
            assert!(sentence.contains(said), "{query}: {sentence}");
        }
        assert!(Asked::parse("client=%3A%3A1&url=wss%3A%2F%2Fa.example%2F&at=2027-01-01&origin=null").is_ok());
    }
}

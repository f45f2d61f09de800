//! `[tracing]`.

use http::Uri;

use crate::control::config::keys::key::{
    CustomValue, Key, KeyTable, KeyWithDefault, ValueForm, ValueKind, ValueSchema,
};
use crate::control::config::keys::kind::{choice, percent, text};
use crate::control::config::source_text::{Finding, error};
use crate::trace_context::TraceparentMode;

pub static TABLE: KeyTable = KeyTable {
    keys: &[&TRACEPARENT, &SAMPLED, &OTLP, &OTLP_CA],
    reload: "Holds for requests that come after the reload.",
    ..KeyTable::EMPTY
};

pub static TRACEPARENT: KeyWithDefault<TraceparentMode> = Key::new(
    "traceparent",
    choice(&[
        ("pass", TraceparentMode::Pass),
        ("make", TraceparentMode::Make),
        ("restart", TraceparentMode::Restart),
    ]),
    "\"pass\": backends get what was sent; \"make\": a trace begins here if none valid was sent; \
     \"restart\": always.",
)
.default(|| TraceparentMode::Pass);

pub static SAMPLED: KeyWithDefault<u8> = Key::new(
    "sampled",
    percent(),
    "Share of the traces that begin here whose flag asks all programs behind to record them.",
)
.default(|| 100);

pub static OTLP: KeyWithDefault<Option<Box<str>>> = Key::new(
    "otlp",
    collector(),
    "URL of a collector that gets a span of each sampled request, by OTLP over HTTP; only in a \
     binary that is built with the feature `otlp`.",
)
.default(|| None);

pub static OTLP_CA: Key<CustomValue> = Key::new(
    "otlp_ca",
    text("path"),
    "PEM file of the authorities that may sign the collector's certificate. Left out: the \
     authorities that the system trusts.",
);

const EXPECTED: &str = "a URL like \"http://127.0.0.1:4318\", or \"off\"";

/// The URL of a collector, or `"off"`, which is `None`.
const fn collector() -> ValueKind<Option<Box<str>>> {
    ValueKind {
        words: "URL, or `\"off\"`",
        form: ValueForm::Text { expected: EXPECTED, parse: collector_url },
        schema: ValueSchema::Members(&[
            ("type", r#""string""#),
            ("pattern", r#""^(off|https?://[^@?#]+)$""#),
        ]),
        write: |_, url| url.as_deref().unwrap_or("off").into(),
    }
}

/// Parses the URL below which the collector has `/v1/traces` (OTLP/HTTP).
fn collector_url(text: &str) -> Result<Option<Box<str>>, Finding> {
    if text == "off" {
        return Ok(None);
    }
    if text.contains('@') {
        // The message leaves out the text, which may contain a password.
        return Err(error("the URL of a collector has no user name and no password")
            .with_remedy("set OTEL_EXPORTER_OTLP_HEADERS in the environment of the service"));
    }
    let fault = |what: &str| error(format!("\"{text}\" {what}")).with_remedy(EXPECTED);
    let url: Uri = text.parse().map_err(|_| fault("is not a URL"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none_or(str::is_empty) {
        return Err(fault("is not a URL of a collector"));
    }
    if url.query().is_some() || text.contains('#') {
        return Err(fault("has a query or a fragment"));
    }
    if !cfg!(feature = "otlp") {
        return Err(error("this binary exports no spans")
            .with_remedy("leave `otlp` out, or build with `--features otlp`"));
    }
    Ok(Some(text.trim_end_matches('/').into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_of_a_collector_is_checked() {
        let said = |text| match collector_url(text) {
            Ok(url) => format!("{url:?}"),
            Err(finding) => finding.message.to_string(),
        };
        assert_eq!(said("off"), "None");
        for (text, expected) in [
            ("", "is not a URL"),
            ("127.0.0.1:4318", "is not a URL of a collector"),
            ("ftp://127.0.0.1", "is not a URL of a collector"),
            ("/v1/traces", "is not a URL of a collector"),
            ("http://127.0.0.1:4318/?a=b", "has a query or a fragment"),
            ("http://me:secret@127.0.0.1", "no user name and no password"),
        ] {
            let said = said(text);
            assert!(said.contains(expected) && !said.contains("secret"), "{text}: {said}");
        }
        let taken = said("https://collector.example.com/otlp/");
        let expected = match cfg!(feature = "otlp") {
            true => r#"Some("https://collector.example.com/otlp")"#,
            false => "this binary exports no spans",
        };
        assert_eq!(taken, expected);
    }
}

//! `client_certificates` of a `[[listener]]`.

use crate::control::config::client_auth::ExpiredCrl;
use crate::control::config::keys::key::{CustomValue, Key, KeyTable, KeyWithDefault};
use crate::control::config::keys::kind::{choice, own, text};
use crate::snapshot::client_auth::ClientAuthMode;

pub static TABLE: KeyTable =
    KeyTable { keys: &[&CA, &MODE, &CRL, &ON_EXPIRED, &REVOKED_SERIALS], ..KeyTable::EMPTY };

pub static CA: Key<CustomValue> = Key::new(
    "ca",
    text("path"),
    "PEM file of the authorities that may sign clients' certificates.",
)
.required()
.example("\"certs/clients.pem\"");

pub static MODE: KeyWithDefault<ClientAuthMode> = Key::new(
    "mode",
    choice(&[("required", ClientAuthMode::Required), ("optional", ClientAuthMode::Optional)]),
    "\"required\": the TLS handshake fails without a valid certificate. \"optional\": a client may \
     come without one, and policies judge that.",
)
.default(|| ClientAuthMode::Required);

pub static CRL: Key<CustomValue> = Key::new(
    "crl",
    own(
        "array of paths",
        &[("type", r#""array""#), ("items", r#"{ "type": "string", "minLength": 1 }"#)],
    ),
    "Files with revocation lists, PEM or DER. If there are any, each authority of a client's chain \
     needs one.",
)
.example("[\"certs/clients.crl\"]");

pub static ON_EXPIRED: KeyWithDefault<ExpiredCrl> = Key::new(
    "on_expired",
    choice(&[("reject", ExpiredCrl::Reject), ("warn", ExpiredCrl::Warn)]),
    "What an expired revocation list does: \"reject\" refuses new connections of its authority's \
     clients, and is an error of `check`; \"warn\" uses the list as it is.",
)
.default(|| ExpiredCrl::Reject);

pub static REVOKED_SERIALS: Key<CustomValue> = Key::new(
    "revoked_serials",
    text("path"),
    "File with revoked serial numbers, one a line: SERIAL, or ISSUER:SERIAL with the SHA-256 of \
     the issuer's public key.",
)
.example("\"certs/revoked.serials\"");

//! `proxy_protocol` of a `[[listener]]`.

use crate::control::config::keys::key::{Key, KeyTable};
use crate::control::config::keys::sidegate::peers::peers;
use crate::policy::peers::PeerPattern;

pub static TABLE: KeyTable = KeyTable { keys: &[&FROM], ..KeyTable::EMPTY };

pub static FROM: Key<Vec<PeerPattern>> = Key::new(
    "from",
    peers(),
    "Networks and addresses of these peers. What their headers say about a client is believed.",
)
.required()
.example("[\"10.20.0.0/24\"]");

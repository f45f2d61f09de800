//! The used parts of limiters, as they go to the newest process.

use std::net::Ipv6Addr;
use std::num::NonZeroU32;
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::policy::limit::{IdentityKey, LimitKey, Rate, RateLimit};
use crate::policy::network::{Client, ClientKey};
use crate::tunnels::budget::{LimiterName, UsedBudget};

/// Clients of one message: a limiter may have 65,536.
const CHUNK: usize = 2_000;

/// What clients have used of one limiter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireBudget {
    limiter: WireLimiter,
    tokens: NonZeroU32,
    per_ns: u64,
    burst: NonZeroU32,
    used: Vec<WireUsed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireLimiter {
    Policy { policy: String, is_candidate: bool, limit: String },
    Handshakes { listener: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct WireUsed {
    key: WireKey,
    lacking_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireKey {
    V4(u32),
    V6(u64),
    Host(Ipv6Addr),
    User(u32),
    Identity(String),
}

impl WireBudget {
    /// The used part of a limiter, in messages of a bounded size.
    pub fn of(name: &LimiterName, rate: Rate, used: &[UsedBudget]) -> Vec<WireBudget> {
        let limiter = match name {
            LimiterName::Policy { policy, is_candidate, limit } => WireLimiter::Policy {
                policy: policy.to_string(),
                is_candidate: *is_candidate,
                limit: limit.word().to_owned(),
            },
            LimiterName::Handshakes { listener } => {
                WireLimiter::Handshakes { listener: listener.to_string() }
            }
        };
        let message = |some: &[UsedBudget]| WireBudget {
            limiter: limiter.clone(),
            tokens: rate.tokens,
            per_ns: nanoseconds(rate.per),
            burst: rate.burst,
            used: some.iter().map(WireUsed::of).collect(),
        };
        used.chunks(CHUNK).map(message).collect()
    }

    /// The limiter, its rate and what was used of it. `None` means a limit of a later version.
    pub fn read(self) -> Option<(LimiterName, Rate, Vec<UsedBudget>)> {
        let name = match self.limiter {
            WireLimiter::Policy { policy, is_candidate, limit } => LimiterName::Policy {
                policy: policy.into(),
                is_candidate,
                limit: RateLimit::ALL.into_iter().find(|one| one.word() == limit)?,
            },
            WireLimiter::Handshakes { listener } => {
                LimiterName::Handshakes { listener: listener.into() }
            }
        };
        let per = Duration::from_nanos(self.per_ns);
        let rate = Rate { tokens: self.tokens, per, burst: self.burst };
        // A key that cannot be read costs its client nothing.
        Some((name, rate, self.used.into_iter().filter_map(WireUsed::read).collect()))
    }
}

impl WireUsed {
    fn of(used: &UsedBudget) -> WireUsed {
        let key = match used.key {
            LimitKey::Client(ClientKey::V4(address)) => WireKey::V4(address),
            LimitKey::Client(ClientKey::V6(network)) => WireKey::V6(network),
            LimitKey::Client(ClientKey::V6Host(host)) => WireKey::Host(host.address()),
            LimitKey::Client(ClientKey::Unix(uid)) => WireKey::User(uid),
            LimitKey::Identity(identity) => WireKey::Identity(HEXLOWER.encode(&identity.bytes())),
        };
        WireUsed { key, lacking_ns: nanoseconds(used.lacking) }
    }

    fn read(self) -> Option<UsedBudget> {
        let key = match self.key {
            WireKey::V4(address) => LimitKey::Client(ClientKey::V4(address)),
            WireKey::V6(network) => LimitKey::Client(ClientKey::V6(network)),
            WireKey::Host(host) => LimitKey::Client(Client::new(host.into()).key()),
            WireKey::User(uid) => LimitKey::Client(ClientKey::Unix(uid)),
            WireKey::Identity(digits) => {
                let bytes = HEXLOWER.decode(digits.as_bytes()).ok()?;
                LimitKey::Identity(IdentityKey::from_bytes(bytes.try_into().ok()?))
            }
        };
        Some(UsedBudget { key, lacking: Duration::from_nanos(self.lacking_ns) })
    }
}

/// The duration in nanoseconds; 584 years at most.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_key_survives_the_link() {
        let crowded: Ipv6Addr = "64:ff9b::c000:201".parse().unwrap();
        let identity = LimitKey::Identity(IdentityKey::from_bytes([7; 16]));
        let clients = [
            ClientKey::V4(1),
            ClientKey::V6(0x2001_0db8_0000_0001),
            Client::new(crowded.into()).key(),
            ClientKey::Unix(33),
        ];
        assert!(matches!(clients[2], ClientKey::V6Host(_)));
        let keys = clients.into_iter().map(LimitKey::Client).chain([identity]);
        let lacking = Duration::from_millis(1500);
        let used: Vec<_> = keys.map(|key| UsedBudget { key, lacking }).collect();
        let (tokens, per) = (NonZeroU32::MIN, Duration::from_secs(60));
        let rate = Rate { tokens, per, burst: NonZeroU32::new(9).unwrap() };
        let names = [
            LimiterName::Handshakes { listener: "public".into() },
            LimiterName::Policy {
                policy: "chat".into(),
                is_candidate: true,
                limit: RateLimit::Requests,
            },
        ];
        for name in names {
            let [message] = &WireBudget::of(&name, rate, &used)[..] else { panic!("one message") };
            let text = serde_json::to_string(message).unwrap();
            let read: WireBudget = serde_json::from_str(&text).unwrap();
            assert_eq!(read.read(), Some((name, rate, used.clone())), "{text}");
        }
    }

    #[test]
    fn used_budgets_are_sent_in_messages_of_a_bounded_size() {
        let of = |client| UsedBudget {
            key: LimitKey::Client(ClientKey::V4(client)),
            lacking: Duration::from_secs(1),
        };
        let used: Vec<_> = (0..4_001).map(of).collect();
        let (tokens, per) = (NonZeroU32::MIN, Duration::from_secs(1));
        let rate = Rate { tokens, per, burst: tokens };
        let name = LimiterName::Handshakes { listener: "public".into() };
        let sizes: Vec<_> =
            WireBudget::of(&name, rate, &used).iter().map(|one| one.used.len()).collect();
        assert_eq!(sizes, [2_000, 2_000, 1]);
    }
}

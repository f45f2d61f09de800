//! Lists to measure: networks as feeds bring them, the same ones each time, and addresses to ask
//! about.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use sidegate::policy::network::Client;

/// The address family of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Anywhere; most of them single addresses.
    V4,
    /// In 2000::/3, close together as they are given out; most of them a site or a host's /64.
    V6,
}

impl Family {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    fn network(self, dice: &mut SmallRng) -> IpNet {
        match self {
            Family::V4 => {
                let length = [32, 32, 32, 32, 32, 29, 24, 24, 22, 20][dice.random_range(0..10)];
                let address = Ipv4Addr::from_bits(dice.random());
                Ipv4Net::new(address, length).expect("a length of IPv4").trunc().into()
            }
            Family::V6 => {
                let length = [128, 64, 64, 64, 64, 56, 48, 48, 48, 32][dice.random_range(0..10)];
                let block =
                    [0x2001_u128, 0x2400, 0x2600, 0x2804, 0x2a01, 0x2a02][dice.random_range(0..6)];
                let address = Ipv6Addr::from_bits(block << 112 | dice.random::<u128>() >> 16);
                Ipv6Net::new(address, length).expect("a length of IPv6").trunc().into()
            }
        }
    }
}

/// `count` networks of `family`, all different, in no order.
pub fn networks(family: Family, count: usize) -> Vec<IpNet> {
    let (mut dice, mut known, mut networks) =
        (SmallRng::seed_from_u64(1), BTreeSet::new(), Vec::with_capacity(count));
    while networks.len() < count {
        let network = family.network(&mut dice);
        if known.insert(network) {
            networks.push(network);
        }
    }
    networks
}

/// A client in each of `count` networks taken by lot.
pub fn inside(networks: &[IpNet], count: usize) -> Vec<Client> {
    let mut dice = SmallRng::seed_from_u64(2);
    let mut one = || {
        let (network, low) =
            (networks[dice.random_range(0..networks.len())], dice.random::<u128>());
        Client::new(match network {
            IpNet::V4(network) => IpAddr::V4(
                (network.addr().to_bits() | low as u32 & network.hostmask().to_bits()).into(),
            ),
            IpNet::V6(network) => {
                IpAddr::V6((network.addr().to_bits() | low & network.hostmask().to_bits()).into())
            }
        })
    };
    (0..count).map(|_| one()).collect()
}

/// Clients drawn from the ranges of the networks; with a million IPv4 networks some clients are in
/// one.
pub fn anywhere(family: Family, count: usize) -> Vec<Client> {
    let mut dice = SmallRng::seed_from_u64(3);
    let mut one = || match family {
        Family::V4 => IpAddr::V4(dice.random::<u32>().into()),
        Family::V6 => IpAddr::V6((0x2001_u128 << 112 | dice.random::<u128>() >> 16).into()),
    };
    (0..count).map(|_| Client::new(one())).collect()
}

/// The text of a list file.
pub fn text(networks: &[IpNet]) -> String {
    let mut text = String::new();
    for network in networks {
        let line = if network.prefix_len() == network.max_prefix_len() {
            writeln!(text, "{}", network.addr())
        } else {
            writeln!(text, "{network}")
        };
        line.expect("a string takes everything");
    }
    text
}

/// A configuration in `folder` whose one policy admits the list `feed`; returns the path of
/// `sidegate.toml`.
pub fn configuration(folder: &Path, feed: &str, policy: &str) -> PathBuf {
    let lists = folder.join("policies/lists");
    fs::create_dir_all(&lists).expect("a folder of our own");
    let write = |path: PathBuf, text: &str| fs::write(path, text).expect("a folder of our own");
    write(lists.join("feed.cidr"), feed);
    write(folder.join("policies/chat.toml"), policy);
    write(folder.join("sidegate.toml"), CONFIGURATION);
    folder.join("sidegate.toml")
}

/// A policy of one large list.
pub const POLICY: &str =
    "schema = 1\nlists.feed = { file = \"lists/feed.cidr\" }\nclient.allow = [\"feed\"]\n";

const CONFIGURATION: &str = r#"schema = 1

[[listener]]
name = "public"
listen = "127.0.0.1:8443"
tls = false

[[route]]
name = "chat"
host = "ws.example.com"
path = "/chat/"
backend = "http://127.0.0.1:8080"
policy = "chat"
"#;

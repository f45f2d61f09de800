//! The rules of a policy by name, and their lines in its file.

/// A rule of a policy, named as in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `[client] allow`: the lists that admit clients.
    Allow,
    /// `[client] deny`: the lists that deny clients.
    Deny,
    /// `[client] origins`: the pages that may connect.
    Origins,
    /// `[client] subprotocols`: the subprotocols that tunnels may use.
    Subprotocols,
    /// `[client] certificate`: the certificates that clients may have.
    Certificate,
    /// `[limits] upgrades`: the rate of WebSocket upgrades.
    Upgrades,
    /// `[limits] requests`: the rate of plain HTTP requests.
    Requests,
    /// `[limits] connections`: the tunnels open at once.
    Connections,
}

impl Rule {
    /// The table and key that write the rule.
    pub const fn key(self) -> &'static str {
        match self {
            Rule::Allow => "client.allow",
            Rule::Deny => "client.deny",
            Rule::Origins => "client.origins",
            Rule::Subprotocols => "client.subprotocols",
            Rule::Certificate => "client.certificate",
            Rule::Upgrades => "limits.upgrades",
            Rule::Requests => "limits.requests",
            Rule::Connections => "limits.connections",
        }
    }
}

/// The line of each rule in the policy's file, from 1; 0 where the rule isn't written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleLines {
    /// Line of `[client] allow`.
    pub allow: u32,
    /// Line of `[client] deny`.
    pub deny: u32,
    /// Line of `[client] origins`.
    pub origins: u32,
    /// Line of `[client] subprotocols`.
    pub subprotocols: u32,
    /// Line of `[client] certificate`.
    pub certificate: u32,
    /// Line of `[limits] upgrades`.
    pub upgrades: u32,
    /// Line of `[limits] requests`.
    pub requests: u32,
    /// Line of `[limits] connections`.
    pub connections: u32,
    /// Line of `[limits] streams`.
    pub streams: u32,
}

impl RuleLines {
    /// The line of `rule`; 0 means that it is not written.
    pub fn of(&self, rule: Rule) -> u32 {
        match rule {
            Rule::Allow => self.allow,
            Rule::Deny => self.deny,
            Rule::Origins => self.origins,
            Rule::Subprotocols => self.subprotocols,
            Rule::Certificate => self.certificate,
            Rule::Upgrades => self.upgrades,
            Rule::Requests => self.requests,
            Rule::Connections => self.connections,
        }
    }
}

//! The rules of a policy by name, and their lines in its file.

/// A rule of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `[client] allow`
    Allow,
    /// `[client] deny`
    Deny,
    /// `[client] origins`
    Origins,
    /// `[client] subprotocols`
    Subprotocols,
    /// `[limits] upgrades`
    Upgrades,
    /// `[limits] requests`
    Requests,
    /// `[limits] connections`
    Connections,
}

/// The line of each rule in the policy's file, from 1; 0 where the rule isn't written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleLines {
    /// Of `[client] allow`.
    pub allow: u32,
    /// Of `[client] deny`.
    pub deny: u32,
    /// Of `[client] origins`.
    pub origins: u32,
    /// Of `[client] subprotocols`.
    pub subprotocols: u32,
    /// Of `[limits] upgrades`.
    pub upgrades: u32,
    /// Of `[limits] requests`.
    pub requests: u32,
    /// Of `[limits] connections`.
    pub connections: u32,
}

impl RuleLines {
    /// The line of `rule`; 0 means that it is not written.
    pub fn of(&self, rule: Rule) -> u32 {
        match rule {
            Rule::Allow => self.allow,
            Rule::Deny => self.deny,
            Rule::Origins => self.origins,
            Rule::Subprotocols => self.subprotocols,
            Rule::Upgrades => self.upgrades,
            Rule::Requests => self.requests,
            Rule::Connections => self.connections,
        }
    }
}

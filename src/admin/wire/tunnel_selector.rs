//! The parameters by which tunnels and exchanges are selected, shared by listing and closing.

use crate::admin::wire::words::EntryKind;

/// The names of the parameters, for errors.
pub const SELECTOR_NAMES: &str = "route, client, identity, policy, older, bytes, kind";

/// Which tunnels and exchanges a request is about. All that is given has to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TunnelSelector {
    /// Only those of this route. `None` means of all routes.
    pub route: Option<String>,
    /// Only those of clients in this network, or of this address. `None` means of all clients.
    pub client: Option<String>,
    /// Only those of clients with such a certificate, written as in a policy. `None` means of all.
    pub identity: Option<String>,
    /// Only those under this policy. `None` means under all policies.
    pub policy: Option<String>,
    /// Only tunnels that opened at least so many seconds ago. `None` means of any age.
    pub older: Option<u64>,
    /// Only tunnels with at least so many bytes in both directions. `None` means any number.
    pub bytes: Option<u64>,
    /// Only tunnels, or only exchanges. `None` means both.
    pub kind: Option<EntryKind>,
}

impl TunnelSelector {
    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        // A bound of zero bounds nothing: it must not pass for a filter where all are closed.
        let bound = |least: Option<u64>| least.filter(|least| *least > 0);
        let (older, bytes) = (bound(self.older), bound(self.bytes));
        TunnelSelector { older, bytes, ..self.clone() } == TunnelSelector::default()
    }

    /// The parameters that are given, by name.
    pub fn parameters(&self) -> impl Iterator<Item = (&'static str, String)> {
        let TunnelSelector { route, client, identity, policy, older, bytes, kind } = self.clone();
        let all = [
            ("route", route),
            ("client", client),
            ("identity", identity),
            ("policy", policy),
            ("older", older.map(|seconds| seconds.to_string())),
            ("bytes", bytes.map(|bytes| bytes.to_string())),
            ("kind", kind.map(|kind| kind.to_string())),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }

    /// Takes the parameter `name`. `false` means that the selection has no such parameter.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn take(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let text = || Some(value.to_owned());
        let number = || value.parse().map_err(|_| format!("`{name}` is a whole number"));
        match name {
            "route" => self.route = text(),
            "client" => self.client = text(),
            "identity" => self.identity = text(),
            "policy" => self.policy = text(),
            "older" => self.older = Some(number()?),
            "bytes" => self.bytes = Some(number()?),
            "kind" => {
                self.kind = Some(match value {
                    "tunnel" => EntryKind::Tunnel,
                    "exchange" => EntryKind::Exchange,
                    _ => return Err("`kind` is tunnel or exchange".into()),
                });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

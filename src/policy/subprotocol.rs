//! Which subprotocols a tunnel may speak: the `subprotocols` rule of a policy.
//!
//! An attempt is judged by the names it offers, the backend's 101 by the name it chooses, and an
//! open tunnel by the subprotocol in use (decision 005).

/// The entry that admits tunnels without a subprotocol. It never matches a name.
const NONE_ENTRY: &str = "none";

/// The `subprotocols` of a policy. Their order never matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subprotocols(Vec<Box<str>>);

impl Subprotocols {
    /// Creates a rule that admits these names; `"none"` also admits tunnels without a subprotocol.
    pub fn new(written: Vec<Box<str>>) -> Self {
        Subprotocols(written)
    }

    /// Iterates over the entries, as written.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|entry| &**entry)
    }

    /// Whether a tunnel may use `spoken`. `None` means no subprotocol.
    pub fn admits(&self, spoken: Option<&str>) -> bool {
        match spoken {
            None => self.contains(NONE_ENTRY),
            // A client may offer a subprotocol called `none`, which the entry does not mean.
            Some(name) => name != NONE_ENTRY && self.contains(name),
        }
    }

    /// Whether an attempt may offer `offered`: one admitted name is enough, and an empty offer
    /// counts as no subprotocol.
    pub fn admits_offer(&self, offered: &[Box<str>]) -> bool {
        if offered.is_empty() { self.admits(None) } else { self.first_of(offered).is_some() }
    }

    /// Returns the first admitted name of an offer.
    pub fn first_of<'o>(&self, offered: &'o [Box<str>]) -> Option<&'o str> {
        offered.iter().map(|name| &**name).find(|name| self.admits(Some(name)))
    }

    fn contains(&self, entry: &str) -> bool {
        self.iter().any(|written| written == entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict of `rule` on this offer, then on a 101 that chooses the first name offered or
    /// none.
    fn check(rule: &[&str], offered: &[&str], says: (bool, bool, bool)) {
        let rule = Subprotocols::new(rule.iter().map(|entry| (*entry).into()).collect());
        let offer: Vec<Box<str>> = offered.iter().map(|name| (*name).into()).collect();
        let got =
            (rule.admits_offer(&offer), rule.admits(offered.first().copied()), rule.admits(None));
        assert_eq!(got, says, "{rule:?} and {offered:?}");
    }

    #[test]
    fn a_name_is_admitted_only_where_it_is_listed() {
        check(&["v2", "v3"], &["v2"], (true, true, false));
        check(&["v2", "v3"], &["v1", "v3"], (true, false, false));
        check(&["v2"], &["v1"], (false, false, false));
        check(&["v2"], &["V2"], (false, false, false));
        check(&[], &["v2"], (false, false, false));
    }

    #[test]
    fn none_admits_only_the_absence_of_a_subprotocol() {
        check(&["v2"], &[], (false, false, false));
        check(&["v2", "none"], &[], (true, true, true));
        check(&["none"], &["v2"], (false, false, true));
        check(&["v2", "none"], &["none"], (false, false, true));
        check(&["v2", "none"], &["none", "v2"], (true, false, true));
    }
}

//! The version of nginx, on which some of its defaults depend.

use std::fmt;
use std::str::FromStr;

/// From this version on, nginx keeps connections to backends and speaks HTTP/1.1 to them by
/// default.
pub const KEEP_ALIVE_SINCE: Version = Version(1, 29, 7);

/// A version of nginx; defaults to 0.0.0, older than any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u16, u16, u16);

impl FromStr for Version {
    type Err = &'static str;

    /// Parses `1.29.7`, or `nginx/1.29.7` as `nginx -v` prints it.
    fn from_str(text: &str) -> Result<Version, Self::Err> {
        let wrong = "a version of nginx is three numbers, as in 1.29.7";
        let bare = text.strip_prefix("nginx/").unwrap_or(text);
        let parts: Result<Vec<u16>, _> = bare.split('.').map(str::parse).collect();
        match parts.as_deref() {
            Ok([major, minor, patch]) => Ok(Version(*major, *minor, *patch)),
            _ => Err(wrong),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_number_by_number() {
        let version = |text: &str| text.parse::<Version>();
        assert!(version("1.30.0") > version("1.29.7") && version("1.9.15") < version("1.29.7"));
        assert_eq!(version("nginx/1.29.7"), Ok(KEEP_ALIVE_SINCE));
        for wrong in ["", "1", "1.29", "1.29.7.1", "one", "1.29.x", "-1.2.3"] {
            assert!(version(wrong).is_err(), "{wrong}");
        }
    }
}

//! Users of this host, who connect over a Unix socket, and patterns of them.
//!
//! Pure: names of users and groups become numbers by a function of the caller's.

use std::fmt;

use crate::policy::network::UnixUser;
use crate::policy::subject::{Subject, SubjectRef};

/// The id that the kernel shows for an id that has no counterpart in this user namespace
/// (user_namespaces(7)). Any user of another namespace may have it, so that it proves nothing.
pub const OVERFLOW_ID: u32 = 65_534;

/// The group id of a user whose group is not known. No process has it: it is `(gid_t) -1`.
pub const NO_GROUP: u32 = u32::MAX;

/// A pattern of clients that connect over a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UnixPattern {
    /// `unix`: each of them.
    Any,
    /// `unix:gid=44`: processes in the group, be it their own or a supplementary one.
    Gid(u32),
    /// `unix:uid=33`: processes of the user.
    Uid(u32),
}

/// Whether a name is that of a user or of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// That of a user.
    User,
    /// That of a group.
    Group,
}

/// Looks a name up. `None` means that there is none such.
pub type Resolve<'r> = &'r dyn Fn(IdKind, &str) -> Option<u32>;

/// The fault of a text that begins like a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnixPatternFault {
    /// It is none of the forms.
    Form,
    /// The name or number is none.
    NoId(IdKind, Box<str>),
    /// This host has no such user or group.
    Unknown(IdKind, Box<str>),
}

impl UnixPattern {
    /// Whether `text` is meant as a pattern: `unix`, or with a colon behind.
    pub fn is_meant(text: &str) -> bool {
        text == "unix" || text.starts_with("unix:")
    }

    /// Parses `unix`, `unix:uid=33` or `unix:gid=www-data`.
    ///
    /// # Errors
    /// The text has another form, or `resolve` does not know the name.
    pub fn parse(text: &str, resolve: Resolve<'_>) -> Result<Self, UnixPatternFault> {
        if text == "unix" {
            return Ok(UnixPattern::Any);
        }
        let pair = text.strip_prefix("unix:").ok_or(UnixPatternFault::Form)?;
        match pair.split_once('=').ok_or(UnixPatternFault::Form)? {
            ("uid", id) => id_of(IdKind::User, id, resolve).map(UnixPattern::Uid),
            ("gid", id) => id_of(IdKind::Group, id, resolve).map(UnixPattern::Gid),
            _ => Err(UnixPatternFault::Form),
        }
    }

    /// Whether the pattern matches `subject`. It never matches a client with an IP address.
    pub fn matches<'s>(self, subject: impl Into<SubjectRef<'s>>) -> bool {
        let subject = subject.into();
        match self {
            UnixPattern::Any => subject.client.user().is_some(),
            UnixPattern::Uid(uid) => subject.client.user().is_some_and(|user| user.uid == uid),
            UnixPattern::Gid(gid) => subject.is_in_group(gid),
        }
    }

    /// Whether each client of `other` matches this pattern too. Which users are in a group is not
    /// known, so that a group holds no user.
    pub fn contains(self, other: UnixPattern) -> bool {
        self == UnixPattern::Any || self == other
    }

    /// Whether the pattern names the [overflow id](OVERFLOW_ID).
    pub const fn is_overflow(self) -> bool {
        matches!(self, UnixPattern::Uid(OVERFLOW_ID) | UnixPattern::Gid(OVERFLOW_ID))
    }
}

impl fmt::Display for UnixPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnixPattern::Any => f.write_str("unix"),
            UnixPattern::Uid(uid) => write!(f, "unix:uid={uid}"),
            UnixPattern::Gid(gid) => write!(f, "unix:gid={gid}"),
        }
    }
}

impl IdKind {
    /// The word in messages.
    pub const fn word(self) -> &'static str {
        match self {
            IdKind::User => "user",
            IdKind::Group => "group",
        }
    }
}

impl UnixPatternFault {
    /// The remedy, for people.
    pub fn remedy(&self) -> String {
        match self {
            UnixPatternFault::Form | UnixPatternFault::NoId(..) => {
                "write \"unix\", \"unix:uid=33\" or \"unix:gid=www-data\"".to_owned()
            }
            UnixPatternFault::Unknown(kind, _) => {
                let word = kind.word();
                format!("create the {word}, or write its number, which need not exist here")
            }
        }
    }
}

impl fmt::Display for UnixPatternFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnixPatternFault::Form => f.write_str("not a pattern of Unix clients"),
            UnixPatternFault::NoId(kind, text) => {
                write!(f, "`{text}` is neither the name nor the number of a {}", kind.word())
            }
            UnixPatternFault::Unknown(kind, name) => {
                write!(f, "this host has no {} `{name}`", kind.word())
            }
        }
    }
}

/// Parses a client as in tests and on the command line: `unix:uid=33`, then the group of the
/// process and its supplementary groups, `,gid=33,gid=44`.
///
/// # Errors
/// As for [`UnixPattern::parse`].
pub fn parse_subject(text: &str, resolve: Resolve<'_>) -> Result<Subject, UnixPatternFault> {
    let (user, groups) = text.split_once(',').map_or((text, None), |(user, all)| (user, Some(all)));
    let UnixPattern::Uid(uid) = UnixPattern::parse(user, resolve)? else {
        return Err(UnixPatternFault::Form);
    };
    let group = |text: &str| {
        let id = text.strip_prefix("gid=").ok_or(UnixPatternFault::Form)?;
        id_of(IdKind::Group, id, resolve)
    };
    let groups: Vec<u32> =
        groups.into_iter().flat_map(|all| all.split(',')).map(group).collect::<Result<_, _>>()?;
    let gid = groups.first().copied().unwrap_or(NO_GROUP);
    Ok(Subject::of_user(UnixUser { uid, gid }, groups.get(1..).unwrap_or_default().into()))
}

/// Parses the number or the name of a user or a group.
fn id_of(kind: IdKind, text: &str, resolve: Resolve<'_>) -> Result<u32, UnixPatternFault> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // The last number is no id: it means "unchanged" to chown(2).
        let id = text.parse().ok().filter(|id| *id != NO_GROUP);
        return id.ok_or_else(|| UnixPatternFault::NoId(kind, text.into()));
    }
    // The names that useradd(8) accepts, with dots and capitals besides.
    let is_name = text.len() <= 32
        && !text.starts_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'$'));
    if !is_name {
        return Err(UnixPatternFault::NoId(kind, text.into()));
    }
    resolve(kind, text).ok_or_else(|| UnixPatternFault::Unknown(kind, text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::network::Client;

    fn resolve(kind: IdKind, name: &str) -> Option<u32> {
        match (kind, name) {
            (IdKind::User, "www-data") => Some(33),
            (IdKind::Group, "adm") => Some(4),
            _ => None,
        }
    }

    fn parse(text: &str) -> Result<UnixPattern, UnixPatternFault> {
        UnixPattern::parse(text, &resolve)
    }

    #[test]
    fn patterns_are_parsed_and_displayed() {
        for (text, pattern, shown) in [
            ("unix", UnixPattern::Any, "unix"),
            ("unix:uid=0", UnixPattern::Uid(0), "unix:uid=0"),
            ("unix:uid=www-data", UnixPattern::Uid(33), "unix:uid=33"),
            ("unix:gid=adm", UnixPattern::Gid(4), "unix:gid=4"),
            ("unix:gid=4294967294", UnixPattern::Gid(u32::MAX - 1), "unix:gid=4294967294"),
        ] {
            assert_eq!(parse(text), Ok(pattern));
            assert_eq!(pattern.to_string(), shown);
        }
    }

    #[test]
    fn text_of_another_form_is_no_pattern() {
        for text in ["", "Unix", "unix:", "unix:33", "unix:user=33", "unix/uid=33", "uid=33"] {
            assert_eq!(parse(text), Err(UnixPatternFault::Form), "{text}");
        }
        for text in ["", "+1", "-1", " 1", "4294967295", "99999999999", "a b", "-root", "ä"] {
            let fault = UnixPatternFault::NoId(IdKind::User, text.into());
            assert_eq!(parse(&format!("unix:uid={text}")), Err(fault), "{text}");
        }
        // A user is no group.
        let fault = UnixPatternFault::Unknown(IdKind::Group, "www-data".into());
        assert_eq!(parse("unix:gid=www-data"), Err(fault.clone()));
        assert_eq!(fault.to_string(), "this host has no group `www-data`");
    }

    fn check(pattern: UnixPattern, subject: &Subject, matches: bool) {
        assert_eq!(pattern.matches(subject), matches, "{pattern}");
    }

    #[test]
    fn pattern_matches_users_of_this_host_alone() {
        let user = parse_subject("unix:uid=33,gid=44,gid=4,gid=27", &resolve).unwrap();
        let remote = Subject::new(Client::new([0, 0, 0, 33].into()));
        for (pattern, matches) in [
            (UnixPattern::Any, true),
            (UnixPattern::Uid(33), true),
            (UnixPattern::Uid(44), false),
            (UnixPattern::Gid(44), true),
            (UnixPattern::Gid(27), true),
            (UnixPattern::Gid(33), false),
        ] {
            check(pattern, &user, matches);
            check(pattern, &remote, false);
        }
        assert!(UnixPattern::Any.contains(UnixPattern::Gid(4)));
        assert!(!UnixPattern::Gid(4).contains(UnixPattern::Uid(4)));
    }

    #[test]
    fn user_without_a_group_is_in_none() {
        let user = parse_subject("unix:uid=www-data", &resolve).unwrap();
        assert_eq!(user.client.user(), Some(UnixUser { uid: 33, gid: NO_GROUP }));
        check(UnixPattern::Gid(33), &user, false);
        for text in ["unix", "unix:gid=4", "unix:uid=33,", "unix:uid=33,uid=4", "unix:uid=33,4"] {
            assert_eq!(parse_subject(text, &resolve), Err(UnixPatternFault::Form), "{text}");
        }
    }
}

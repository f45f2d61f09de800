//! One line of a list: a network or users of this host, its sign, and its annotations.
//!
//! The same grammar applies to `*.cidr` files and to the strings of `[lists]`
//! (`docs/spec/formats.md`, "`policies/lists/NAME.cidr`"). The parser works on text only, and never
//! skips a line that it doesn't understand.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::Offset;

use crate::policy::list::pattern::ClientPattern;
use crate::policy::network::fold;
use crate::policy::unix::{Resolve, UnixPattern, UnixPatternFault};

/// One entry of a list, with its sign and annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry {
    /// The clients that it is about. A network is without host bits, and folded (see [`fold`]).
    pub pattern: ClientPattern,
    /// Whether the list includes these clients. `false` means a `!` carve-out.
    pub admits: bool,
    /// Annotations of the entry. Most entries of a large list have none, and allocate nothing.
    notes: Option<Box<Annotations>>,
}

/// The annotations of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    pub(super) expires: Option<Timestamp>,
    owner: Option<Box<str>>,
    ticket: Option<Box<str>>,
}

/// The fault of a line, and its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryError {
    /// Position of the fault, in bytes of the line.
    pub span: Range<usize>,
    /// The fault, in one sentence without its full stop. It quotes from the line only text between
    /// backticks, and networks.
    pub fault: Cow<'static, str>,
    /// What to write instead.
    pub remedy: Cow<'static, str>,
}

impl ListEntry {
    /// Parses one line, with or without its line end. `None` means a blank line or only a comment.
    /// No user or group is known by name.
    pub fn parse(line: &str) -> Result<Option<ListEntry>, EntryError> {
        ListEntry::parse_with(line, None)
    }

    /// Like [`ListEntry::parse`]. `resolve` knows the names of users and groups; `None` means that
    /// only their numbers may be written.
    pub fn parse_with(
        line: &str,
        resolve: Option<Resolve<'_>>,
    ) -> Result<Option<ListEntry>, EntryError> {
        let mut tokens = tokens(line);
        let Some(first) = tokens.next() else { return Ok(None) };
        let mut entry = first.entry(resolve)?;
        for token in tokens {
            token.annotate(entry.notes.get_or_insert_default())?;
        }
        Ok(Some(entry))
    }

    /// The entry without its annotations, which takes no allocation.
    pub const fn without_notes(&self) -> ListEntry {
        ListEntry { pattern: self.pattern, admits: self.admits, notes: None }
    }

    /// The first instant at which the entry has lapsed. `None` means never.
    pub fn expires(&self) -> Option<Timestamp> {
        self.notes.as_ref()?.expires
    }

    /// The `owner` annotation: the owner of the network.
    pub fn owner(&self) -> Option<&str> {
        self.notes.as_ref()?.owner.as_deref()
    }

    /// The `ticket` annotation: why the entry is here.
    pub fn ticket(&self) -> Option<&str> {
        self.notes.as_ref()?.ticket.as_deref()
    }

    /// Whether the entry has an annotation.
    pub fn is_annotated(&self) -> bool {
        self.notes.is_some()
    }

    /// Whether the entry has expired by `now`, and so counts as absent.
    pub fn lapsed(&self, now: Timestamp) -> bool {
        self.expires().is_some_and(|expires| expires <= now)
    }

    /// The expiry as written in a list's line: a day, which includes its last second in UTC, or an
    /// instant.
    pub fn expiry(&self) -> Option<impl fmt::Display> {
        self.expires().map(Expiry)
    }
}

/// The network and its sign, as at the start of a list's line: `!203.0.113.66`.
impl fmt::Display for ListEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.admits { "" } else { "!" })?;
        match self.pattern {
            ClientPattern::Network(one) if one.prefix_len() == one.max_prefix_len() => {
                one.addr().fmt(f)
            }
            pattern => pattern.fmt(f),
        }
    }
}

/// The first instant at which an entry has lapsed, displayed as the `expires` value that gives it.
#[derive(Debug, Clone, Copy)]
pub struct Expiry(pub Timestamp);

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `Timestamp::MAX` is what `day_after` makes of 9999-12-31.
        if self.0 == Timestamp::MAX {
            return Date::MAX.fmt(f);
        }
        let end = Offset::UTC.to_datetime(self.0);
        match end.date().yesterday() {
            Ok(day) if end.time() == Time::midnight() => day.fmt(f),
            _ => self.0.fmt(f),
        }
    }
}

/// A run of characters without a blank, and its offset in the line.
#[derive(Clone, Copy)]
pub(super) struct EntryToken<'a> {
    pub(super) text: &'a str,
    start: usize,
}

/// The tokens of a line up to its comment.
pub(super) fn tokens(line: &str) -> impl Iterator<Item = EntryToken<'_>> {
    let runs = line.split_ascii_whitespace();
    // Each token is a slice of `line`, so the difference of their addresses is its offset.
    let tokens =
        runs.map(|text| EntryToken { text, start: text.as_ptr().addr() - line.as_ptr().addr() });
    // A mark inside a token begins no comment: `ticket=#12` is an annotation.
    tokens.take_while(|token| !token.text.starts_with(['#', ';']))
}

impl EntryToken<'_> {
    /// Parses the first token of a line: the clients and their sign.
    fn entry(self, resolve: Option<Resolve<'_>>) -> Result<ListEntry, EntryError> {
        let (admits, network) = match self.text.strip_prefix('!') {
            Some("") => {
                return self
                    .fault("`!` has no network", "write the network right after it: `!192.0.2.1`");
            }
            Some(network) => (false, EntryToken { text: network, start: self.start + 1 }),
            None => (true, self),
        };
        let pattern = if UnixPattern::is_meant(network.text) {
            ClientPattern::Unix(network.users(admits, resolve)?)
        } else {
            ClientPattern::Network(network.network(if admits { "" } else { "!" })?)
        };
        Ok(ListEntry { pattern, admits, notes: None })
    }

    /// Parses a pattern of users of this host.
    fn users(self, admits: bool, resolve: Option<Resolve<'_>>) -> Result<UnixPattern, EntryError> {
        let pattern = UnixPattern::parse(self.text, resolve.unwrap_or(&|_, _| None));
        match pattern {
            // A process may be in several groups, and no order decides between them.
            Ok(UnixPattern::Gid(_)) if !admits => self.fault(
                "a group cannot be carved out",
                "carve out its users, or put the group into `deny`",
            ),
            Ok(pattern) => Ok(pattern),
            Err(UnixPatternFault::Unknown(kind, _)) if resolve.is_none() => self.fault(
                format!("a list's file has no names of {}s", kind.word()),
                "write the number, or put the entry into the policy's [lists]",
            ),
            Err(fault) => {
                let remedy = fault.remedy();
                self.fault(fault.to_string(), remedy)
            }
        }
    }

    /// Parses a network without host bits. `sign` is repeated in the remedy.
    fn network(self, sign: &str) -> Result<IpNet, EntryError> {
        let (address, length) = self
            .text
            .split_once('/')
            .map_or((self.text, None), |(address, length)| (address, Some(length)));
        let Ok(address) = address.parse::<IpAddr>() else {
            return self
                .fault(format!("`{}` is not an address", shown(address)), self.address_remedy());
        };
        let Some(length) = length else { return Ok(fold(address.into())) };
        let network = self.prefix(address, length, sign)?;
        // Checked before `fold`, so that the remedy shows the notation of the file.
        if network != network.trunc() {
            return self.fault(
                format!("{network} has host bits set"),
                format!(
                    "write {sign}{} for the network, or {sign}{address} for the one address",
                    network.trunc()
                ),
            );
        }
        Ok(fold(network))
    }

    /// Combines `address` with the prefix length after the `/`.
    fn prefix(self, address: IpAddr, length: &str, sign: &str) -> Result<IpNet, EntryError> {
        let (family, longest) = if address.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
        // A prefix length has no dot or colon, so it never parses as a netmask.
        let masked = length.parse().ok().and_then(|mask| IpNet::with_netmask(address, mask).ok());
        if let Some(network) = masked {
            let remedy = format!("write {sign}{}", network.trunc());
            return self.fault(format!("`{length}` is a netmask, not a prefix length"), remedy);
        }
        let remedy = format!("write a prefix length from /0 to /{longest}");
        // Digits only: integer parsing would accept a `+` too.
        if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return self.fault(format!("`{}` is not a prefix length", shown(length)), remedy);
        }
        let network = length.parse().ok().and_then(|length| IpNet::new(address, length).ok());
        network.ok_or_else(|| {
            self.at(format!("/{} is too long for an {family} address", shown(length)), remedy)
        })
    }

    /// The remedy for text that is not an address.
    fn address_remedy(self) -> Cow<'static, str> {
        // As in `192.0.2.0/24#office`: the comment needs a space before its mark.
        let glued = self.text.find(['#', ';']);
        if let Some(end) = glued
            .filter(|end| (EntryToken { text: &self.text[..*end], ..self }).network("").is_ok())
        {
            return format!("put a space before the `{}` of a comment", &self.text[end..=end])
                .into();
        }
        let is_range =
            self.text.split_once('-').is_some_and(|(from, _)| from.parse::<IpAddr>().is_ok());
        if is_range {
            return "write a range as networks, one per line, such as 192.0.2.0/28".into();
        }
        "write an address such as 192.0.2.1 or 2001:db8::1, or a network such as 192.0.2.0/24"
            .into()
    }

    /// Parses a later token of a line, an annotation, into `notes`.
    pub(super) fn annotate(self, notes: &mut Annotations) -> Result<(), EntryError> {
        let Some((key, value)) = self.text.split_once('=').filter(|(key, _)| !key.is_empty())
        else {
            return self.unexpected();
        };
        let value = || match value {
            "" => self.fault(
                format!("`{key}` has no value"),
                format!("write it right after the `=`, or leave `{key}` out"),
            ),
            value => Ok(value),
        };
        let given = match key {
            "owner" => notes.owner.replace(value()?.into()).is_some(),
            "ticket" => notes.ticket.replace(value()?.into()).is_some(),
            "expires" => notes.expires.replace(self.expiry(value()?)?).is_some(),
            unknown => return self.unknown(unknown),
        };
        if given {
            self.fault(format!("`{key}` is given twice"), "keep one of the two")
        } else {
            Ok(())
        }
    }

    /// Parses a day, which includes its last second in UTC, or an instant (RFC 3339 §5.6).
    fn expiry(self, value: &str) -> Result<Timestamp, EntryError> {
        expiry(value).ok_or_else(|| {
            let fault = format!("`{}` is not a date", shown(value));
            self.at(fault, "write expires=2026-12-31 (through the end of that day in UTC) or expires=2026-12-31T18:00:00Z")
        })
    }

    fn unexpected<T>(self) -> Result<T, EntryError> {
        let bare = self.text.strip_prefix('!').unwrap_or(self.text);
        let address = bare.split_once('/').map_or(bare, |(address, _)| address);
        if address.parse::<IpAddr>().is_ok() {
            return self.fault(
                "this is a second network on one line",
                format!("give `{}` a line of its own", shown(self.text)),
            );
        }
        self.fault(
            format!("`{}` is not an annotation", shown(self.text)),
            "write `key=value`, or ` #` before a comment",
        )
    }

    fn unknown<T>(self, key: &str) -> Result<T, EntryError> {
        let written = key.to_ascii_lowercase();
        let meant =
            ["owner", "ticket", "expires"].into_iter().find(|known| distance(&written, known) <= 2);
        let remedy = match meant {
            Some(known) => format!("did you mean `{known}`?").into(),
            None => {
                "the annotations are `owner`, `ticket` and `expires`; ` #` begins a comment".into()
            }
        };
        let span = self.start..self.start + key.len();
        Err(EntryError {
            span,
            fault: format!("unknown annotation `{}`", shown(key)).into(),
            remedy,
        })
    }

    pub(super) fn fault<T>(
        self,
        fault: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Result<T, EntryError> {
        Err(self.at(fault, remedy))
    }

    fn at(
        self,
        fault: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> EntryError {
        EntryError {
            span: self.start..self.start + self.text.len(),
            fault: fault.into(),
            remedy: remedy.into(),
        }
    }
}

/// The first instant at which an entry with `expires=value` is lapsed.
fn expiry(value: &str) -> Option<Timestamp> {
    // Ten bytes; `None` also means that the tenth is inside a character.
    let (day, time) = value.split_at_checked(10)?;
    // jiff accepts more spellings of a day than a list should.
    let is_day = day
        .bytes()
        .enumerate()
        .all(|(at, byte)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() });
    if !is_day {
        return None;
    }
    if time.is_empty() {
        return Some(day_after(day.parse().ok()?));
    }
    // jiff also accepts a space as the separator and a time zone in brackets (RFC 9557).
    if !time.starts_with(['T', 't']) || time.contains('[') {
        return None;
    }
    value.parse().ok()
}

/// Midnight in UTC at the end of `day`. 9999-12-31, which people write for "for ever", has no next
/// day.
fn day_after(day: Date) -> Timestamp {
    let midnight = day.tomorrow().map(|next| next.to_datetime(Time::midnight()));
    midnight.and_then(|midnight| Offset::UTC.to_timestamp(midnight)).unwrap_or(Timestamp::MAX)
}

/// The edit distance: letters to add, drop or replace to turn `word` into `known`.
fn distance(word: &str, known: &str) -> usize {
    let mut row: Vec<usize> = (0..=known.len()).collect();
    for (at, letter) in word.bytes().enumerate() {
        let mut before = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in known.bytes().enumerate() {
            let replaced = before + usize::from(letter != other);
            before = row[column + 1];
            row[column + 1] = replaced.min(before + 1).min(row[column] + 1);
        }
    }
    row[known.len()]
}

/// Text from the file, fit for a message: short, and without control characters.
pub(super) fn shown(text: &str) -> String {
    const MAX_SHOWN_CHARS: usize = 48;
    let mut shown: String =
        text.chars().take(MAX_SHOWN_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `line` reads as: the entry in one word per part, `-` for nothing,
    /// or `[what the span holds] the fault: the remedy`.
    fn check(line: &str, reads: &str) {
        let read = match ListEntry::parse(line) {
            Ok(None) => "-".to_owned(),
            Ok(Some(entry)) => {
                let sign = if entry.admits { "" } else { "!" };
                let notes = [
                    entry.owner().map(|owner| format!(" owner {owner}")),
                    entry.ticket().map(|ticket| format!(" ticket {ticket}")),
                    entry.expires().map(|expires| format!(" until {expires}")),
                ];
                format!(
                    "{sign}{}{}",
                    entry.pattern,
                    notes.into_iter().flatten().collect::<String>()
                )
            }
            Err(fault) => format!("[{}] {}: {}", &line[fault.span], fault.fault, fault.remedy),
        };
        assert_eq!(read, reads, "of {line:?}");
    }

    /// How the entry of `line` is written back.
    fn check_shown(line: &str, shown: &str) {
        let entry = ListEntry::parse(line).unwrap().unwrap();
        let expires = entry.expiry().map(|expiry| format!(" expires={expiry}"));
        assert_eq!(format!("{entry}{}", expires.unwrap_or_default()), shown, "of {line:?}");
    }

    #[test]
    fn users_of_this_host_are_entries_with_annotations() {
        check("unix", "unix");
        check("unix:uid=33 ticket=SEC-1 # nginx", "unix:uid=33 ticket SEC-1");
        check("!unix:uid=33", "!unix:uid=33");
        check("unix:gid=44", "unix:gid=44");
        let users = "write \"unix\", \"unix:uid=33\" or \"unix:gid=www-data\"";
        check("unix:33", &format!("[unix:33] not a pattern of Unix clients: {users}"));
        check(
            "!unix:gid=44",
            "[unix:gid=44] a group cannot be carved out: carve out its users, or put the group \
             into `deny`",
        );
        check(
            "unix:uid=www-data",
            "[unix:uid=www-data] a list's file has no names of users: write the number, or put \
             the entry into the policy's [lists]",
        );
        let named = ListEntry::parse_with("unix:uid=www-data", Some(&|_, _| Some(33)));
        assert_eq!(named.unwrap().unwrap().to_string(), "unix:uid=33");
        check_shown("unix:gid=44 expires=2026-12-31", "unix:gid=44 expires=2026-12-31");
    }

    #[test]
    fn entry_displays_like_its_line() {
        check_shown("!203.0.113.66/32 ticket=SEC-1", "!203.0.113.66");
        check_shown("2001:db8::/32", "2001:db8::/32");
        check_shown("192.0.2.1 expires=2026-12-31", "192.0.2.1 expires=2026-12-31");
        check_shown("192.0.2.1 expires=9999-12-31", "192.0.2.1 expires=9999-12-31");
        check_shown(
            "192.0.2.1 expires=2026-12-31T18:00:00Z",
            "192.0.2.1 expires=2026-12-31T18:00:00Z",
        );
        check_shown("192.0.2.1 expires=2027-01-01T00:00:00Z", "192.0.2.1 expires=2026-12-31"); // the same instant
    }

    #[test]
    fn a_line_is_a_network_and_its_annotations() {
        check("10.0.0.0/8", "10.0.0.0/8");
        check(
            "203.0.113.0/24    owner=acme ticket=SEC-1042     # Acme VPN egress",
            "203.0.113.0/24 owner acme ticket SEC-1042",
        );
        check(
            "!203.0.113.66     ticket=SEC-2190                # carve-out",
            "!203.0.113.66/32 ticket SEC-2190",
        );
        check("\t2001:DB8::/32\towner=a=b", "2001:db8::/32 owner a=b");
        check("0.0.0.0/0", "0.0.0.0/0");
        check("192.0.2.1 ticket=#12", "192.0.2.1/32 ticket #12");
    }

    #[test]
    fn a_bare_address_is_a_network_of_one() {
        check("192.0.2.7", "192.0.2.7/32");
        check("2001:db8::7", "2001:db8::7/128");
    }

    #[test]
    fn blanks_and_comments_are_no_entries() {
        for line in
            ["", "   \t", "\r\n", "# a comment", "; another", "  #10.0.0.0/8", ";10.0.0.0/8"]
        {
            check(line, "-");
        }
    }

    #[test]
    fn a_plain_feed_loads_unchanged() {
        check("1.10.16.0/20 ; SBL256894", "1.10.16.0/20");
        check("192.0.2.1\r\n", "192.0.2.1/32");
        check("192.0.2.1 # seen 3 times = bad", "192.0.2.1/32");
    }

    #[test]
    fn an_ipv4_mapped_network_folds() {
        check("::ffff:10.0.0.0/104", "10.0.0.0/8");
        check("!::ffff:10.1.2.3", "!10.1.2.3/32");
    }

    #[test]
    fn an_expiry_is_a_day_in_utc_or_an_instant() {
        check("192.0.2.1 expires=2026-12-31", "192.0.2.1/32 until 2027-01-01T00:00:00Z");
        check("192.0.2.1 expires=2024-02-28", "192.0.2.1/32 until 2024-02-29T00:00:00Z");
        check("192.0.2.1 expires=2026-12-31T18:00:00Z", "192.0.2.1/32 until 2026-12-31T18:00:00Z");
        check(
            "192.0.2.1 expires=2026-12-31T18:00:00+02:00",
            "192.0.2.1/32 until 2026-12-31T16:00:00Z",
        );
        check("192.0.2.1 expires=9999-12-31", "192.0.2.1/32 until 9999-12-30T22:00:00.999999999Z");
    }

    #[test]
    fn an_entry_lapses_when_its_last_second_is_over() {
        let entry = ListEntry::parse("192.0.2.1 expires=2026-12-31").unwrap().unwrap();
        assert!(!entry.lapsed("2026-12-31T23:59:59.999Z".parse().unwrap()));
        assert!(entry.lapsed("2027-01-01T00:00:00Z".parse().unwrap()));
        assert!(!entry.lapsed(Timestamp::MIN));
    }

    #[test]
    fn invalid_expiry_is_a_fault() {
        let remedy = "write expires=2026-12-31 (through the end of that day in UTC) or expires=2026-12-31T18:00:00Z";
        for value in [
            "2026-02-30",
            "31.12.2026",
            "20261231",
            "20261231T1",
            "2026-12-31T18:00:00",
            "2026-12-31T18:00:00Z[UTC]",
            "tomorrow",
            "2026-12-31x",
        ] {
            check(
                &format!("192.0.2.1 expires={value}"),
                &format!("[expires={value}] `{value}` is not a date: {remedy}"),
            );
        }
    }

    #[test]
    fn host_bits_are_a_fault_that_names_the_network() {
        check(
            "10.0.0.1/8",
            "[10.0.0.1/8] 10.0.0.1/8 has host bits set: write 10.0.0.0/8 for the network, or 10.0.0.1 for the one address",
        );
        check(
            "  !2001:db8::1/32 # x",
            "[2001:db8::1/32] 2001:db8::1/32 has host bits set: write !2001:db8::/32 for the network, or !2001:db8::1 for the one address",
        );
    }

    #[test]
    fn a_prefix_length_fits_its_family() {
        check(
            "10.0.0.0/33",
            "[10.0.0.0/33] /33 is too long for an IPv4 address: write a prefix length from /0 to /32",
        );
        check(
            "::/129",
            "[::/129] /129 is too long for an IPv6 address: write a prefix length from /0 to /128",
        );
        check(
            "::/999",
            "[::/999] /999 is too long for an IPv6 address: write a prefix length from /0 to /128",
        );
        check(
            "10.0.0.0/",
            "[10.0.0.0/] `` is not a prefix length: write a prefix length from /0 to /32",
        );
        check(
            "10.0.0.0/+8",
            "[10.0.0.0/+8] `+8` is not a prefix length: write a prefix length from /0 to /32",
        );
        check(
            "10.1.0.0/255.0.0.0",
            "[10.1.0.0/255.0.0.0] `255.0.0.0` is a netmask, not a prefix length: write 10.0.0.0/8",
        );
    }

    #[test]
    fn invalid_address_is_a_fault() {
        let remedy =
            "write an address such as 192.0.2.1 or 2001:db8::1, or a network such as 192.0.2.0/24";
        for (line, named) in [
            ("office", "office"),
            ("10.0.0/8", "10.0.0"),
            ("010.0.0.1", "010.0.0.1"),
            ("fe80::1%eth0", "fe80::1%eth0"),
        ] {
            check(line, &format!("[{line}] `{named}` is not an address: {remedy}"));
        }
        check(
            "\u{a0}10.0.0.1",
            &format!("[\u{a0}10.0.0.1] `\\u{{a0}}10.0.0.1` is not an address: {remedy}"),
        );
        check("!!10.0.0.1", &format!("[!10.0.0.1] `!10.0.0.1` is not an address: {remedy}"));
        check(
            "192.0.2.1-192.0.2.9",
            "[192.0.2.1-192.0.2.9] `192.0.2.1-192.0.2.9` is not an address: write a range as networks, one per line, such as 192.0.2.0/28",
        );
        check(
            "192.0.2.1#office",
            "[192.0.2.1#office] `192.0.2.1#office` is not an address: put a space before the `#` of a comment",
        );
        let long = "x".repeat(4096);
        check(&long, &format!("[{long}] `{}…` is not an address: {remedy}", "x".repeat(48)));
    }

    #[test]
    fn a_carve_out_needs_its_network() {
        check("!", "[!] `!` has no network: write the network right after it: `!192.0.2.1`");
        check(
            "! 10.0.0.0/8",
            "[!] `!` has no network: write the network right after it: `!192.0.2.1`",
        );
    }

    #[test]
    fn one_line_holds_one_network() {
        check(
            "10.0.0.0/8 192.0.2.0/24",
            "[192.0.2.0/24] this is a second network on one line: give `192.0.2.0/24` a line of its own",
        );
        check(
            "10.0.0.0/8\r!::1",
            "[!::1] this is a second network on one line: give `!::1` a line of its own",
        );
    }

    #[test]
    fn unknown_annotation_is_a_fault_with_a_suggestion() {
        check(
            "192.0.2.1 expire=2026-12-31",
            "[expire] unknown annotation `expire`: did you mean `expires`?",
        );
        check(
            "192.0.2.1 expiry=2026-12-31",
            "[expiry] unknown annotation `expiry`: did you mean `expires`?",
        );
        check("192.0.2.1 Owner=acme", "[Owner] unknown annotation `Owner`: did you mean `owner`?");
        check(
            "192.0.2.1 tickets=1",
            "[tickets] unknown annotation `tickets`: did you mean `ticket`?",
        );
        check(
            "192.0.2.1 note=hello",
            "[note] unknown annotation `note`: the annotations are `owner`, `ticket` and `expires`; ` #` begins a comment",
        );
        check(
            "192.0.2.1 =1",
            "[=1] `=1` is not an annotation: write `key=value`, or ` #` before a comment",
        );
        check(
            "192.0.2.1 office",
            "[office] `office` is not an annotation: write `key=value`, or ` #` before a comment",
        );
    }

    #[test]
    fn an_annotation_has_one_value() {
        check(
            "192.0.2.1 owner=",
            "[owner=] `owner` has no value: write it right after the `=`, or leave `owner` out",
        );
        check("192.0.2.1 owner=a owner=b", "[owner=b] `owner` is given twice: keep one of the two");
        check(
            "192.0.2.1 expires=2026-12-31 expires=2027-12-31",
            "[expires=2027-12-31] `expires` is given twice: keep one of the two",
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

        #[test]
        fn any_line_parses_and_spans_lie_within_it(line in "(?s).{0,60}|[!0-9a-f:./ =#;\t\r-]{0,60}|(owner|ticket|expires)=.{0,20}") {
            for line in [line.clone(), format!("192.0.2.1 {line}"), format!("192.0.2.1 expires={line}")] {
                if let Err(fault) = ListEntry::parse(&line) {
                    prop_assert!(line.get(fault.span).is_some_and(|text| !text.is_empty()));
                }
            }
        }

        #[test]
        fn displayed_entry_round_trips(bits: u128, length in 0u8..=128, v6: bool, admits: bool) {
            let written = if v6 {
                IpNet::new(IpAddr::V6(bits.into()), length)
            } else {
                IpNet::new(IpAddr::V4((bits as u32).into()), length.min(32))
            };
            let network = written.unwrap().trunc();
            let line = format!("{}{network}", if admits { "" } else { "!" });
            let entry = ListEntry::parse(&line).unwrap().unwrap();
            let pattern = ClientPattern::Network(fold(network));
            prop_assert_eq!((entry.pattern, entry.admits), (pattern, admits));
        }
    }
}

//! Serial numbers of revoked certificates, one a line, with the annotations of a list's line.
//!
//! `ISSUER:SERIAL`, or `SERIAL` alone: hexadecimal, with or without colons between bytes. ISSUER is
//! the digest of the issuer's public key, which no other issuer can have. The parser works on text
//! only, and never skips a line that it doesn't understand.

use std::collections::HashMap;
use std::fmt;

use jiff::Timestamp;

use crate::policy::certificate::KeyPin;
use crate::policy::list::entry::{Annotations, EntryError, EntryToken, shown, tokens};

/// The most bytes of a serial number (RFC 5280 §4.1.2.2).
const MAX_SERIAL_BYTES: usize = 20;

/// Digits of a [`KeyPin`], and its bytes.
const PIN_DIGITS: usize = 64;
const PIN_BYTES: usize = 32;

/// One revoked serial number, with its issuer and annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialEntry {
    /// The key of the issuer. `None` means every issuer, of a client's own certificate alone.
    pub issuer: Option<KeyPin>,
    /// Big-endian, without leading zeros.
    pub serial: Box<[u8]>,
    notes: Option<Box<Annotations>>,
}

/// The revoked serial numbers of a listener.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RevokedSerials {
    by_serial: HashMap<Box<[u8]>, Vec<SerialEntry>>,
}

impl SerialEntry {
    /// Parses one line, with or without its line end. `None` means a blank line or only a comment.
    /// `is_sole` says that the listener has one authority, so that a line may leave the issuer out.
    ///
    /// # Errors
    /// The first fault of the line.
    pub fn parse(line: &str, is_sole: bool) -> Result<Option<SerialEntry>, EntryError> {
        let mut tokens = tokens(line);
        let Some(first) = tokens.next() else { return Ok(None) };
        let (issuer, serial) = read_number(first)?;
        if issuer.is_none() && !is_sole {
            return first.fault(
                "which authority's? `ca` has several",
                "write ISSUER:SERIAL, with the SHA-256 of the issuer's public key in DER: openssl \
                 x509 -in CA.pem -pubkey -noout | openssl pkey -pubin -outform DER | sha256sum",
            );
        }
        let mut entry = SerialEntry { issuer, serial, notes: None };
        for token in tokens {
            if token.text.split_once('=').is_none() && read_number(token).is_ok() {
                return token.fault(
                    "this is a second serial number on one line",
                    "give each a line of its own",
                );
            }
            token.annotate(entry.notes.get_or_insert_default())?;
        }
        Ok(Some(entry))
    }

    /// The first instant at which the entry has lapsed. `None` means never.
    pub fn expires(&self) -> Option<Timestamp> {
        self.notes.as_ref()?.expires
    }

    /// Whether the entry has expired by `now`, and so counts as absent.
    pub fn lapsed(&self, now: Timestamp) -> bool {
        self.expires().is_some_and(|expires| expires <= now)
    }

    /// Whether the entry is about a certificate with this issuer.
    fn is_about(&self, issuer: &KeyPin, is_own: bool) -> bool {
        self.issuer.map_or(is_own, |own| own == *issuer)
    }
}

/// As in a file, without annotations: `ISSUER:SERIAL`, in lower case.
impl fmt::Display for SerialEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(KeyPin(pin)) = self.issuer {
            pin.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            f.write_str(":")?;
        }
        if self.serial.is_empty() {
            return f.write_str("00");
        }
        self.serial.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl RevokedSerials {
    /// Collects `entries`. A serial number that is listed twice for one issuer keeps the latest
    /// expiry.
    pub fn new(entries: impl IntoIterator<Item = SerialEntry>) -> Self {
        let mut by_serial: HashMap<Box<[u8]>, Vec<SerialEntry>> = HashMap::new();
        for entry in entries {
            let known = by_serial.entry(entry.serial.clone()).or_default();
            match known.iter_mut().find(|known| known.issuer == entry.issuer) {
                // `None` never lapses, and is the latest.
                Some(known) if known.expires().is_some_and(|known| entry.outlasts(known)) => {
                    *known = entry;
                }
                Some(_) => {}
                None => known.push(entry),
            }
        }
        RevokedSerials { by_serial }
    }

    /// The number of serial numbers that are revoked here at the time `now`, and not in `other`.
    pub fn missing_in(&self, other: &RevokedSerials, now: Timestamp) -> usize {
        let all = self.by_serial.values().flatten().filter(|entry| !entry.lapsed(now));
        let has = |entry: &SerialEntry| {
            let known = other.by_serial.get(&entry.serial).map(Vec::as_slice).unwrap_or_default();
            let is_as_wide = |one: &SerialEntry| one.issuer.is_none() || one.issuer == entry.issuer;
            known.iter().any(|one| !one.lapsed(now) && is_as_wide(one))
        };
        all.filter(|entry| !has(entry)).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_serial.is_empty()
    }

    /// The number of entries, lapsed ones included.
    pub fn len(&self) -> usize {
        self.by_serial.values().map(Vec::len).sum()
    }

    /// Whether a certificate is revoked at `now`, by its issuer's key and its serial number
    /// (big-endian, without leading zeros). `is_own` says that it is the client's own certificate,
    /// and not that of an authority.
    pub fn revokes(&self, issuer: &KeyPin, serial: &[u8], is_own: bool, now: Timestamp) -> bool {
        self.by_serial.get(serial).is_some_and(|entries| {
            entries.iter().any(|entry| entry.is_about(issuer, is_own) && !entry.lapsed(now))
        })
    }

    /// When the next entry lapses, after `now`.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        let expiries = self.by_serial.values().flatten().filter_map(SerialEntry::expires);
        expiries.filter(|expires| *expires > now).min()
    }
}

impl SerialEntry {
    fn outlasts(&self, known: Timestamp) -> bool {
        self.expires().is_none_or(|own| own > known)
    }
}

const REMEDY: &str = "write it in hexadecimal, as `openssl x509 -noout -serial` prints it behind \
                      the `=`: 1A2B3C or 1a:2b:3c";

/// Reads the first token of a line.
fn read_number(token: EntryToken<'_>) -> Result<(Option<KeyPin>, Box<[u8]>), EntryError> {
    let text = token.text;
    if text.starts_with('!') {
        return token
            .fault("a serial number has no `!`", "remove its line: then it is not revoked");
    }
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    let (issuer, number) = split_issuer(text);
    let issuer = match issuer.map(|digits| KeyPin::parse(&digits)) {
        Some(None) => return invalid(token),
        Some(pin) => pin,
        None => None,
    };
    if issuer.is_some() && number.is_empty() {
        return token.fault("the issuer has no serial number", "write ISSUER:SERIAL");
    }
    // Each group between colons is a byte; without colons there may be any number of digits.
    let groups: Vec<_> = number.split(':').collect();
    let is_sound = match &groups[..] {
        [digits] => !digits.is_empty(),
        several => several.iter().all(|group| group.len() == 2),
    };
    if !is_sound || !groups.iter().all(|group| is_hexadecimal(group)) {
        return invalid(token);
    }
    let digits = groups.concat();
    let digits = digits.trim_start_matches('0');
    if digits.len() > 2 * MAX_SERIAL_BYTES {
        return token.fault(
            format!("a serial number has at most {MAX_SERIAL_BYTES} bytes"),
            "an ISSUER has 64 hexadecimal digits, and a colon behind it",
        );
    }
    Ok((issuer, bytes(digits)))
}

/// Splits ISSUER off: 64 digits, or 32 pairs of digits with colons between them.
fn split_issuer(text: &str) -> (Option<String>, String) {
    let groups: Vec<_> = text.split(':').collect();
    let is_paired = |groups: &[&str]| groups.iter().all(|group| group.len() == 2);
    if groups[0].len() == PIN_DIGITS {
        return (Some(groups[0].to_owned()), groups[1..].join(":"));
    }
    match groups.split_at_checked(PIN_BYTES) {
        Some((issuer, number)) if is_paired(issuer) => (Some(issuer.concat()), number.join(":")),
        _ => (None, text.to_owned()),
    }
}

fn invalid<T>(token: EntryToken<'_>) -> Result<T, EntryError> {
    token.fault(format!("`{}` is not a serial number", shown(token.text)), REMEDY)
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The bytes of `digits`, which are hexadecimal. An odd number of them begins with half a byte.
fn bytes(digits: &str) -> Box<[u8]> {
    let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or_default() as u8;
    let digits: Vec<_> = digits.bytes().map(value).collect();
    digits
        .rchunks(2)
        .rev()
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const PIN: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    /// `PIN` with colons between its bytes, in upper case.
    fn spaced_pin() -> String {
        let pairs: Vec<_> = (0..PIN_BYTES).map(|byte| format!("{byte:02X}")).collect();
        pairs.join(":")
    }

    /// What `line` reads as, or `[what the span holds] the fault`.
    #[track_caller]
    fn check(line: &str, is_sole: bool, reads: &str) {
        let read = match SerialEntry::parse(line, is_sole) {
            Ok(None) => "-".to_owned(),
            Ok(Some(entry)) => {
                let until = entry.expires().map(|at| format!(" until {at}"));
                format!("{entry}{}", until.unwrap_or_default())
            }
            Err(fault) => format!("[{}] {}", &line[fault.span], fault.fault),
        };
        assert_eq!(read, reads, "{line:?}");
    }

    #[test]
    fn serial_is_read_with_and_without_colons() {
        for line in ["1A2B3C", "1a:2b:3c", "00:1A:2B:3C", "  1a2b3c # lost laptop", "001a2b3c;x"] {
            let expected = if line.ends_with(";x") {
                "[001a2b3c;x] `001a2b3c;x` is not a serial number"
            } else {
                "1a2b3c"
            };
            check(line, true, expected);
        }
        check("abc", true, "0abc");
        check("0", true, "00");
        check("", true, "-");
        check(" # 1A2B", true, "-");
        check("; 1A2B", true, "-");
        check("1A expires=2030-01-01 ticket=SEC-1", true, "1a until 2030-01-02T00:00:00Z");
    }

    #[test]
    fn issuer_is_read_in_each_notation() {
        let expected = format!("{PIN}:1a2b");
        for line in [
            format!("{PIN}:1A2B"),
            format!("{PIN}:1a:2b"),
            format!("sha256:{PIN}:1a2b"),
            format!("{}:1a2b", spaced_pin()),
            format!("{}:1A:2B", spaced_pin()),
            format!("{}:00:1A:2B ticket=x", spaced_pin()),
        ] {
            check(&line, false, &expected);
            check(&line, true, &expected);
        }
        check(&format!("{}:07", spaced_pin()), false, &format!("{PIN}:07"));
    }

    #[test]
    fn faults_of_a_line_are_placed() {
        check("1A2B", false, "[1A2B] which authority's? `ca` has several");
        check(PIN, true, &format!("[{PIN}] the issuer has no serial number"));
        let long = "01".repeat(MAX_SERIAL_BYTES + 1);
        check(&long, true, &format!("[{long}] a serial number has at most 20 bytes"));
        check(&format!("00{}", "01".repeat(MAX_SERIAL_BYTES)), true, &"01".repeat(20));
        for text in
            ["serial=1A2B", "0x1A2B", "1A2G", "1:2B", "1A::2B", ":1A", "1A:", "é", "192.0.2.1"]
        {
            check(text, true, &format!("[{text}] `{text}` is not a serial number"));
        }
        check("!1A2B", true, "[!1A2B] a serial number has no `!`");
        check("1A 2B", true, "[2B] this is a second serial number on one line");
        check("1A reason=lost", true, "[reason] unknown annotation `reason`");
        check("1A expires=soon", true, "[expires=soon] `soon` is not a date");
        let zz = format!("{}:1A", "zz".repeat(PIN_BYTES));
        assert!(SerialEntry::parse(&zz, true).is_err());
    }

    fn entry(line: &str) -> SerialEntry {
        SerialEntry::parse(line, true).unwrap().unwrap()
    }

    #[test]
    fn serial_is_revoked_for_its_issuer_until_it_lapses() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let (pin, other) = (KeyPin::parse(PIN).unwrap(), KeyPin([9; 32]));
        let revoked = RevokedSerials::new([
            entry(&format!("{PIN}:01")),
            entry("02"),
            entry("03 expires=2030-01-01T00:00:00Z"),
            entry("03 expires=2031-01-01T00:00:00Z"),
            entry("03 expires=2029-01-01T00:00:00Z"),
        ]);
        let (now, later) = (time("2030-06-01T00:00:00Z"), time("2031-01-01T00:00:00Z"));
        assert_eq!(revoked.len(), 3);
        assert!(revoked.revokes(&pin, &[1], true, now) && revoked.revokes(&pin, &[1], false, now));
        assert!(!revoked.revokes(&other, &[1], true, now));
        // Without an issuer: the client's own certificate, of any issuer.
        assert!(revoked.revokes(&pin, &[2], true, now) && revoked.revokes(&other, &[2], true, now));
        assert!(!revoked.revokes(&pin, &[2], false, now));
        assert!(
            revoked.revokes(&pin, &[3], true, now) && !revoked.revokes(&pin, &[3], true, later)
        );
        assert!(!revoked.revokes(&pin, &[4], true, now));
        assert_eq!(revoked.next_expiry(now), Some(later));
        assert_eq!(revoked.next_expiry(later), None);
        let forever = RevokedSerials::new([entry("03"), entry("03 expires=2029-01-01")]);
        assert!(forever.revokes(&pin, &[3], true, now) && forever.next_expiry(now).is_none());
    }

    proptest! {
        #[test]
        fn entry_reads_back_as_displayed(
            serial in prop::collection::vec(any::<u8>(), 0..=20), pin: [u8; 32], has_issuer: bool
        ) {
            let zeros = serial.iter().take_while(|byte| **byte == 0).count();
            let (issuer, serial) = (has_issuer.then_some(KeyPin(pin)), serial[zeros..].into());
            let entry = SerialEntry { issuer, serial, notes: None };
            prop_assert_eq!(SerialEntry::parse(&entry.to_string(), true), Ok(Some(entry)));
        }

        #[test]
        fn any_line_parses_without_a_panic(line in "[ -~é:]{0,120}", is_sole: bool) {
            let _ = SerialEntry::parse(&line, is_sole);
        }
    }
}

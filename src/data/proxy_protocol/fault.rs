//! What may be wrong with a PROXY header, as a sentence for the log.

use std::fmt;

/// The most bytes of a header, as in HAProxy. Addresses and the usual TLVs take a few hundred; a
/// client's certificate takes some KiB.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;

/// The most bytes of a header of version 1, its line end included (section 2.1).
pub const MAX_V1_BYTES: usize = 107;

/// The fault of a PROXY header. Displays as a sentence for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderFault {
    /// The connection begins with something else.
    Absent(Opening),
    /// The line of version 1 has no end within its bound.
    V1TooLong,
    /// The line of version 1 is malformed.
    V1Malformed,
    /// The version in a binary header is not 2.
    Version(u8),
    /// The command is neither `LOCAL` nor `PROXY`.
    Command(u8),
    /// The address family or the transport is not one of the specification's.
    Family(u8),
    /// The header is larger than [`MAX_HEADER_BYTES`].
    V2TooLong(usize),
    /// The header is shorter than its addresses.
    V2TooShort,
    /// A TLV is longer or shorter than its place.
    Tlv(u8),
    /// The checksum of the header differs.
    Checksum,
}

/// What begins a connection instead of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// A TLS record, which begins a handshake.
    Tls,
    /// Probably a request in plain HTTP.
    Http,
    /// Bytes of any other protocol.
    Other,
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderFault::Absent(opening) => {
                let opening = match opening {
                    Opening::Tls => "a TLS handshake",
                    Opening::Http => "HTTP",
                    Opening::Other => "other bytes",
                };
                write!(
                    f,
                    "no PROXY header: a peer listed in proxy_protocol.from began with {opening}"
                )
            }
            HeaderFault::V1TooLong => {
                write!(f, "malformed PROXY v1 header: no line end within {MAX_V1_BYTES} bytes")
            }
            HeaderFault::V1Malformed => f.write_str(
                "malformed PROXY v1 header: expected `PROXY TCP4|TCP6 ADDRESS ADDRESS PORT PORT` \
                 or `PROXY UNKNOWN`",
            ),
            HeaderFault::Version(version) => {
                write!(f, "malformed PROXY v2 header: its version is {version}")
            }
            HeaderFault::Command(command) => {
                write!(f, "malformed PROXY v2 header: unknown command {command}")
            }
            HeaderFault::Family(family) => {
                write!(f, "malformed PROXY v2 header: unknown address family {family:#04x}")
            }
            HeaderFault::V2TooLong(length) => write!(
                f,
                "PROXY v2 header too large: {length} bytes, and {MAX_HEADER_BYTES} are the most"
            ),
            HeaderFault::V2TooShort => {
                f.write_str("malformed PROXY v2 header: shorter than its addresses")
            }
            HeaderFault::Tlv(kind) => {
                write!(f, "malformed PROXY v2 header: wrong length of the TLV {kind:#04x}")
            }
            HeaderFault::Checksum => {
                f.write_str("malformed PROXY v2 header: its CRC32c checksum differs")
            }
        }
    }
}

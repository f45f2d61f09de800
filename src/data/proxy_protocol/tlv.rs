//! The TLVs of a PROXY header of version 2 (section 2.2): their lengths, their checksum, and those
//! that are logged. Unknown ones are passed over.

use data_encoding::HEXLOWER;
use proxy_header::Tlv;

use crate::data::proxy_protocol::fault::HeaderFault;
use crate::policy::proxied::{ProxiedTls, ProxyDetails};

// The types of section 2.2, of which others are passed over.
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_COMMON_NAME: u8 = 0x22;

/// Bytes of a `PP2_TYPE_SSL` in front of its own TLVs: the client's flags, and `verify`.
const SSL_FIXED_BYTES: usize = 5;

/// The most bytes that are kept of a text.
const MAX_TEXT_BYTES: usize = 255;

/// A TLV with its type and its bytes.
struct RawTlv<'h> {
    kind: u8,
    value: &'h [u8],
}

/// Reads `tlvs`, the rest of `header` behind its addresses.
///
/// # Errors
/// A length is wrong, or the checksum differs.
pub fn read(header: &[u8], tlvs: &[u8]) -> Result<ProxyDetails, HeaderFault> {
    let mut details = ProxyDetails::default();
    let mut rest = tlvs;
    while let Some(RawTlv { kind, value }) = take(&mut rest)? {
        match kind {
            AUTHORITY => details.authority = Some(text(value)),
            UNIQUE_ID => details.unique_id = Some(id(value)),
            SSL => details.tls = Some(tls(value)?),
            CRC32C => {
                let sum: [u8; 4] = value.try_into().map_err(|_| HeaderFault::Tlv(kind))?;
                // `rest` begins behind this TLV, so its value is found from the end. The checksum
                // covers the whole header, with zeros in place of itself.
                let at = header.len() - rest.len() - sum.len();
                if crc32c(header, at) != u32::from_be_bytes(sum) {
                    return Err(HeaderFault::Checksum);
                }
            }
            _ => {}
        }
    }
    Ok(details)
}

/// Reads a `PP2_TYPE_SSL`, with the TLVs inside it.
fn tls(value: &[u8]) -> Result<ProxiedTls, HeaderFault> {
    let Ok(Tlv::Ssl(ssl)) = Tlv::decode(SSL, value) else { return Err(HeaderFault::Tlv(SSL)) };
    let mut tls = ProxiedTls {
        is_tls: ssl.client_ssl(),
        version: None,
        common_name: None,
        // Over a resumed session no certificate is sent. The balancer has verified it before, and
        // sets only the flag of the session.
        has_certificate: ssl.client_cert_conn() || ssl.client_cert_sess(),
        verify: ssl.verify(),
    };
    let mut rest = &value[SSL_FIXED_BYTES..];
    while let Some(RawTlv { kind, value }) = take(&mut rest)? {
        match kind {
            SSL_VERSION => tls.version = Some(text(value)),
            SSL_COMMON_NAME => tls.common_name = Some(text(value)),
            _ => {}
        }
    }
    Ok(tls)
}

/// Takes the next TLV off `rest`. `None` means that there is none left.
fn take<'h>(rest: &mut &'h [u8]) -> Result<Option<RawTlv<'h>>, HeaderFault> {
    let Some(&kind) = rest.first() else { return Ok(None) };
    let fault = HeaderFault::Tlv(kind);
    let &[_, high, low, ref behind @ ..] = *rest else { return Err(fault) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let (value, behind) = behind.split_at_checked(length).ok_or(fault)?;
    *rest = behind;
    Ok(Some(RawTlv { kind, value }))
}

/// The id in a TLV. Its bytes are opaque, and mostly text.
fn id(value: &[u8]) -> Box<str> {
    if value.iter().all(u8::is_ascii_graphic) {
        return text(value);
    }
    HEXLOWER.encode(&value[..value.len().min(MAX_TEXT_BYTES / 2)]).into()
}

/// The text in a TLV, cut to its bound. A common name may be in another encoding than UTF-8, which
/// is no reason to refuse its connection.
fn text(value: &[u8]) -> Box<str> {
    String::from_utf8_lossy(&value[..value.len().min(MAX_TEXT_BYTES)]).into()
}

/// The CRC32c (RFC 3309) of `header`, with zeros for the four bytes of the checksum itself.
pub fn crc32c(header: &[u8], checksum_at: usize) -> u32 {
    let checksum = checksum_at..checksum_at + 4;
    let bytes = header.iter().enumerate();
    let bytes = bytes.map(|(at, byte)| if checksum.contains(&at) { 0 } else { *byte });
    !bytes.fold(!0, |sum, byte| (sum >> 8) ^ CRC32C_TABLE[usize::from(sum as u8 ^ byte)])
}

/// The CRC32c of each byte. The polynomial is Castagnoli's, its bits in reverse order.
static CRC32C_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let (mut sum, mut bit) = (byte as u32, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0x82F6_3B78 } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_is_that_of_its_specification() {
        // RFC 3720 §B.4: 32 bytes of zeros, and of ones.
        let with_zeros = |bytes: &[u8]| crc32c(bytes, bytes.len());
        assert_eq!(with_zeros(&[0; 32]), 0x8A91_36AA);
        assert_eq!(with_zeros(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(with_zeros(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn texts_are_bounded_and_any_encoding_is_read() {
        assert_eq!(text(&[b'a'; 300]).len(), MAX_TEXT_BYTES);
        assert_eq!(&*text(b"M\xfcller"), "M\u{fffd}ller");
    }
}

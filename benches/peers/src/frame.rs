//! WebSocket's frame headers (RFC 6455 §5.2) and its mask; nothing is fragmented here, and no
//! extension is agreed on.

pub const CONTINUATION: u8 = 0;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The largest header: two bytes, eight of length, four of mask.
pub const LARGEST: usize = 14;

#[derive(Clone, Copy)]
pub struct Header {
    pub last: bool,
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload, and of the header itself.
    pub length: usize,
    pub size: usize,
}

impl Header {
    /// The header at the start of `bytes`; `None` needs more of them.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        let (length, bare) = match second & 0x7f {
            126 => (u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize, 4),
            127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
            short => (short as usize, 2),
        };
        let mask = match second & 0x80 {
            0 => None,
            _ => Some(bytes.get(bare..bare + 4)?.try_into().ok()?),
        };
        Some(Self {
            last: first & 0x80 != 0,
            opcode: first & 0x0f,
            mask,
            length,
            size: bare + 4 * usize::from(mask.is_some()),
        })
    }
}

/// How many bytes `write` takes for an unmasked frame of so many.
pub fn bare_size(length: usize) -> usize {
    match length {
        0..126 => 2,
        126..65536 => 4,
        _ => 10,
    }
}

/// Writes the header of a whole message, without a mask, to the start of `out`; `masked` sets the
/// bit that announces one.
pub fn write(out: &mut [u8], opcode: u8, length: usize, masked: bool) {
    let bit = if masked { 0x80 } else { 0 };
    out[0] = 0x80 | opcode;
    match bare_size(length) {
        2 => out[1] = bit | length as u8,
        4 => {
            out[1] = bit | 126;
            out[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out[1] = bit | 127;
            out[2..10].copy_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// A client's frame, masked, appended to `out`.
pub fn append_masked(
    out: &mut Vec<u8>,
    opcode: u8,
    mask: [u8; 4],
    payload: impl FnOnce(&mut Vec<u8>),
    length: usize,
) {
    let start = out.len();
    out.resize(start + bare_size(length), 0);
    write(&mut out[start..], opcode, length, true);
    out.extend_from_slice(&mask);
    let from = out.len();
    payload(out);
    debug_assert_eq!(out.len() - from, length);
    apply(&mut out[from..], mask);
}

/// Masks or unmasks a whole payload, eight bytes at a time.
pub fn apply(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_frame_of_any_length_is_read_back() {
        for length in [0, 1, 7, 8, 125, 126, 65535, 65536, 1 << 20] {
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut wire = Vec::new();
            append_masked(
                &mut wire,
                BINARY,
                [1, 2, 3, 255],
                |out| out.extend_from_slice(&payload),
                length,
            );
            let head = Header::parse(&wire).unwrap();
            assert!(
                (0..head.size).all(|cut| Header::parse(&wire[..cut]).is_none()),
                "of a part of a header nothing is read"
            );
            assert_eq!(
                (head.last, head.opcode, head.length, head.size + length),
                (true, BINARY, length, wire.len())
            );
            apply(&mut wire[head.size..], head.mask.unwrap());
            assert_eq!(wire[head.size..], payload);
        }
    }
}

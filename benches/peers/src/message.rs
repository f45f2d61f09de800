//! The messages: no two in flight are alike, and each piece that comes back is compared with the
//! one sent.

const LARGEST: usize = 4 << 20;
const PLACES: usize = 4096; // where in the noise a message may begin

/// Noise that every message is cut from, after a stamp of 16 bytes: the tunnel's number and the
/// message's.
pub struct Messages {
    noise: Vec<u8>,
    random: u64,
}

#[derive(Clone, Copy)]
pub struct Message {
    pub tunnel: u64,
    pub serial: u64,
    pub size: usize,
}

impl Messages {
    pub fn new() -> Self {
        let mut messages = Self { noise: Vec::new(), random: 0x9e37_79b9_7f4a_7c15 };
        messages.noise =
            (0..(LARGEST + PLACES) / 8).flat_map(|_| messages.next().to_ne_bytes()).collect();
        messages
    }

    pub fn mask(&mut self) -> [u8; 4] {
        (self.next() as u32).to_ne_bytes()
    }

    /// xorshift64: a benchmark's masks need not be secret.
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    pub fn append(&self, message: Message, out: &mut Vec<u8>) {
        let (stamp, noise) = self.parts(message);
        out.extend_from_slice(&stamp[..message.size.min(16)]);
        out.extend_from_slice(noise);
    }

    /// Returns whether `piece` equals the message from `offset` on.
    pub fn matches(&self, message: Message, offset: usize, piece: &[u8]) -> bool {
        if offset + piece.len() > message.size {
            return false;
        }
        let (stamp, noise) = self.parts(message);
        let head = piece.len().min(16usize.saturating_sub(offset));
        let (first, rest) = piece.split_at(head);
        first == &stamp[offset.min(16)..][..head]
            && rest == &noise[(offset + head).saturating_sub(16)..][..rest.len()]
    }

    fn parts(&self, message: Message) -> ([u8; 16], &[u8]) {
        let mut stamp = [0; 16];
        stamp[..8].copy_from_slice(&message.tunnel.to_be_bytes());
        stamp[8..].copy_from_slice(&message.serial.to_be_bytes());
        let place =
            (message.tunnel.wrapping_mul(31) + message.serial.wrapping_mul(7)) as usize % PLACES;
        (stamp, &self.noise[place..][..message.size.saturating_sub(16)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_itself_in_any_pieces_and_another_is_not() {
        let messages = Messages::new();
        for size in [1, 15, 16, 17, 64, 1000] {
            let (message, mut bytes) = (Message { tunnel: 7, serial: 9, size }, Vec::new());
            messages.append(message, &mut bytes);
            assert_eq!(bytes.len(), size);
            for cut in 0..=size {
                assert!(
                    messages.matches(message, 0, &bytes[..cut])
                        && messages.matches(message, cut, &bytes[cut..])
                );
            }
            bytes[size - 1] ^= 1;
            assert!(!messages.matches(message, 0, &bytes), "one bit differs");
            assert!(!messages.matches(message, 1, &[0; 1000][..size]), "it is longer");
        }
    }
}

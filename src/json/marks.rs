//! Where strings of JSON can end, found for 64 bytes of a text at a time: most strings are much shorter, and a loop for each
//! of them would cost more.

/// The number of bytes that are examined at a time: one bit of a number for each.
const BLOCK_BYTES: usize = 64;

/// The marks of one block of a text: its quotes, backslashes and control characters.
#[derive(Debug)]
pub(super) struct Marks {
    /// The number of the block.
    block: usize,
    /// The lowest bit is that of the first byte.
    bits: u64,
}

impl Default for Marks {
    fn default() -> Self {
        Self { block: usize::MAX, bits: 0 } // no block has this number
    }
}

impl Marks {
    /// Returns the position of the first mark at or after `at`, or else the length of the text. Every call is about the
    /// same text.
    pub(super) fn next(&mut self, text: &[u8], at: usize) -> usize {
        if at / BLOCK_BYTES != self.block {
            self.read(text, at / BLOCK_BYTES);
        }
        match self.bits >> (at % BLOCK_BYTES) {
            0 => self.next_in_later_block(text),
            bits => at + bits.trailing_zeros() as usize,
        }
    }

    fn next_in_later_block(&mut self, text: &[u8]) -> usize {
        loop {
            let start = (self.block + 1) * BLOCK_BYTES;
            if start >= text.len() {
                return text.len();
            }
            self.read(text, self.block + 1);
            if self.bits != 0 {
                return start + self.bits.trailing_zeros() as usize;
            }
        }
    }

    fn read(&mut self, text: &[u8], block: usize) {
        let rest = &text[block * BLOCK_BYTES..];
        self.block = block;
        self.bits = match rest.first_chunk() {
            Some(bytes) => marks_of(bytes),
            None => {
                let mut bytes = [b' '; BLOCK_BYTES];
                bytes[..rest.len()].copy_from_slice(rest);
                marks_of(&bytes)
            }
        };
    }
}

/// Returns the marks of a block. The compiler turns the loop into instructions for sixteen or more bytes.
fn marks_of(bytes: &[u8; BLOCK_BYTES]) -> u64 {
    let mut flags = [0; BLOCK_BYTES];
    for (flag, &byte) in flags.iter_mut().zip(bytes) {
        *flag = u8::from((byte == b'"') | (byte == b'\\') | (byte < b' '));
    }
    let (words, _) = flags.as_chunks::<8>();
    words.iter().rev().fold(0, |bits, &flags| bits << 8 | low_bits(u64::from_le_bytes(flags)))
}

/// Returns the lowest bit of each byte. No other bit of the bytes is set.
fn low_bits(bytes: u64) -> u64 {
    // Each factor moves the bit of one byte to the highest byte, to its own place there; no two bits meet.
    bytes.wrapping_mul(0x0102_0408_1020_4080) >> 56
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_mark(byte: u8) -> bool {
        matches!(byte, b'"' | b'\\' | 0..=0x1f)
    }

    #[test]
    fn marks_each_kind_of_byte_at_each_position() {
        for byte in 0..=u8::MAX {
            for place in 0..BLOCK_BYTES {
                let mut bytes = [b'a'; BLOCK_BYTES];
                bytes[place] = byte;
                assert_eq!(marks_of(&bytes), u64::from(is_mark(byte)) << place, "{byte} at {place}");
            }
        }
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn finds_the_next_mark_from_any_position(text in "[a-c\"\\\\\n]{0,4}[a-d]{0,200}[\"ü\u{1}a]{0,200}") {
            let text = text.as_bytes();
            let mut marks = Marks::default();
            for at in (0..=text.len()).chain((0..=text.len()).rev()) {
                let plain = text[at..].iter().take_while(|&&byte| !is_mark(byte)).count();
                prop_assert_eq!(marks.next(text, at), at + plain);
            }
        }
    }
}

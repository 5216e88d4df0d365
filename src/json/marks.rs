//! Where strings of JSON can end, found for 64 bytes of a text at a time: most strings are much shorter, and a loop for each
//! of them would cost more.

use wide::u8x64;

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
    #[inline]
    pub(super) fn next(&mut self, text: &[u8], at: usize) -> usize {
        let bits = if at / BLOCK_BYTES == self.block { self.bits >> (at % BLOCK_BYTES) } else { 0 };
        if bits == 0 { self.search(text, at) } else { at + bits.trailing_zeros() as usize }
    }

    /// Does the same if the block that was read last has no mark at or after `at`.
    #[inline(never)]
    fn search(&mut self, text: &[u8], at: usize) -> usize {
        let (mut block, mut place) = (at / BLOCK_BYTES, at % BLOCK_BYTES);
        if block == self.block {
            (block, place) = (block + 1, 0);
        }
        while let Some(rest) = text.get(block * BLOCK_BYTES..) {
            self.bits = rest.first_chunk().map_or_else(|| marks_of_end(rest), marks_of);
            self.block = block;
            let bits = self.bits >> place;
            if bits != 0 {
                return block * BLOCK_BYTES + place + bits.trailing_zeros() as usize;
            }
            (block, place) = (block + 1, 0);
        }
        text.len()
    }
}

/// Returns the marks of less than a block.
#[cold]
fn marks_of_end(rest: &[u8]) -> u64 {
    let mut bytes = [b' '; BLOCK_BYTES];
    bytes[..rest.len()].copy_from_slice(rest);
    marks_of(&bytes)
}

/// Returns the marks of a block.
#[inline]
fn marks_of(bytes: &[u8; BLOCK_BYTES]) -> u64 {
    let bytes = u8x64::from(*bytes);
    let equal = |byte| bytes.simd_eq(u8x64::splat(byte));
    let controls = bytes.simd_le(u8x64::splat(b' ' - 1));
    (equal(b'"') | equal(b'\\') | controls).to_bitmask()
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

//! Compressed bodies.

use std::io::{Read, Write};

use flate2::{Compress, Compression, Crc, FlushCompress, read::GzDecoder, write::GzEncoder};

/// Compresses a body, fast.
pub(crate) fn compress(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("writing to memory cannot fail")
}

/// Decompresses what [`compress`] returned.
pub(crate) fn decompress(body: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    GzDecoder::new(body).read_to_end(&mut text).expect("a gzip stream of the simulator");
    text
}

/// Returns a gzip stream of about 1/1000 of the size of its content: an empty JSON array with this number of MiB of blanks.
pub(crate) fn bomb(mebibytes: usize) -> Vec<u8> {
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let blanks = vec![b' '; 1 << 20];
    let (opening, block, closing) = (deflated(b"["), deflated(&blanks), deflated(b"]"));
    let (crc_of_block, crc_of_closing) = (crc(&blanks), crc(b"]"));
    let mut checksum = crc(b"[");
    let mut stream = HEADER.to_vec();
    stream.extend(opening);
    for _ in 0..mebibytes {
        stream.extend(&block);
        checksum.combine(&crc_of_block);
    }
    stream.extend(closing);
    checksum.combine(&crc_of_closing);
    stream.extend([3, 0]); // the last block, empty
    stream.extend(checksum.sum().to_le_bytes());
    stream.extend(checksum.amount().to_le_bytes());
    stream
}

/// Returns deflate blocks that end at a whole byte and refer to nothing before them, so that they can be concatenated.
fn deflated(text: &[u8]) -> Vec<u8> {
    let mut blocks = Vec::with_capacity(text.len() + 64);
    Compress::new(Compression::best(), false)
        .compress_vec(text, &mut blocks, FlushCompress::Full)
        .expect("writing to memory cannot fail");
    blocks
}

fn crc(text: &[u8]) -> Crc {
    let mut crc = Crc::new();
    crc.update(text);
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bomb_is_small_and_decompresses_to_valid_json() {
        let bomb = bomb(3);
        assert!(bomb.len() < 8192, "{}", bomb.len());
        let text = decompress(&bomb);
        assert_eq!(text.len(), 3 * (1 << 20) + 2);
        assert_eq!(text.trim_ascii().len(), text.len());
        assert_eq!(serde_json::from_slice::<Vec<u8>>(&text).unwrap(), Vec::<u8>::new());
    }
}

//! Decompression of response bodies.
//!
//! ureq's own decompression is not used: it accepts one spelling of one coding, and loses a body that it cannot
//! decompress. Coding names are case-insensitive, `x-gzip` means `gzip`, and several can be listed.
//!
//! Source: RFC 9110, sections 8.4 and 8.4.1.3.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ureq::http::HeaderMap;

use super::error::NetworkError;

/// The value of `Accept-Encoding`.
pub const ACCEPTED: &str = "gzip";

/// A body with more codings than this is rejected.
const CODINGS_MAX: usize = 4;

/// Returns a reader of the body as it was before it was encoded.
///
/// # Errors
///
/// The body has a coding that was not requested.
pub fn reader<'a>(headers: &HeaderMap, body: impl Read + 'a) -> Result<Box<dyn Read + 'a>, NetworkError> {
    let gzips = codings(headers)?;
    let mut reader: Box<dyn Read + 'a> = Box::new(body);
    for _ in 0..gzips {
        reader = Box::new(Decoder { unread: Some(BufReader::new(reader)), decoded: Box::new(io::empty()) });
    }
    Ok(reader)
}

/// Returns whether the headers name a coding, known or not.
pub fn is_encoded(headers: &HeaderMap) -> bool {
    codings(headers) != Ok(0)
}

/// Returns the number of times that the body is compressed.
fn codings(headers: &HeaderMap) -> Result<usize, NetworkError> {
    let mut gzips = 0;
    for value in headers.get_all("content-encoding") {
        for coding in value.to_str().unwrap_or("?").split(',').map(str::trim) {
            match coding.to_ascii_lowercase().as_str() {
                "" | "identity" => {}
                "gzip" | "x-gzip" if gzips < CODINGS_MAX => gzips += 1,
                _ => return Err(NetworkError::Malformed("compressed with a method that was not requested")),
            }
        }
    }
    Ok(gzips)
}

/// An error returned when a body that should be gzip is not.
#[derive(Debug, thiserror::Error)]
#[error("not the gzip data that its header declares")]
pub(super) struct NotGzip;

/// A reader of a body that its headers declare as compressed. A body that begins like JSON or HTML, or is empty, is read
/// without decompression: gateways were seen to decompress a body and keep its headers.
struct Decoder<'a> {
    /// The body, until its first byte has arrived.
    unread: Option<BufReader<Box<dyn Read + 'a>>>,
    /// Empty until then.
    decoded: Box<dyn Read + 'a>,
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(mut body) = self.unread.take() {
            match body.fill_buf().map(|bytes| bytes.first().is_none_or(|&byte| can_begin_text(byte))) {
                Ok(true) => self.decoded = Box::new(body),
                Ok(false) => self.decoded = Box::new(Gzip(MultiGzDecoder::new(body))),
                Err(error) => {
                    self.unread = Some(body);
                    return Err(error);
                }
            }
        }
        self.decoded.read(buffer)
    }
}

/// A decompressing reader that returns [`NotGzip`] for broken data.
struct Gzip<R>(MultiGzDecoder<R>);

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer);
        read.map_err(|error| if is_of_decoder(&error) { io::Error::other(NotGzip) } else { error })
    }
}

/// Returns whether JSON or HTML, with or without a byte order mark, can begin with this byte. Gzip begins with 0x1f.
fn can_begin_text(byte: u8) -> bool {
    matches!(byte, b'[' | b'{' | b'<' | b' ' | b'\t' | b'\r' | b'\n' | 0xef)
}

/// Returns whether an error concerns the compressed data and not the connection.
fn is_of_decoder(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
        && error.get_ref().is_none_or(|inner| !inner.is::<ureq::Error>() && !inner.is::<rustls::Error>())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("content-encoding", value.parse().expect("a header's value"));
        }
        headers
    }

    fn compressed(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    }

    /// Returns what can be read of a body, and the error that ends it.
    fn read(codings: &[&str], body: &[u8]) -> (Vec<u8>, Option<String>) {
        let mut text = Vec::new();
        let mut reader = reader(&headers(codings), body).expect("a known coding");
        let error = reader.read_to_end(&mut text).err();
        (text, error.map(|error| error.to_string()))
    }

    #[test]
    fn counts_gzip_codings() {
        for (values, expected) in [
            (&[][..], Ok(0)),
            (&["identity"], Ok(0)),
            (&["GZIP"], Ok(1)),
            (&["x-gzip"], Ok(1)),
            (&["X-Gzip , Identity,"], Ok(1)),
            (&["gzip, gzip"], Ok(2)),
            (&["gzip", "Gzip"], Ok(2)),
            (&["br"], Err(())),
            (&["gzip,gzip,gzip,gzip,gzip"], Err(())),
        ] {
            assert_eq!(codings(&headers(values)).map_err(drop), expected, "{values:?}");
        }
    }

    #[test]
    fn decompresses_each_coding_and_member() {
        let text = b"[{\"Id\":1}]".repeat(10_000);
        assert_eq!(read(&[], &text), (text.clone(), None));
        assert_eq!(read(&["gzip"], &compressed(&text)), (text.clone(), None));
        assert_eq!(read(&["gzip, gzip"], &compressed(&compressed(&text))), (text.clone(), None));
        let two_members = [compressed(&text[..100]), compressed(&text[100..])].concat();
        assert_eq!(read(&["gzip"], &two_members), (text, None));
    }

    #[test]
    fn reads_text_that_is_declared_as_gzip() {
        for text in ["", "[{}]", "{\"error\":{}}", "\u{feff}[]", "\r\n <html>", "<!DOCTYPE html>"] {
            assert_eq!(read(&["gzip"], text.as_bytes()), (text.as_bytes().to_vec(), None));
        }
    }

    #[test]
    fn returns_the_data_before_an_error() {
        let text = b"[{\"Id\":1}]".repeat(10_000);
        let mut wrong_checksum = compressed(&text);
        let place = wrong_checksum.len() - 8;
        wrong_checksum[place] ^= 1;
        let error = Some(NotGzip.to_string());
        assert_eq!(read(&["gzip"], &wrong_checksum), (text, error.clone()));
        assert_eq!(read(&["gzip"], b"\x1f\x8bnothing of gzip"), (Vec::new(), error.clone()));
        assert_eq!(read(&["gzip"], b"nothing of gzip"), (Vec::new(), error));
    }
}

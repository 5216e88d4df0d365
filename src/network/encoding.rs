//! Compressed bodies: what ureq leaves compressed because it knows one spelling of one name.
//!
//! ureq decompresses a body whose `Content-Encoding` is exactly `gzip`, and removes the header then. Coding names are
//! case-insensitive, `x-gzip` means `gzip`, and several can be listed.
//!
//! Source: RFC 9110, sections 8.4 and 8.4.1.3.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use ureq::{Body, http::HeaderMap};

use super::error::NetworkError;

/// More codings than this on one body are not meant seriously.
const CODINGS_MAX: usize = 4;

/// The reader of a body as it was before it was encoded.
///
/// # Errors
///
/// The body has a coding that was not asked for.
pub fn reader(headers: &HeaderMap, body: Body) -> Result<Box<dyn Read>, NetworkError> {
    let gzips = codings(headers)?;
    let mut reader: Box<dyn Read> = Box::new(body.into_reader());
    for _ in 0..gzips {
        reader = Box::new(Decoder(MultiGzDecoder::new(reader)));
    }
    Ok(reader)
}

/// How many times the body is compressed.
fn codings(headers: &HeaderMap) -> Result<usize, NetworkError> {
    let mut gzips = 0;
    for value in headers.get_all("content-encoding") {
        for coding in value.to_str().unwrap_or("?").split(',').map(str::trim) {
            match coding.to_ascii_lowercase().as_str() {
                "" | "identity" => {}
                "gzip" | "x-gzip" if gzips < CODINGS_MAX => gzips += 1,
                _ => return Err(NetworkError::Malformed("compressed in a way that was not asked for")),
            }
        }
    }
    Ok(gzips)
}

/// Reports broken data as ureq's own decoder does.
struct Decoder<R>(MultiGzDecoder<R>);

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
                if error.get_ref().is_none_or(is_not_ureqs) =>
            {
                ureq::Error::Decompress("gzip", error).into_io()
            }
            _ => error,
        })
    }
}

fn is_not_ureqs(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    !error.is::<ureq::Error>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coding_is_known_by_every_name() {
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
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("content-encoding", value.parse().expect("a header's value"));
            }
            assert_eq!(codings(&headers).map_err(drop), expected, "{values:?}");
        }
    }
}

//! The blobs of a page, in a compact form.

use std::io::Read as _;

use jiff::Timestamp;

use crate::{
    chunks::{ChunkPool, Chunks},
    feed::ListedBlob,
};

/// The bytes of a blob's numbers: three lengths, and the seconds and nanoseconds of its creation time.
const NUMBERS_BYTES: usize = 4 + 4 + 4 + 8 + 4;

/// The blobs of a page. Each one becomes a [`ListedBlob`] when its turn comes, on the thread that keeps it.
#[derive(Debug)]
pub struct BlobList(Chunks);

impl BlobList {
    /// Returns an empty list.
    pub fn new(pool: &ChunkPool) -> Self {
        Self(pool.bytes())
    }

    /// Appends a blob. `reserve` is called with the number of bytes before they are allocated.
    pub fn push(&mut self, blob: &ListedBlob, reserve: &mut impl FnMut(usize)) {
        let texts = [&blob.content_id, &blob.content_uri, &blob.expiration];
        for text in texts {
            let length = u32::try_from(text.len()).expect("a text of a body is shorter than 4 GiB");
            self.0.append(&length.to_le_bytes(), reserve);
        }
        self.0.append(&blob.created.as_second().to_le_bytes(), reserve);
        self.0.append(&blob.created.subsec_nanosecond().to_le_bytes(), reserve);
        for text in texts {
            self.0.append(text.as_bytes(), reserve);
        }
    }

    /// Returns the blobs in their order.
    pub fn iter(&self) -> impl Iterator<Item = ListedBlob> {
        let mut reader = self.0.reader();
        let mut rest = self.0.len();
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let mut numbers = [0; NUMBERS_BYTES];
            reader.read_exact(&mut numbers).expect(WHOLE);
            let length_at =
                |at: usize| u32::from_le_bytes(numbers[at..at + 4].try_into().expect("four bytes")) as usize;
            let seconds = i64::from_le_bytes(numbers[12..20].try_into().expect("eight bytes"));
            let nanoseconds = i32::from_le_bytes(numbers[20..].try_into().expect("four bytes"));
            rest -= NUMBERS_BYTES;
            let mut text = |length: usize| {
                let mut text = vec![0; length];
                reader.read_exact(&mut text).expect(WHOLE);
                rest -= length;
                String::from_utf8(text).expect(WHOLE)
            };
            Some(ListedBlob {
                content_id: text(length_at(0)),
                content_uri: text(length_at(4)),
                expiration: text(length_at(8)),
                created: Timestamp::new(seconds, nanoseconds).expect(WHOLE),
            })
        })
    }
}

/// What is read was written by [`BlobList::push`].
const WHOLE: &str = "a list contains whole blobs";

#[cfg(test)]
impl FromIterator<ListedBlob> for BlobList {
    fn from_iter<Blobs: IntoIterator<Item = ListedBlob>>(blobs: Blobs) -> Self {
        let mut list = Self::new(&ChunkPool::default());
        for blob in blobs {
            list.push(&blob, &mut |_| ());
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::CHUNK_BYTES;

    #[test]
    fn round_trips_listed_blobs() {
        let created = ["2026-11-28T06:25:00Z", "1969-12-31T23:59:59.25Z", "2026-11-28T06:25:00.123456789Z"];
        let blobs: Vec<_> = (0..1_000)
            .map(|number| ListedBlob {
                content_id: format!("é{number}$audit"),
                content_uri: "u".repeat(number * 7 % (CHUNK_BYTES / 3)),
                created: created[number % 3].parse().expect("a time"),
                expiration: if number % 2 == 0 { String::new() } else { "9999-12-31".to_owned() },
            })
            .collect();
        let list: BlobList = blobs.iter().cloned().collect();
        assert!(list.iter().eq(blobs));
    }
}

//! Bytes in chunks of one size, which are used again.
//!
//! A listing is read on one thread and processed on another. An allocator that keeps memory by thread, as glibc's does,
//! then keeps the memory of a large listing for each thread that ever read one. Chunks of one size that return to a pool
//! serve every thread instead, and their number is that of the largest listings at one time.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use crate::limits::CHUNK_BYTES;

/// Chunks that are not in use. A clone is the same pool.
#[derive(Clone, Debug, Default)]
pub struct ChunkPool(Arc<Mutex<Vec<Box<[u8]>>>>);

impl ChunkPool {
    /// Returns no bytes yet. Their chunks come from this pool, and return to it when the bytes are dropped.
    pub fn bytes(&self) -> Chunks {
        Chunks { pool: self.clone(), list: Vec::new(), length: 0 }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<Box<[u8]>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)) // a list of chunks is consistent after a panic
    }
}

/// Bytes in chunks of [`CHUNK_BYTES`].
pub struct Chunks {
    pool: ChunkPool,
    list: Vec<Box<[u8]>>,
    length: usize,
}

impl Chunks {
    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns the bytes of the first chunk.
    pub fn first(&self) -> &[u8] {
        self.parts().next().unwrap_or_default()
    }

    /// Returns the bytes of each chunk.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let length_of = |number: usize| (self.length - number * CHUNK_BYTES).min(CHUNK_BYTES);
        self.list.iter().enumerate().map(move |(number, chunk)| &chunk[..length_of(number)])
    }

    /// Returns a reader of the bytes.
    pub fn reader(&self) -> ChunkReader<'_> {
        ChunkReader { bytes: self, position: 0 }
    }

    /// Appends what `read` writes to the start of the slice that it gets. `reserve` is called with the size of each chunk
    /// before it is used.
    ///
    /// # Errors
    ///
    /// Those of `read`.
    pub fn fill<Error>(
        &mut self,
        reserve: &mut impl FnMut(usize),
        read: impl FnOnce(&mut [u8]) -> Result<usize, Error>,
    ) -> Result<usize, Error> {
        let used = self.length % CHUNK_BYTES;
        if self.length == self.list.len() * CHUNK_BYTES {
            reserve(CHUNK_BYTES);
            let chunk = self.pool.with(Vec::pop);
            self.list.push(chunk.unwrap_or_else(|| vec![0; CHUNK_BYTES].into_boxed_slice()));
        }
        let Some(chunk) = self.list.last_mut() else { return Ok(0) };
        let filled = read(&mut chunk[used..])?;
        assert!(filled <= CHUNK_BYTES - used, "a reader reports no more bytes than it was given room for");
        self.length += filled;
        Ok(filled)
    }

    /// Appends bytes. `reserve` is called with the size of each chunk before it is used.
    pub fn append(&mut self, mut bytes: &[u8], reserve: &mut impl FnMut(usize)) {
        while !bytes.is_empty() {
            let copied = self.fill(reserve, |into| {
                let length = into.len().min(bytes.len());
                into[..length].copy_from_slice(&bytes[..length]);
                Ok::<_, std::convert::Infallible>(length)
            });
            let Ok(copied) = copied;
            bytes = &bytes[copied..];
        }
    }
}

impl fmt::Debug for Chunks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Chunks").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.pool.with(|free| free.append(&mut self.list));
    }
}

/// A reader of [`Chunks`].
pub struct ChunkReader<'a> {
    bytes: &'a Chunks,
    position: usize,
}

impl io::Read for ChunkReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (number, start) = (self.position / CHUNK_BYTES, self.position % CHUNK_BYTES);
        let rest = (self.bytes.length - self.position).min(CHUNK_BYTES - start).min(buffer.len());
        if rest > 0 {
            buffer[..rest].copy_from_slice(&self.bytes.list[number][start..start + rest]);
        }
        self.position += rest;
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn round_trips_bytes_of_any_length() {
        let pool = ChunkPool::default();
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let text: Vec<u8> = (0..length).map(|number| number.to_le_bytes()[0]).collect();
            let (mut bytes, mut reserved) = (pool.bytes(), 0);
            for part in text.chunks(1_000) {
                bytes.append(part, &mut |bytes| reserved += bytes);
            }
            let mut read = Vec::new();
            bytes.reader().read_to_end(&mut read).expect("bytes in memory");
            assert!(
                read == text && bytes.len() == length && bytes.parts().collect::<Vec<_>>().concat() == text
            );
            assert_eq!(reserved, length.next_multiple_of(CHUNK_BYTES));
        }
    }

    #[test]
    fn reuses_chunks() {
        let pool = ChunkPool::default();
        for _ in 0..3 {
            pool.bytes().append(&vec![1; 2 * CHUNK_BYTES], &mut |_| ());
        }
        assert_eq!(pool.with(|free| free.len()), 2);
    }
}

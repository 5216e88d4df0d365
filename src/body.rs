//! The body of an answer, in a buffer that can be used again: memory that was taken from the system and cleared once
//! serves any number of bodies, one after the other.

/// A buffer, and how much of it is the body.
#[derive(Debug, Default)]
pub struct Body {
    /// All of it may be written to.
    buffer: Vec<u8>,
    length: usize,
}

impl Body {
    /// An empty body. What is in the buffer does not matter; what is behind its length is not used.
    pub fn new(buffer: Vec<u8>) -> Self {
        Self { buffer, length: 0 }
    }

    /// The body.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// The body, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.length]
    }

    /// How long it is.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How long it can get without more memory.
    pub fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Adds this many bytes of memory to the buffer.
    pub fn grow(&mut self, bytes: usize) {
        if self.buffer.is_empty() {
            // The system clears a page when it is first written to: a short body then costs one page, not all of them.
            self.buffer = vec![0; bytes];
        } else {
            self.buffer.reserve_exact(bytes);
            self.buffer.resize(self.buffer.len() + bytes, 0);
        }
    }

    /// Lengthens the body by as much as `read` writes at the start of what it is given, which is the rest of the
    /// buffer.
    pub fn fill<Error>(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> Result<usize, Error>,
    ) -> Result<usize, Error> {
        let filled = read(&mut self.buffer[self.length..])?;
        self.length += filled;
        assert!(self.length <= self.buffer.len(), "nobody writes beyond a buffer");
        Ok(filled)
    }

    /// The buffer, for another body.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

impl From<Vec<u8>> for Body {
    fn from(buffer: Vec<u8>) -> Self {
        Self { length: buffer.len(), buffer }
    }
}
